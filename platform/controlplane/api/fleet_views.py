"""Pools as a tenant sees them; regions, pools, nodes and enrolment tokens for the operator."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api import health_views
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import offers
from controlplane.fleet import findings, joining, placement_policy, revoking, services
from controlplane.fleet.models import Node, Pool, Region
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Organization


class DeviceOffer(serializers.Serializer[Any]):
    kind = serializers.CharField()
    total = serializers.IntegerField(help_text="Devices on nodes that take work.")
    free = serializers.IntegerField()
    most_on_a_node = serializers.IntegerField()
    memory_bytes = serializers.IntegerField(help_text="Of one device, the smallest.")


class PoolView(serializers.ModelSerializer[Pool]):
    object = serializers.CharField(default="pool", read_only=True)
    region = serializers.CharField(source="region_id")
    country = serializers.CharField(source="region.country")
    devices = serializers.SerializerMethodField()

    class Meta:
        model = Pool
        fields = (
            *("id", "object", "region", "country", "name", "keep_block", "share_devices"),
            *("devices", "created_at"),
        )

    @extend_schema_field(DeviceOffer(many=True))
    def get_devices(self, pool: Pool) -> list[dict[str, Any]]:
        return [asdict(offer) for offer in offers.devices([pool])]


_SHARE = "Whether replicas of one organization may share a device."


class PoolBody(serializers.Serializer[Any]):
    region = serializers.CharField()
    name = serializers.CharField()
    organization = serializers.CharField(default=None, allow_null=True)
    share_standby = serializers.BooleanField(default=False)
    keep_block = serializers.IntegerField(
        default=0,
        help_text="Of its aligned blocks of so many devices one stays free for replicas that need "
        "all of it: 0 (none), 2, 4 or 8.",
    )
    share_devices = serializers.BooleanField(default=False, help_text=_SHARE)


class PlacementPolicyBody(serializers.Serializer[Any]):
    """What is absent stays."""

    keep_block = serializers.IntegerField(required=False, help_text="0 (none), 2, 4 or 8.")
    share_devices = serializers.BooleanField(required=False, help_text=_SHARE)


class RegionView(serializers.ModelSerializer[Region]):
    object = serializers.CharField(default="region", read_only=True)

    class Meta:
        model = Region
        fields = (
            *("code", "object", "country", "name", "ca_certificate"),
            *("record_public_key", "created_at"),
        )


class RegionBody(serializers.Serializer[Any]):
    code = serializers.CharField()
    country = serializers.CharField()
    name = serializers.CharField()


class NodeView(serializers.ModelSerializer[Node]):
    object = serializers.CharField(default="node", read_only=True)
    pool = serializers.CharField(source="pool_id")
    region = serializers.CharField(source="pool.region_id")
    status = serializers.SerializerMethodField()
    conditions = serializers.SerializerMethodField()

    class Meta:
        model = Node
        fields = (
            "id",
            "object",
            "pool",
            "region",
            "name",
            "status",
            "conditions",
            "health_action",
            "health_reason",
            "heartbeat_at",
            "cordoned_at",
            "drain_requested_at",
            "removed_at",
            "certificate_expires_at",
            "agent_version",
            "inventory",
            "created_at",
        )

    def get_status(self, node: Node) -> str:
        """ready | cordoned | draining | unreachable | removed"""
        now = self.context["now"]
        if node.removed_at:
            return "removed"
        if not node.reachable(now):
            return "unreachable"
        if node.drain_requested_at:
            return "draining"
        return "cordoned" if node.cordoned_at else "ready"

    @extend_schema_field(health_views.ConditionView(many=True))
    def get_conditions(self, node: Node) -> list[dict[str, Any]]:
        found = self.context["findings"][node.id]
        return health_views.conditions(node, found, self.context["now"])


class TokenBody(serializers.Serializer[Any]):
    pool = serializers.CharField()
    node = serializers.CharField(default=None, allow_null=True)
    ttl_s = serializers.IntegerField(min_value=60, max_value=7 * 86_400, default=3600)


class TokenView(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField()
    secret = serializers.CharField(help_text="Shown this once.")
    expires_at = serializers.DateTimeField()
    url = serializers.CharField(help_text="Where the agents of nodes call.")
    pin = serializers.CharField(help_text="sha256:…, the region's authority that they trust.")
    command = serializers.CharField(help_text="What to run on the machine that joins.")


class Pools(HouseViewSet):
    serializer_class = PoolView
    queryset = Pool.objects.none()

    @extend_schema(responses=PoolView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(self._mine().select_related("region"), PoolView)

    @extend_schema(request=PoolBody, responses={201: PoolView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, PoolBody)
        region = Region.objects.filter(code=body["region"]).first()
        owner = Organization.objects.filter(id=body["organization"]).first()
        if region is None:
            raise NotFound("region", field="region")
        if body["organization"] and owner is None:
            raise NotFound("organization", field="organization")
        pool = services.create_pool(
            region=region,
            name=body["name"],
            organization=owner,
            share_standby=body["share_standby"],
            keep_block=body["keep_block"],
            share_devices=body["share_devices"],
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(PoolView(pool).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=PlacementPolicyBody, responses=PoolView)
    def partial_update(self, request: Request, pk: str) -> Response:
        """What placement keeps free and shares from here on; nobody is moved for it."""
        access.operator(self.principal)
        body = self.checked(request, PlacementPolicyBody)
        pool = Pool.objects.select_related("region").filter(pk=pk).first()
        if pool is None:
            raise NotFound("pool")
        pool = placement_policy.set_placement(
            pool=pool, actor=self.principal.actor, now=self.now, **body
        )
        return Response(PoolView(pool).data)

    def _mine(self) -> QuerySet[Pool]:
        """Those that serve an organization that the asker sees, in its region."""
        if self.principal.is_operator:
            return Pool.objects.all()
        seen = access.organizations(self.principal)
        regions = seen.values("region_code")
        return Pool.objects.filter(
            Q(organization=None) | Q(organization__in=seen), region__in=regions
        )


class Regions(HouseViewSet):
    serializer_class = RegionView
    queryset = Region.objects.none()

    @extend_schema(responses=RegionView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        return self.page(Region.objects.all(), RegionView)

    @extend_schema(request=RegionBody, responses={201: RegionView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, RegionBody)
        region = services.create_region(**body, actor=self.principal.actor, now=self.now)
        return Response(RegionView(region).data, status=status.HTTP_201_CREATED)


class Nodes(HouseViewSet):
    """The operator's machines. To anybody else there are none."""

    serializer_class = NodeView
    queryset = Node.objects.none()

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "now": self.now}

    def _context(self, nodes: Iterable[Node]) -> dict[str, Any]:
        return {**self.get_serializer_context(), "findings": findings.open_of(nodes)}

    @extend_schema(responses=NodeView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        rows = self.paginate_queryset(Node.objects.select_related("pool"))
        shown = NodeView(rows, many=True, context=self._context(rows or ()))
        return self.get_paginated_response(shown.data)

    def retrieve(self, request: Request, pk: str) -> Response:
        return self._shown(self._node(pk))

    @extend_schema(request=None, responses=NodeView)
    @action(detail=True, methods=["post"])
    def cordon(self, request: Request, pk: str) -> Response:
        node = self._node(pk)
        return self._shown(services.cordon(node=node, actor=self.principal.actor, now=self.now))

    @extend_schema(request=None, responses=NodeView)
    @action(detail=True, methods=["post"])
    def uncordon(self, request: Request, pk: str) -> Response:
        node = self._node(pk)
        return self._shown(services.uncordon(node=node, actor=self.principal.actor, now=self.now))

    @extend_schema(request=None, responses=NodeView)
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, pk: str) -> Response:
        node = self._node(pk)
        return self._shown(services.drain(node=node, actor=self.principal.actor, now=self.now))

    @extend_schema(
        request=None,
        responses=NodeView,
        description="Its certificates are worth nothing; an enrolment token for it gives another.",
    )
    @action(detail=True, methods=["post"], url_path="revoke-certificate")
    def revoke_certificate(self, request: Request, pk: str) -> Response:
        node = self._node(pk)
        return self._shown(
            revoking.revoke_node(node=node, actor=self.principal.actor, now=self.now)
        )

    @extend_schema(responses=NodeView, description="Out of the fleet for good; the record stays.")
    def destroy(self, request: Request, pk: str) -> Response:
        node = self._node(pk)
        gone = services.remove_node(node=node, actor=self.principal.actor, now=self.now)
        return self._shown(gone)

    def _node(self, pk: str) -> Node:
        access.operator(self.principal)
        found = Node.objects.select_related("pool").filter(pk=pk).first()
        if found is None:
            raise NotFound("node")
        return found

    def _shown(self, node: Node) -> Response:
        return Response(NodeView(node, context=self._context([node])).data)


class EnrollmentTokens(HouseViewSet):
    serializer_class = TokenView

    @extend_schema(request=TokenBody, responses={201: TokenView})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, TokenBody)
        pool = Pool.objects.select_related("region").filter(id=body["pool"]).first()
        node = Node.objects.filter(id=body["node"], pool=pool).first()
        if pool is None:
            raise NotFound("pool", field="pool")
        if body["node"] and node is None:
            raise NotFound("node", field="node")
        token, secret = services.issue_enrollment_token(
            pool=pool,
            node=node,
            ttl=timedelta(seconds=body["ttl_s"]),
            actor=self.principal.actor,
            now=self.now,
        )
        shown = {
            "id": token.id,
            "object": "enrollment_token",
            "secret": secret,
            "expires_at": token.expires_at,
            "url": settings.AGENTS_URL,
            "pin": joining.pin(pool.region),
            "command": joining.command(pool.region, secret, again=node is not None),
        }
        return Response(TokenView(shown).data, status=status.HTTP_201_CREATED)
