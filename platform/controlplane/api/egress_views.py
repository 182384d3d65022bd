"""What an organization's containers may reach outside, and what they reached."""

from dataclasses import asdict
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.endpoints import egress
from controlplane.fleet import destinations
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization


class EgressBody(serializers.Serializer[Any]):
    """The whole list: what is not in it is not reached."""

    allow = serializers.ListField(
        child=serializers.CharField(max_length=destinations.MAX_LENGTH),
        max_length=2 * destinations.MAX,
        help_text="host:port or *.host:port",
    )


class ReachedView(serializers.Serializer[Any]):
    """`outcome`: reached, or why not: not_allowed, private, unresolved, unreachable, …"""

    endpoint = serializers.CharField()
    destination = serializers.CharField()
    outcome = serializers.CharField()
    connections = serializers.IntegerField()
    bytes_out = serializers.IntegerField()
    bytes_in = serializers.IntegerField()
    last_at = serializers.CharField()


class EgressView(serializers.Serializer[Any]):
    object = serializers.CharField(default="egress")
    organization = serializers.CharField()
    allow = serializers.ListField(child=serializers.CharField())
    reached = ReachedView(many=True, help_text="In the last 90 days, newest first.")


class Egress(HouseViewSet):
    """GET and PUT /organizations/ID/egress."""

    serializer_class = EgressView
    queryset = Organization.objects.none()

    @extend_schema(parameters=[OpenApiParameter("endpoint", str)], responses=EgressView)
    def retrieve(self, request: Request, pk: str) -> Response:
        found = access.organization(self.principal, pk, Permission.READ)
        return self._shown(found, request.query_params.get("endpoint", ""))

    @extend_schema(request=EgressBody, responses=EgressView)
    def update(self, request: Request, pk: str) -> Response:
        found = access.organization(self.principal, pk, Permission.MANAGE_PROJECTS)
        body = self.checked(request, EgressBody)
        changed = egress.allow(
            actor=self.principal.actor, organization=found, allowed=body["allow"], now=self.now
        )
        return self._shown(changed, "")

    def _shown(self, organization: Organization, endpoint: str) -> Response:
        rows = egress.reached(organization, now=self.now, endpoint_id=endpoint)
        reached = [{**asdict(one), "endpoint": one.endpoint_id} for one in rows]
        shown = {"organization": organization.id, "allow": organization.egress, "reached": reached}
        return Response(EgressView({"object": "egress", **shown}).data)
