"""The audit log of an organization, and exports of it with its usage."""

import json
from datetime import datetime
from typing import Any

from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import audit, exports
from compliance.log import search
from compliance.models import AuditEvent, Export
from controlplane.api.audit_views import LOG, ORGANIZATION, log_of
from controlplane.api.idempotency import idempotent
from controlplane.api.sending import send
from controlplane.api.views import HouseViewSet
from controlplane.tenancy.errors import Conflict, Gone, Invalid, NotFound
from controlplane.tenancy.models import Organization


class AuditEventView(serializers.ModelSerializer[AuditEvent]):
    object = serializers.CharField(default="audit_event", read_only=True)
    body = serializers.SerializerMethodField()

    class Meta:
        model = AuditEvent
        fields = (
            "id",
            "object",
            "recorded_at",
            "action",
            "outcome",
            "actor_type",
            "actor_id",
            "target_type",
            "target_id",
            "region",
            "request_id",
            "body",
        )

    def get_body(self, event: AuditEvent) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(bytes(event.body))
        return body


class ExportView(serializers.ModelSerializer[Export]):
    object = serializers.CharField(default="export", read_only=True)
    organization = serializers.CharField(source="log_id")
    status = serializers.SerializerMethodField()
    expires_at = serializers.SerializerMethodField()

    class Meta:
        model = Export
        fields = (
            "id",
            "object",
            "organization",
            "kind",
            "profile",
            "about",
            "status",
            "reason",
            "requested_by",
            "period_start",
            "period_end",
            "created_at",
            "completed_at",
            "manifest_sha256",
            "size_bytes",
            "failure",
            "rows_done",
            "expires_at",
        )

    def get_expires_at(self, export: Export) -> datetime | None:
        return export.completed_at and export.completed_at + exports.KEPT

    def get_status(self, export: Export) -> str:
        """building | complete | expired | failed"""
        return exports.status(export, timezone.now())


class ExportBody(serializers.Serializer[Any]):
    organization = serializers.CharField(required=False)
    log = serializers.ChoiceField(choices=[audit.PLATFORM], required=False)
    kind = serializers.CharField(max_length=32, default=exports.KIND)
    about = serializers.CharField(max_length=64, default="", allow_blank=True)
    profile = serializers.ChoiceField(exports.PROFILES, default=exports.PROFILE)
    reason = serializers.CharField(max_length=200)
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()


class AuditEvents(HouseViewSet):
    serializer_class = AuditEventView
    queryset = AuditEvent.objects.none()

    @extend_schema(
        parameters=[
            ORGANIZATION,
            LOG,
            OpenApiParameter("action", str, description="`endpoint.*`: every one of the noun"),
            *(OpenApiParameter(name, str) for name in search.NAMES if name != "action"),
        ],
        responses=AuditEventView(many=True),
    )
    def list(self, request: Request) -> Response:
        log = log_of(self.principal, request.query_params)
        try:
            rows = search.find(log, request.query_params)
        except search.BadFilter as error:
            raise Invalid(str(error), field=error.field) from error
        page = self.page(rows, AuditEventView)
        if log == audit.PLATFORM:
            # What the operator looks through is the operator's act; members read their own log.
            audit.record(
                actor=self.principal.actor,
                action="log.read",
                target=audit.Target("log", log),
                log=log,
                now=self.now,
            )
        return page


class Exports(HouseViewSet):
    serializer_class = ExportView
    queryset = Export.objects.none()

    @extend_schema(parameters=[ORGANIZATION, LOG], responses=ExportView(many=True))
    def list(self, request: Request) -> Response:
        log = log_of(self.principal, request.query_params)
        return self.page(Export.objects.filter(log_id=log), ExportView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(ExportView(self._export(pk)).data)

    @extend_schema(request=ExportBody, responses={202: ExportView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, ExportBody)
        log = log_of(self.principal, body)
        home = Organization.objects.filter(id=log).values_list("region_code", flat=True)
        try:
            export = exports.request(
                actor=self.principal.actor,
                log=log,
                reason=body["reason"],
                start=body["period_start"],
                end=body["period_end"],
                now=self.now,
                region=home.first() or "",
                kind=body["kind"],
                profile=body["profile"],
                about=body["about"],
            )
        except exports.ExportError as error:
            raise Invalid(error.message, code=error.code, field=error.field) from error
        return Response(ExportView(export).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    @action(detail=True, methods=["get"])
    def file(self, request: Request, pk: str) -> HttpResponseBase:
        """In pieces, and from any byte on (`Range`)."""
        export = self._export(pk)
        try:
            path = exports.downloaded(actor=self.principal.actor, export=export, now=self.now)
        except exports.ExportError as error:
            over = error.code == "export_expired"
            raise (Gone if over else Conflict)(error.message, code=error.code) from error
        return send(request, path, name=f"{export.id}.zip", etag=export.manifest_sha256)

    def _export(self, pk: str) -> Export:
        export = Export.objects.filter(pk=pk).first()
        if export is None:
            raise NotFound("export")
        place = "log" if export.log_id == audit.PLATFORM else "organization"
        try:
            log_of(self.principal, {place: export.log_id})
        except NotFound:
            raise NotFound("export") from None
        return export
