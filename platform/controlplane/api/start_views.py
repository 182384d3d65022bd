"""How an endpoint's starts went against what is promised."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.endpoint_views import recent_replicas
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import starts
from controlplane.endpoints.models import Start
from controlplane.tenancy.access import Permission

NEWEST = 20


class StartView(serializers.ModelSerializer[Start]):
    object = serializers.CharField(default="start", read_only=True)
    replica = serializers.CharField(source="replica_id")
    phases = serializers.DictField(child=serializers.FloatField(), help_text="seconds by phase")
    routed_s = serializers.FloatField(allow_null=True, help_text="from ready until routed")

    class Meta:
        model = Start
        fields = (
            "id",
            "object",
            "replica",
            "tier",
            "ready",
            "reason",
            "asked_at",
            "ended_at",
            "total_s",
            "routed_s",
            "phases",
            "target_s",
            "missed",
        )


class SpreadView(serializers.Serializer[Any]):
    p50_s = serializers.FloatField()
    p95_s = serializers.FloatField()


class TierView(SpreadView):
    tier = serializers.CharField()
    count = serializers.IntegerField()
    missed = serializers.IntegerField()
    target_s = serializers.FloatField(allow_null=True)
    phases = serializers.DictField(child=SpreadView())


class UnderwayView(serializers.Serializer[Any]):
    replica = serializers.CharField()
    state = serializers.CharField()
    detail = serializers.CharField()
    asked_at = serializers.DateTimeField()
    elapsed_s = serializers.FloatField()
    target_s = serializers.FloatField(allow_null=True)
    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField()
    progress_at = serializers.DateTimeField(allow_null=True)


class StartsView(serializers.Serializer[Any]):
    object = serializers.CharField(default="starts")
    endpoint = serializers.CharField()
    underway = UnderwayView(allow_null=True)
    tiers = TierView(many=True)
    newest = StartView(many=True)


class EndpointStarts(HouseViewSet):
    serializer_class = StartsView
    queryset = Start.objects.none()

    @extend_schema(responses=StartsView)
    def list(self, request: Request, pk: str) -> Response:
        """The start under way, figures by tier, and the newest starts."""
        endpoint = endpoint_access.endpoint(self.principal, pk, Permission.READ)
        newest = Start.objects.filter(endpoint=endpoint).order_by("-id")[:NEWEST]
        body = {
            "endpoint": endpoint.id,
            "underway": _underway(starts.underway(recent_replicas(endpoint), self.now)),
            "tiers": [_tier(one) for one in starts.measured(endpoint)],
            "newest": list(newest),
        }
        return Response(StartsView(body).data)


def _underway(going: starts.Underway | None) -> dict[str, Any] | None:
    if going is None:
        return None
    replica = going.replica
    return {
        "replica": replica.id,
        "state": replica.state,
        "detail": replica.detail,
        "asked_at": going.asked_at,
        "elapsed_s": round(going.elapsed_s, 3),
        "target_s": going.target_s,
        "bytes_done": replica.bytes_done,
        "bytes_total": replica.bytes_total,
        "progress_at": replica.progress_at,
    }


def _tier(one: starts.Figures) -> dict[str, Any]:
    return {
        "tier": one.tier,
        "count": one.count,
        "missed": one.missed,
        "target_s": starts.target_s(one.tier),
        **_spread(one.total),
        "phases": {name: _spread(both) for name, both in one.phases.items()},
    }


def _spread(both: tuple[float, float]) -> dict[str, float]:
    return {"p50_s": round(both[0], 3), "p95_s": round(both[1], 3)}
