"""Versions of an endpoint's spec, and the rollouts between them."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.image_body import ImageBody
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import rollout_plan, rollout_rows, rollouts, versions
from controlplane.endpoints.models import Endpoint, EndpointVersion, Rollout
from controlplane.endpoints.rollout_progress import ADVICE, RolloutReason
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound


class VersionView(serializers.ModelSerializer[EndpointVersion]):
    object = serializers.CharField(default="endpoint.version", read_only=True)
    endpoint = serializers.CharField(source="endpoint_id")

    class Meta:
        model = EndpointVersion
        fields = (
            *("id", "object", "endpoint", "number", "spec", "outlook"),
            *("note", "created_at", "created_by"),
        )


class RolloutView(serializers.ModelSerializer[Rollout]):
    """`health` is what the newest comparison of the two versions saw."""

    object = serializers.CharField(default="rollout", read_only=True)
    endpoint = serializers.CharField(source="endpoint_id")
    from_version = serializers.IntegerField(source="from_number")
    to_version = serializers.IntegerField(source="to_number")
    plan = serializers.JSONField()
    health = serializers.JSONField()
    advice = serializers.SerializerMethodField()

    class Meta:
        model = Rollout
        fields = (
            "id",
            "object",
            "endpoint",
            "from_version",
            "to_version",
            "state",
            "reason",
            "detail",
            "advice",
            "share",
            "step",
            "plan",
            "health",
            "failures",
            "retry_at",
            "note",
            "started_at",
            "started_by",
            "proved_at",
            "step_at",
            "replaced_at",
            "ended_at",
        )

    def get_advice(self, rollout: Rollout) -> str:
        return ADVICE.get(RolloutReason(rollout.reason), "")


class DifferenceView(serializers.Serializer[Any]):
    field = serializers.CharField()
    before = serializers.JSONField()
    after = serializers.JSONField()


class DiffView(serializers.Serializer[Any]):
    object = serializers.CharField(default="endpoint.version.diff")
    from_version = serializers.IntegerField()
    to_version = serializers.IntegerField()
    differences = DifferenceView(many=True)


class StepBody(serializers.Serializer[Any]):
    share = serializers.FloatField(help_text="Percent of traffic.")
    for_s = serializers.IntegerField()


class RolloutBody(serializers.Serializer[Any]):
    """What is absent is as rollout_plan.RolloutPlan has it."""

    strategy = serializers.CharField(required=False, help_text="rolling, canary")
    share = serializers.FloatField(required=False, help_text="Of a canary with one step: percent.")
    for_s = serializers.IntegerField(required=False, help_text="How long it is watched at least.")
    steps = StepBody(many=True, required=False)
    automatic = serializers.BooleanField(required=False)
    min_requests = serializers.IntegerField(required=False)
    max_error_increase = serializers.FloatField(
        required=False, allow_null=True, help_text="Percentage points; null: not judged."
    )
    max_latency_ratio = serializers.FloatField(
        required=False, allow_null=True, help_text="Of the p95 before; null: not judged."
    )
    progress_deadline_s = serializers.IntegerField(required=False)
    max_failed_starts = serializers.IntegerField(required=False)


class ChangeBody(serializers.Serializer[Any]):
    """What is absent of the spec stays. `engine_args` and `image` are given whole."""

    model = serializers.CharField(max_length=300, required=False, allow_blank=True)
    revision = serializers.CharField(required=False, allow_blank=True, max_length=64)
    secret = serializers.CharField(required=False, allow_blank=True)
    engine = serializers.CharField(required=False)
    engine_version = serializers.CharField(required=False, allow_blank=True)
    engine_args = serializers.DictField(required=False)
    image = ImageBody(required=False, allow_null=True)
    capabilities = serializers.ListField(
        child=serializers.CharField(), required=False, allow_null=True
    )
    device_kind = serializers.CharField(max_length=64, required=False)
    device_count = serializers.IntegerField(required=False)
    device_share = serializers.IntegerField(required=False, help_text="Thousandths of its device.")
    note = serializers.CharField(required=False, allow_blank=True, help_text="Why.")
    rollout = RolloutBody(required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`source` means something else to a serializer, so that it is no attribute."""
        return {**super().get_fields(), "source": serializers.CharField(required=False)}


class RollbackBody(serializers.Serializer[Any]):
    version = serializers.IntegerField(
        required=False, min_value=1, help_text="Its number; without it the one that served before."
    )
    note = serializers.CharField(required=False, allow_blank=True)
    rollout = RolloutBody(required=False)


