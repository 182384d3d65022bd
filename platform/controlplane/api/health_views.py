"""How nodes are, and what a pool's policy makes of it, for the operator."""

from dataclasses import asdict
from typing import Any

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.fleet import findings, health, health_policy
from controlplane.fleet.models import Node, NodeFinding, Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class ConditionView(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="Named as Kubernetes names a node's: Ready, …")
    status = serializers.CharField(help_text="True | False | Unknown")
    reason = serializers.CharField()
    message = serializers.CharField()
    since = serializers.DateTimeField(allow_null=True)


class FindingView(serializers.ModelSerializer[NodeFinding]):
    object = serializers.CharField(default="node_finding", read_only=True)
    check = serializers.CharField(source="check_name")

    class Meta:
        model = NodeFinding
        fields = (
            *("id", "object", "check", "device", "severity", "text", "cure"),
            *("since", "seen_at", "ended_at", "acknowledged_at"),
        )


class PolicyView(serializers.Serializer[Any]):
    object = serializers.CharField(default="health_policy")
    pool = serializers.CharField()
    max_share = serializers.FloatField()
    rules = serializers.DictField(help_text="By check: all of them, as they hold in this pool.")
    changes = serializers.DictField(help_text="What of it differs from the default.")
    braked = serializers.ListField(
        child=serializers.CharField(),
        help_text="Nodes that ail and are left in service: too many do at once.",
    )


class PolicyBody(serializers.Serializer[Any]):
    max_share = serializers.FloatField(required=False, min_value=0, max_value=1)
    rules = serializers.DictField(required=False, child=serializers.DictField())


class Findings(HouseViewSet):
    serializer_class = FindingView
    queryset = NodeFinding.objects.none()

    @extend_schema(
        responses=FindingView(many=True),
        description="What was found wrong with a node, now (`ended_at` null) and in 90 days.",
    )
    def list(self, request: Request, pk: str) -> Response:
        access.operator(self.principal)
        node = Node.objects.filter(pk=pk).first()
        if node is None:
            raise NotFound("node")
        return self.page(findings.history(node), FindingView)


class HealthPolicies(HouseViewSet):
    serializer_class = PolicyView
    queryset = Pool.objects.none()

    @extend_schema(responses=PolicyView)
    def retrieve(self, request: Request, pk: str) -> Response:
        return self._shown(self._pool(pk))

    @extend_schema(
        request=PolicyBody,
        responses=PolicyView,
        description="Replaces what differs from the default; an empty body takes it all back.",
    )
    def update(self, request: Request, pk: str) -> Response:
        pool = self._pool(pk)
        changes = self.checked(request, PolicyBody)
        health.set_policy(pool=pool, changes=changes, actor=self.principal.actor, now=self.now)
        return self._shown(pool)

    def _pool(self, pk: str) -> Pool:
        access.operator(self.principal)
        found = Pool.objects.filter(pk=pk).first()
        if found is None:
            raise NotFound("pool")
        return found

    def _shown(self, pool: Pool) -> Response:
        policy = health.policy_of(pool)
        shown = {
            "object": "health_policy",
            "pool": pool.id,
            "max_share": policy.max_share,
            "rules": {
                check: msgspec.to_builtins(policy.rule(check)) for check in health_policy.DEFAULT
            },
            "changes": pool.health_policy,
            "braked": sorted(health.decision(pool, self.now).braked),
        }
        return Response(PolicyView(shown).data)


def conditions(node: Node, found: list[NodeFinding], now: Any) -> list[dict[str, Any]]:
    return [asdict(one) for one in findings.conditions_of(node, found, now)]
