"""Endpoints and their replicas. What streams (events, followed logs) is in streams.py."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api import adapter_views
from controlplane.api.adapter_views import AdapterBody, AdapterView
from controlplane.api.idempotency import idempotent
from controlplane.api.image_body import ImageBody
from controlplane.api.placement_views import PlacementView
from controlplane.api.version_views import RolloutStatus, VersionActions
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import (
    conditions,
    engine_outlook,
    engine_versions,
    explaining,
    logs,
    preflight,
    rollout_rows,
    services,
)
from controlplane.endpoints.models import (
    Endpoint,
    EngineVersion,
    Member,
    Replica,
    Scaling,
    Transition,
)
from controlplane.endpoints.services import EndpointSpec
from controlplane.endpoints.states import LIVE
from controlplane.fleet.engines import ENGINES
from controlplane.scaling.policy import KeepAlive
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import Forbidden

RECENT_REPLICAS = 10


class TransitionView(serializers.ModelSerializer[Transition]):
    object = serializers.CharField(default="transition", read_only=True)
    replica = serializers.CharField(source="replica_id")
    start_tier = serializers.CharField(source="replica.start_tier")

    class Meta:
        model = Transition
        fields = (
            "id",
            "object",
            "replica",
            "from_state",
            "to_state",
            "reason",
            "detail",
            "at",
            "seconds",
            "start_tier",
        )


class MemberView(serializers.ModelSerializer[Member]):
    node = serializers.CharField(source="node_id")
    phase = serializers.CharField(help_text="As its node last said; empty before.")

    class Meta:
        model = Member
        fields = ("rank", "node", "phase")


class ReplicaView(serializers.ModelSerializer[Replica]):
    object = serializers.CharField(default="replica", read_only=True)
    endpoint = serializers.CharField(source="endpoint_id")
    node = serializers.CharField(
        source="node_id", allow_null=True, help_text="null of one that stands on several nodes."
    )
    members = serializers.SerializerMethodField()

    class Meta:
        model = Replica
        fields = (
            "id",
            "object",
            "endpoint",
            "node",
            "members",
            "generation",
            "state",
            "reason",
            "detail",
            "state_at",
            "created_at",
            "bytes_done",
            "bytes_total",
            "start_tier",
            "start_flags",
            "can_sleep",
            "progress_at",
            "phase_seconds",
            "engine_report",
            "proof",
            "log_tail",
        )

    @extend_schema_field(MemberView(many=True))
    def get_members(self, replica: Replica) -> Any:
        if replica.node_count == 1:
            return []
        return MemberView(replica.members.all(), many=True).data


class ConditionView(serializers.Serializer[Any]):
    type = serializers.CharField()
    status = serializers.CharField()
    reason = serializers.CharField()
    message = serializers.CharField()
    last_transition_at = serializers.DateTimeField()


class ScheduleBody(serializers.Serializer[Any]):
    """At least `replicas` for `duration_s` from each moment at which the cron strikes."""

    cron = serializers.CharField(max_length=200)
    time_zone = serializers.CharField(max_length=64, default="UTC")
    duration_s = serializers.IntegerField()
    replicas = serializers.IntegerField(default=1)


class BurstView(serializers.Serializer[Any]):
    """So many workers come at `at` and are gone by `until`, each with so many requests."""

    workers = serializers.IntegerField()
    at = serializers.DateTimeField()
    until = serializers.DateTimeField()
    sequences = serializers.IntegerField(default=1)


class BurstBody(serializers.Serializer[Any]):
    """ "20 workers in 3 minutes": `{"workers": 20, "in_s": 180}`."""

    workers = serializers.IntegerField()
    in_s = serializers.IntegerField(default=0)
    for_s = serializers.IntegerField(default=3600)
    sequences = serializers.IntegerField(default=1, help_text="Requests of one at a time.")


class CapBody(serializers.Serializer[Any]):
    """The most that may wait warm in a day of the time zone, above `min_replicas`."""

    seconds = serializers.IntegerField(default=None, allow_null=True)
    euro = serializers.DecimalField(max_digits=12, decimal_places=2, default=None, allow_null=True)
    time_zone = serializers.CharField(max_length=64, default="UTC")


class ScalingView(serializers.ModelSerializer[Scaling]):
    """What was decided last, and what waited warm today."""

    class Meta:
        model = Scaling
        fields = (
            "replicas",
            "tier",
            "why",
            "looked_at",
            "idle_since",
            "warm_day",
            "warm_s",
            "warm_euro",
        )


class EndpointView(RolloutStatus, serializers.ModelSerializer[Endpoint]):
    object = serializers.CharField(default="endpoint", read_only=True)
    organization = serializers.CharField(source="project.organization_id")
    project = serializers.CharField(source="project_id")
    pool = serializers.CharField(source="pool_id")
    region = serializers.CharField(source="region_code")
    status = serializers.SerializerMethodField()
    message = serializers.SerializerMethodField()
    conditions = serializers.SerializerMethodField()
    adapters = serializers.SerializerMethodField()
    replicas = serializers.SerializerMethodField()
    shared = serializers.BooleanField(read_only=True)
    schedules = ScheduleBody(many=True)
    bursts = BurstView(many=True)
    keep_warm_cap = CapBody(allow_null=True)
    image = ImageBody(allow_null=True)
    scaling = serializers.SerializerMethodField()
    warnings = serializers.SerializerMethodField()

    class Meta:
        model = Endpoint
        fields = (
            "id",
            "object",
            "organization",
            "project",
            "region",
            "pool",
            "name",
            "status",
            "message",
            "source",
            "secret",
            "model",
            "revision",
            "engine",
            "engine_version",
            "warnings",
            "engine_args",
            "image",
            "adapters",
            "capabilities",
            "device_kind",
            "device_count",
            "node_count",
            "device_share",
            "min_replicas",
            "max_replicas",
            "scale_to_zero_timeout_s",
            "ttft_target_s",
            "keep_alive",
            "schedules",
            "bursts",
            "keep_warm_cap",
            "scaling",
            "version",
            "rollout",
            "shared",
            "queue_limit",
            "queue_s",
            "quote_id",
            "created_at",
            "stopped_at",
            "retry_at",
            "conditions",
            "replicas",
        )

    def get_status(self, endpoint: Endpoint) -> str:
        return summary(endpoint).status

    def get_message(self, endpoint: Endpoint) -> str:
        return summary(endpoint).message

    def get_warnings(self, endpoint: Endpoint) -> list[str]:
        """What its owner should know, such as that its engine's version is deprecated."""
        if self._unsupported is None:  # one look for a whole list
            self._unsupported = engine_versions.unsupported()
        return engine_outlook.warnings(endpoint, self._unsupported) + preflight.of(endpoint)

    _unsupported: list[EngineVersion] | None = None

    @extend_schema_field(ConditionView(many=True))
    def get_conditions(self, endpoint: Endpoint) -> Any:
        return ConditionView(summary(endpoint).conditions, many=True).data

    @extend_schema_field(AdapterView(many=True))
    def get_adapters(self, endpoint: Endpoint) -> Any:
        return AdapterView(adapter_views.shown(endpoint), many=True).data

    @extend_schema_field(ScalingView(allow_null=True))
    def get_scaling(self, endpoint: Endpoint) -> Any:
        row = Scaling.objects.filter(endpoint=endpoint).first()
        return None if row is None else ScalingView(row).data

    @extend_schema_field(ReplicaView(many=True))
    def get_replicas(self, endpoint: Endpoint) -> Any:
        live = [replica for replica in recent_replicas(endpoint) if replica.state in LIVE]
        return ReplicaView(live, many=True).data


