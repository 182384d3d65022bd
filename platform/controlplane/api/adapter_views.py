"""LoRA adapters of an endpoint that runs: loaded, unloaded, listed."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.pagination import envelope
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access, adapters
from controlplane.endpoints.adapters import Adapter
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.states import LIVE
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound


class OnReplicaView(serializers.Serializer[Any]):
    replica = serializers.CharField()
    state = serializers.CharField(help_text="loaded, loading, failed")
    reason = serializers.CharField()
    detail = serializers.CharField()


class AdapterView(serializers.Serializer[Any]):
    object = serializers.CharField(default="adapter", read_only=True)
    name = serializers.CharField()
    path = serializers.CharField()
    revision = serializers.CharField()
    status = serializers.CharField(help_text="loaded, loading, failed, waiting")
    reason = serializers.CharField()
    message = serializers.CharField()
    replicas = OnReplicaView(many=True)


class AdapterBody(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=64)
    path = serializers.CharField(
        max_length=300, help_text="A hub id, or an absolute path on the nodes of a pool of yours."
    )
    revision = serializers.CharField(default="", allow_blank=True, max_length=64)


def shown(endpoint: Endpoint) -> list[Adapter]:
    """How each is; a query only for an endpoint with any."""
    if not endpoint.adapters:
        return []
    live = endpoint.replicas.filter(state__in=LIVE).defer("log_tail", "engine_report")
    return adapters.states(endpoint, list(live))


class Adapters(HouseViewSet):
    """Below an endpoint; an adapter is named, since `endpoint:name` is what requests call it."""

    serializer_class = AdapterView
    queryset = Endpoint.objects.none()

    @extend_schema(operation_id="endpoints_adapters_list", responses=AdapterView(many=True))
    def list(self, request: Request, pk: str) -> Response:
        endpoint = access.endpoint(self.principal, pk, Permission.READ)
        data = AdapterView(shown(endpoint), many=True).data
        return Response(envelope(data, (), has_more=False))

    @extend_schema(
        operation_id="endpoints_adapters_load",
        request=AdapterBody,
        responses={201: AdapterView},
    )
    @idempotent
    def create(self, request: Request, pk: str) -> Response:
        """Load one, or another in the place of one of the same name."""
        endpoint = access.endpoint(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        body = self.checked(request, AdapterBody)
        loaded = adapters.load(actor=self.principal.actor, endpoint=endpoint, now=self.now, **body)
        return Response(AdapterView(_named(loaded, body["name"])).data, status.HTTP_201_CREATED)

    @extend_schema(operation_id="endpoints_adapters_retrieve", responses=AdapterView)
    def retrieve(self, request: Request, pk: str, name: str) -> Response:
        endpoint = access.endpoint(self.principal, pk, Permission.READ)
        return Response(AdapterView(_named(endpoint, name)).data)

    @extend_schema(operation_id="endpoints_adapters_unload", responses={204: None})
    def destroy(self, request: Request, pk: str, name: str) -> Response:
        endpoint = access.endpoint(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        adapters.unload(actor=self.principal.actor, endpoint=endpoint, name=name, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)


def _named(endpoint: Endpoint, name: str) -> Adapter:
    found = next((one for one in shown(endpoint) if one.name == name), None)
    if found is None:
        raise NotFound("adapter")
    return found
