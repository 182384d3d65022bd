"""Requests of data subjects with their clocks, and erasures from plan to certificate."""

import json
from typing import Any

from django.http import FileResponse, HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from compliance import exports
from compliance.erasure import executing, planning
from compliance.models import Erasure, SubjectRequest
from compliance.subject_requests import services
from controlplane.api.evidence_views import ExportView
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import data_requests
from controlplane.tenancy.errors import Conflict, Gone, NotFound

_WORDS: dict[str, Any] = {
    "max_length": services.MAX_WORDS,
    "required": False,
    "default": "",
    "allow_blank": True,
}


class RequestView(serializers.ModelSerializer[SubjectRequest]):
    object = serializers.CharField(default="subject_request", read_only=True)
    subject = serializers.CharField(source="subject_id")
    log = serializers.CharField(source="log_id", help_text="an organization's id, or platform")
    overdue = serializers.SerializerMethodField()

    class Meta:
        model = SubjectRequest
        fields = (
            *("id", "object", "type", "role", "subject", "log", "channel", "received_at"),
            *("identity", "verified_at", "due_on", "overdue", "extended_at", "extension_reason"),
            *("decision", "refusal_ground", "decided_at", "closed_at", "output"),
        )

    def get_overdue(self, request: SubjectRequest) -> bool:
        return request.overdue(timezone.now())


class RequestBody(serializers.Serializer[Any]):
    type = serializers.ChoiceField(services.TYPES)
    subject = serializers.CharField(max_length=31, required=False, default="")
    organization = serializers.CharField(max_length=31, required=False, default="")
    channel = serializers.ChoiceField(services.CHANNELS, required=False, default="console")
    received_at = serializers.DateTimeField(required=False, default=None)
    words = serializers.CharField(**_WORDS)


class VerifyBody(serializers.Serializer[Any]):
    confirmed = serializers.BooleanField()
    words = serializers.CharField(**_WORDS, help_text="by what")


class ExtendBody(serializers.Serializer[Any]):
    reason = serializers.ChoiceField(services.EXTENSIONS)
    words = serializers.CharField(max_length=services.MAX_WORDS, help_text="for whoever asked")


class DecideBody(serializers.Serializer[Any]):
    decision = serializers.ChoiceField(services.DECISIONS)
    ground = serializers.ChoiceField(tuple(services.GROUNDS), required=False, default="")
    words = serializers.CharField(**_WORDS)