class EndpointBody(serializers.Serializer[Any]):
    project = serializers.CharField()
    name = serializers.CharField(trim_whitespace=False, allow_blank=True)
    secret = serializers.CharField(default="", allow_blank=True, max_length=63)
    model = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=300,
        help_text="Only an image of the engine `custom` may do without.",
    )
    revision = serializers.CharField(default="", allow_blank=True, max_length=64)
    pool = serializers.CharField(default="", allow_blank=True)
    engine = serializers.CharField(default="vllm", help_text=", ".join(ENGINES))
    engine_version = serializers.CharField(
        default="", allow_blank=True, help_text="Empty: as nodes have it."
    )
    engine_args = serializers.DictField(default=dict)
    image = ImageBody(default=None, allow_null=True, help_text="What replicas are started from.")
    adapters = AdapterBody(many=True, default=list)
    capabilities = serializers.ListField(
        child=serializers.CharField(),
        default=None,
        allow_null=True,
        help_text="Proved before a replica is ready: tools, json_schema. null: as the recipe says.",
    )
    device_kind = serializers.CharField(max_length=64)
    device_count = serializers.IntegerField(default=1, help_text="Of each node.")
    node_count = serializers.IntegerField(default=1, help_text="That one replica stands on.")
    device_share = serializers.IntegerField(
        default=1000,
        help_text="Thousandths of its one device, 1 to 1000: replicas of the organization share "
        "the rest, where the pool's policy and the engine (vLLM without an image) allow it.",
    )
    min_replicas = serializers.IntegerField(default=1)
    max_replicas = serializers.IntegerField(default=None, allow_null=True)
    scale_to_zero_timeout_s = serializers.IntegerField(default=3600)
    ttft_target_s = serializers.FloatField(
        default=1.0, help_text="A first token should come in so long: more replicas where not."
    )
    keep_alive = serializers.ChoiceField(choices=[*KeepAlive], default=KeepAlive.PREDICTABLE)
    schedules = ScheduleBody(many=True, default=list)
    bursts = BurstView(many=True, default=list)
    keep_warm_cap = CapBody(default=None, allow_null=True)
    queue_limit = serializers.IntegerField(default=None, allow_null=True)
    queue_s = serializers.IntegerField(default=None, allow_null=True)
    quote_id = serializers.CharField(
        default="", allow_blank=True, help_text="Of the project: beside it stands what happens."
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`source` is a name that fields themselves use: it cannot be declared."""
        told = "hub, mirror, s3, upload or path; empty: a path or the hub, as the model looks."
        source = serializers.CharField(default="", allow_blank=True, help_text=told)
        return {**super().get_fields(), "source": source}


class ScaleBody(serializers.Serializer[Any]):
    """What is absent stays."""

    min_replicas = serializers.IntegerField(required=False)
    max_replicas = serializers.IntegerField(required=False)
    scale_to_zero_timeout_s = serializers.IntegerField(required=False)
    ttft_target_s = serializers.FloatField(required=False)
    keep_alive = serializers.ChoiceField(choices=[*KeepAlive], required=False)
    schedules = ScheduleBody(many=True, required=False)
    bursts = BurstView(many=True, required=False)
    keep_warm_cap = CapBody(required=False, allow_null=True, help_text="null: no cap.")
    queue_limit = serializers.IntegerField(
        required=False, allow_null=True, help_text="null: as the gateway is set."
    )
    queue_s = serializers.IntegerField(required=False, allow_null=True)


class LogView(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    text = serializers.CharField()


class Endpoints(VersionActions):
    serializer_class = EndpointView
    queryset = Endpoint.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str), OpenApiParameter("name", str)],
        responses=EndpointView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = endpoint_access.endpoints(self.principal)
        for parameter, column in (("project", "project_id"), ("name", "name")):
            if wanted := request.query_params.get(parameter):
                rows = rows.filter(**{column: wanted})
        return self.page(rows, EndpointView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(EndpointView(self._endpoint(pk, Permission.READ)).data)

    @extend_schema(request=EndpointBody, responses={201: EndpointView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, EndpointBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_ENDPOINTS)
        if body["max_replicas"] is None:
            body["max_replicas"] = max(1, body["min_replicas"])
        spec = EndpointSpec(pool_id=body.pop("pool"), **body)
        endpoint = services.create(
            actor=self.principal.actor, project=project, spec=spec, now=self.now
        )
        return Response(EndpointView(endpoint).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=ScaleBody, responses=EndpointView)
    def partial_update(self, request: Request, pk: str) -> Response:
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        body = self.checked(request, ScaleBody)
        changed = services.update(
            actor=self.principal.actor, endpoint=endpoint, now=self.now, **body
        )
        return Response(EndpointView(changed).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        services.delete(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=EndpointView)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, pk: str) -> Response:
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        started = services.start(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(EndpointView(started).data)

    @extend_schema(request=None, responses=EndpointView)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, pk: str) -> Response:
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        stopped = services.stop(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(EndpointView(stopped).data)

    @extend_schema(request=BurstBody, responses=EndpointView)
    @action(detail=True, methods=["post"], url_path="bursts")
    @idempotent
    def declare_burst(self, request: Request, pk: str) -> Response:
        """Have replicas ready when a crowd comes."""
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        body = self.checked(request, BurstBody)
        declared = services.declare_burst(
            actor=self.principal.actor, endpoint=endpoint, now=self.now, **body
        )
        return Response(EndpointView(declared).data)

    @extend_schema(request=None, responses=EndpointView)
    @action(detail=True, methods=["post"])
    def share(self, request: Request, pk: str) -> Response:
        """For every organization of the region, by the token: the operator's to do."""
        endpoint = self._operators(pk)
        shared = services.share(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(EndpointView(shared).data)

    @extend_schema(request=None, responses=EndpointView)
    @action(detail=True, methods=["post"])
    def unshare(self, request: Request, pk: str) -> Response:
        endpoint = self._operators(pk)
        kept = services.unshare(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(EndpointView(kept).data)

    @extend_schema(responses=TransitionView(many=True))
    @action(detail=True, methods=["get"])
    def transitions(self, request: Request, pk: str) -> Response:
        endpoint = self._endpoint(pk, Permission.READ)
        rows = Transition.objects.filter(replica__endpoint=endpoint).select_related("replica")
        return self.page(rows, TransitionView)

    def _operators(self, pk: str) -> Endpoint:
        endpoint = self._endpoint(pk, Permission.MANAGE_ENDPOINTS)
        if not self.principal.is_operator:
            raise Forbidden("only an operator may share an endpoint")
        return endpoint

    def _endpoint(self, pk: str, need: Permission) -> Endpoint:
        return endpoint_access.endpoint(self.principal, pk, need)


class Replicas(HouseViewSet):
    serializer_class = ReplicaView
    queryset = Replica.objects.none()

    @extend_schema(parameters=[OpenApiParameter("endpoint", str)], responses=ReplicaView(many=True))
    def list(self, request: Request) -> Response:
        rows = endpoint_access.replicas(self.principal)
        if wanted := request.query_params.get("endpoint"):
            rows = rows.filter(endpoint_id=wanted)
        return self.page(rows, ReplicaView)

    def retrieve(self, request: Request, pk: str) -> Response:
        replica = endpoint_access.replica(self.principal, pk, Permission.READ)
        return Response(ReplicaView(replica).data)

    @extend_schema(responses=PlacementView)
    @action(detail=True, methods=["get"])
    def placement(self, request: Request, pk: str) -> Response:
        """Where it stands and why on no other node; of one that waits, what each node says now."""
        replica = endpoint_access.replica(self.principal, pk, Permission.READ)
        return Response(PlacementView(explaining.explain(replica, self.now)).data)


def recent_replicas(endpoint: Endpoint) -> list[Replica]:
    """The newest replicas, and every one that lives."""
    newest = list(endpoint.replicas.order_by("-id")[:RECENT_REPLICAS])
    known = {replica.id for replica in newest}
    live = endpoint.replicas.filter(state__in=LIVE).exclude(id__in=known)
    return newest + list(live)


def summary(endpoint: Endpoint) -> conditions.Summary:
    newest = rollout_rows.newest(endpoint)
    return conditions.summarize(endpoint, recent_replicas(endpoint), newest)


def log_lines(replica: Replica, count: int) -> Any:
    return LogView(logs.tail(replica, count), many=True).data
