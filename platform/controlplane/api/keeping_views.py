"""Maintenance of nodes, and how nodes and devices leave the fleet, for the operator."""

from typing import Any

from django.http import HttpResponse, JsonResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import decommission_record, decommissioning, maintenance
from controlplane.fleet import replacing
from controlplane.fleet.models import Decommission, Device, Maintenance, Node
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class MaintenanceView(serializers.ModelSerializer[Maintenance]):
    object = serializers.CharField(default="maintenance", read_only=True)
    node = serializers.CharField(source="node_id")

    class Meta:
        model = Maintenance
        fields = (
            *("id", "object", "node", "state", "starts_at", "ends_at", "message", "take_back"),
            *("told", "result", "created_at", "started_at", "ended_at"),
        )


class MaintenanceBody(serializers.Serializer[Any]):
    node = serializers.CharField()
    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()
    message = serializers.CharField(
        default="", allow_blank=True, max_length=500, help_text="To the tenants that it concerns."
    )
    take_back = serializers.BooleanField(default=True, help_text="At the end, if it is well.")


class DecommissionView(serializers.ModelSerializer[Decommission]):
    object = serializers.CharField(default="decommission", read_only=True)
    node = serializers.CharField(source="node_id")
    device = serializers.IntegerField(source="device.index", default=None)

    class Meta:
        model = Decommission
        fields = (
            *("id", "object", "node", "device", "state", "reason", "unconfirmed", "was"),
            *("successor", "moved", "requested_at", "drained_at", "erased", "erased_at"),
            *("credential_erased_at", "revoked_at", "closed_at", "signed_at"),
        )


class DecommissionBody(serializers.Serializer[Any]):
    node = serializers.CharField()
    device = serializers.IntegerField(
        default=None, allow_null=True, help_text="Its index: replace that device alone."
    )
    reason = serializers.CharField(max_length=500)
    unconfirmed = serializers.BooleanField(
        default=False, help_text="The node will never answer again: wait for nothing that it says."
    )


class Maintenances(HouseViewSet):
    serializer_class = MaintenanceView
    queryset = Maintenance.objects.none()

    @extend_schema(responses=MaintenanceView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        return self.page(Maintenance.objects.all(), MaintenanceView)

    @extend_schema(responses=MaintenanceView)
    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(MaintenanceView(self._found(pk)).data)

    @extend_schema(request=MaintenanceBody, responses={201: MaintenanceView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, MaintenanceBody)
        made = maintenance.plan(
            **(body | {"node": node_named(body["node"])}),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(MaintenanceView(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=MaintenanceView)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        row = maintenance.cancel(
            maintenance=self._found(pk), actor=self.principal.actor, now=self.now
        )
        return Response(MaintenanceView(row).data)

    def _found(self, pk: str) -> Maintenance:
        access.operator(self.principal)
        found = Maintenance.objects.filter(pk=pk).first()
        if found is None:
            raise NotFound("maintenance")
        return found


class Decommissions(HouseViewSet):
    serializer_class = DecommissionView
    queryset = Decommission.objects.none()

    @extend_schema(responses=DecommissionView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        return self.page(Decommission.objects.select_related("device"), DecommissionView)

    @extend_schema(responses=DecommissionView)
    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(DecommissionView(self._found(pk)).data)

    @extend_schema(request=DecommissionBody, responses={201: DecommissionView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, DecommissionBody)
        row = begin(
            node_named(body["node"]),
            device=body["device"],
            reason=body["reason"],
            unconfirmed=body["unconfirmed"],
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(DecommissionView(row).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=DecommissionView)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        row = decommissioning.cancel(
            decommission=self._found(pk), actor=self.principal.actor, now=self.now
        )
        return Response(DecommissionView(row).data)

    @extend_schema(
        responses={200: OpenApiTypes.OBJECT},
        description="The signed record, once it is done: `python -m controlplane.fleet.records`"
        " verifies it with the region's `record_public_key`.",
    )
    @action(detail=True, methods=["get"])
    def record(self, request: Request, pk: str) -> HttpResponse:
        return download(self._found(pk))

    def _found(self, pk: str) -> Decommission:
        access.operator(self.principal)
        rows = Decommission.objects.select_related("device", "node__pool__region")
        found = rows.filter(pk=pk).first()
        if found is None:
            raise NotFound("decommission")
        return found


def begin(
    node: Node, *, device: int | None, reason: str, unconfirmed: bool, actor: Any, now: Any
) -> Decommission:
    """Of the node, or of one device of it alone."""
    if device is None:
        return decommissioning.begin(
            node=node, reason=reason, unconfirmed=unconfirmed, actor=actor, now=now
        )
    found = Device.objects.filter(node=node, index=device).first()
    if found is None:
        raise NotFound("device", field="device")
    return replacing.begin(device=found, reason=reason, actor=actor, now=now)


def download(row: Decommission) -> HttpResponse:
    if row.record is None:
        raise NotFound("record")
    response = JsonResponse(decommission_record.document(row), json_dumps_params={"indent": 2})
    response["content-disposition"] = f'attachment; filename="{row.id}.json"'
    return response


def node_named(pk: str) -> Node:
    found = Node.objects.select_related("pool").filter(pk=pk).first()
    if found is None:
        raise NotFound("node", field="node")
    return found