class RolloutStatus(serializers.Serializer[Any]):
    """For an endpoint's own view: which version it is to run, and the newest rollout."""

    version = serializers.IntegerField(source="generation", read_only=True)
    rollout = serializers.SerializerMethodField()

    @extend_schema_field(RolloutView(allow_null=True))
    def get_rollout(self, endpoint: Endpoint) -> Any:
        newest = rollout_rows.newest(endpoint)
        return None if newest is None else RolloutView(newest).data


class VersionActions(HouseViewSet):
    """What an endpoint's own path offers of versions: /endpoints/ID/versions, /rollback, …"""

    @extend_schema(
        methods=["GET"],
        parameters=[OpenApiParameter("number", int)],
        responses=VersionView(many=True),
    )
    @extend_schema(methods=["POST"], request=ChangeBody, responses={201: VersionView})
    @action(detail=True, methods=["get", "post"])
    def versions(self, request: Request, pk: str) -> Response:
        """GET: all of them, newest first. POST: change the spec, which makes a version."""
        if request.method == "POST":
            return self._change(request, pk)
        endpoint = endpoint_access.endpoint(self.principal, pk, Permission.READ)
        rows = endpoint.versions.all()
        if wanted := request.query_params.get("number"):
            rows = rows.filter(number=_number(wanted, "number"))
        return self.page(rows, VersionView)

    @idempotent
    def _change(self, request: Request, pk: str) -> Response:
        endpoint = self._managed(pk)
        body = self.checked(request, ChangeBody)
        note, plan = body.pop("note", ""), _plan(body)
        changed = versions.change(
            actor=self.principal.actor,
            endpoint=endpoint,
            changes=body,
            plan=plan,
            note=note,
            now=self.now,
        )
        version = changed.versions.get(number=changed.generation)
        return Response(VersionView(version).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=RollbackBody, responses=VersionView)
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, pk: str) -> Response:
        """Go back to an earlier version; its replicas that still run are kept."""
        endpoint = self._managed(pk)
        body = self.checked(request, RollbackBody)
        back = versions.roll_back(
            actor=self.principal.actor,
            endpoint=endpoint,
            number=body.get("version"),
            plan=_plan(body),
            note=body.get("note", ""),
            now=self.now,
        )
        return Response(VersionView(back.versions.get(number=back.generation)).data)

    @extend_schema(request=None, responses=RolloutView)
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, pk: str) -> Response:
        """A canary's next step, or all traffic after the last; what is watched is complete."""
        endpoint = self._managed(pk)
        rollouts.promote(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(RolloutView(rollout_rows.newest(endpoint)).data)

    @extend_schema(request=None, responses=RolloutView)
    @action(detail=True, methods=["post"])
    def abort(self, request: Request, pk: str) -> Response:
        """Break off the rollout that is under way: the version before serves."""
        endpoint = self._managed(pk)
        rollouts.abort(actor=self.principal.actor, endpoint=endpoint, now=self.now)
        return Response(RolloutView(rollout_rows.newest(endpoint)).data)

    @extend_schema(responses=RolloutView(many=True))
    @action(detail=True, methods=["get"])
    def rollouts(self, request: Request, pk: str) -> Response:
        endpoint = endpoint_access.endpoint(self.principal, pk, Permission.READ)
        return self.page(endpoint.rollouts.all(), RolloutView)

    def _managed(self, pk: str) -> Endpoint:
        return endpoint_access.endpoint(self.principal, pk, Permission.MANAGE_ENDPOINTS)


class Versions(HouseViewSet):
    serializer_class = VersionView
    queryset = EndpointVersion.objects.none()

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(VersionView(self._version(pk)).data)

    @extend_schema(
        parameters=[OpenApiParameter("against", int, required=False)], responses=DiffView
    )
    @action(detail=True, methods=["get"])
    def diff(self, request: Request, pk: str) -> Response:
        """What this version changed of version `against`, by default of the one before it."""
        version = self._version(pk)
        against = request.query_params.get("against") or str(max(1, version.number - 1))
        other = version.endpoint.versions.filter(number=_number(against, "against")).first()
        if other is None:
            raise NotFound("version", field="against")
        found = [
            {"field": name, "before": old, "after": new}
            for name, old, new in versions.differences(other, version)
        ]
        shown = {
            "object": "endpoint.version.diff",
            "from_version": other.number,
            "to_version": version.number,
            "differences": found,
        }
        return Response(DiffView(shown).data)

    def _version(self, pk: str) -> EndpointVersion:
        return endpoint_access.version(self.principal, pk, Permission.READ)


def _number(text: str, name: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ValidationError({name: "A whole number."})
    return int(text)


def _plan(body: dict[str, Any]) -> rollout_plan.RolloutPlan:
    return rollout_plan.asked(**body.pop("rollout", {}))