class SubjectRequests(HouseViewSet):
    """The newest first. A request is opened for oneself unless `subject` or `organization` say
    whose it is."""

    serializer_class = RequestView
    queryset = SubjectRequest.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("open", bool, required=False)],
        responses=RequestView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = data_requests.visible(self.principal)
        if request.query_params.get("open", "").lower() in ("true", "1"):
            rows = rows.filter(closed_at=None)
        return self.page(rows, RequestView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(RequestView(data_requests.find(self.principal, pk)).data)

    @extend_schema(request=RequestBody, responses={201: RequestView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, RequestBody)
        made = data_requests.ask(self.principal, now=self.now, **body)
        return Response(RequestView(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=VerifyBody, responses=RequestView)
    @action(detail=True, methods=["post"])
    def verify(self, request: Request, pk: str) -> Response:
        found = data_requests.to_answer(self.principal, pk)
        body = self.checked(request, VerifyBody)
        actor = self.principal.actor
        return _said(services.verify(actor=actor, request=found, now=self.now, **body))

    @extend_schema(request=ExtendBody, responses=RequestView)
    @action(detail=True, methods=["post"])
    def extend(self, request: Request, pk: str) -> Response:
        found = data_requests.to_answer(self.principal, pk)
        body = self.checked(request, ExtendBody)
        actor = self.principal.actor
        return _said(services.extend(actor=actor, request=found, now=self.now, **body))

    @extend_schema(request=DecideBody, responses=RequestView)
    @action(detail=True, methods=["post"])
    def decide(self, request: Request, pk: str) -> Response:
        found = data_requests.to_answer(self.principal, pk)
        body = self.checked(request, DecideBody)
        actor = self.principal.actor
        return _said(services.decide(actor=actor, request=found, now=self.now, **body))

    @extend_schema(request=None, responses=RequestView)
    @action(detail=True, methods=["post"])
    def close(self, request: Request, pk: str) -> Response:
        found = data_requests.to_answer(self.principal, pk)
        return _said(services.close(actor=self.principal.actor, request=found, now=self.now))

    @extend_schema(request=None, responses={202: ExportView})
    @action(detail=True, methods=["post"])
    def export(self, request: Request, pk: str) -> Response:
        made = data_requests.export(self.principal, pk, self.now)
        return Response(ExportView(made).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses={(200, "application/zip"): OpenApiTypes.BINARY})
    @action(detail=True, methods=["get"])
    def file(self, request: Request, pk: str) -> FileResponse:
        export = data_requests.exported(self.principal, pk)
        try:
            path = exports.downloaded(actor=self.principal.actor, export=export, now=self.now)
        except exports.ExportError as error:
            over = error.code == "export_expired"
            raise (Gone if over else Conflict)(error.message, code=error.code) from error
        return FileResponse(path.open("rb"), as_attachment=True, filename=f"{export.id}.zip")


class ErasureView(serializers.ModelSerializer[Erasure]):
    object = serializers.CharField(default="erasure", read_only=True)
    subject = serializers.CharField(source="subject_id")
    request = serializers.CharField(source="request_id")
    steps = serializers.SerializerMethodField()

    class Meta:
        model = Erasure
        fields = (
            *("id", "object", "subject", "subject_kind", "request", "state", "plan_sha256"),
            *("planned_by", "planned_at", "approved_by", "approved_at", "began_at", "executed_at"),
            *("verified_at", "issued_at", "certificate_id", "findings", "failure", "steps"),
        )

    def get_steps(self, erasure: Erasure) -> list[dict[str, Any]]:
        """What each store would do, and `outcome`: what it did, null until then."""
        done = dict(erasure.steps.values_list("store", "outcome"))
        return [step | {"outcome": done.get(step["store"])} for step in erasure.plan["steps"]]


class ErasureBody(serializers.Serializer[Any]):
    subject = serializers.CharField(max_length=31, help_text="usr_… or org_…")
    request = serializers.CharField(max_length=31, required=False, default="")


class ApproveBody(serializers.Serializer[Any]):
    plan_sha256 = serializers.CharField(max_length=64)


class LookBody(serializers.Serializer[Any]):
    others = serializers.ListField(
        child=serializers.CharField(max_length=128),
        required=False,
        default=list,
        help_text="of the columns found, those where a value is somebody else's",
    )


class Erasures(HouseViewSet):
    """Planned by one person and approved by another; then a worker does it."""

    serializer_class = ErasureView
    queryset = Erasure.objects.none()

    @extend_schema(responses=ErasureView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(data_requests.erasures(self.principal), ErasureView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(ErasureView(data_requests.erasure(self.principal, pk)).data)

    @extend_schema(request=ErasureBody, responses={201: ErasureView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, ErasureBody)
        made = data_requests.plan_erasure(self.principal, now=self.now, **body)
        return Response(ErasureView(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=ApproveBody, responses=ErasureView)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: str) -> Response:
        found = data_requests.erasure(self.principal, pk)
        body = self.checked(request, ApproveBody)
        done = planning.approve(actor=self.principal.actor, erasure=found, now=self.now, **body)
        return Response(ErasureView(done).data)

    @extend_schema(request=LookBody, responses=ErasureView)
    @action(detail=True, methods=["post"])
    def verify(self, request: Request, pk: str) -> Response:
        """Look once more, where something was found and has been put right."""
        found = data_requests.erasure(self.principal, pk)
        body = self.checked(request, LookBody)
        done = executing.verify(actor=self.principal.actor, erasure=found, now=self.now, **body)
        return Response(ErasureView(done).data)

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT})
    @action(detail=True, methods=["get"])
    def certificate(self, request: Request, pk: str) -> HttpResponse:
        found = data_requests.erasure(self.principal, pk)
        if found.certificate is None:
            raise NotFound("certificate")
        said = {
            "certificate": json.loads(bytes(found.certificate)),
            "signature": found.signature,
        }
        return HttpResponse(json.dumps(said), content_type="application/json")


def _said(request: SubjectRequest) -> Response:
    return Response(RequestView(request).data)
