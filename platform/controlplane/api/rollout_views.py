"""Releases of the agent on their way to nodes, for the operator."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.fleet import agent_rollouts, waves
from controlplane.fleet.models import AgentRelease, AgentRollout, Pool
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class RolloutView(serializers.ModelSerializer[AgentRollout]):
    object = serializers.CharField(default="agent_rollout", read_only=True)
    pool = serializers.CharField(source="pool_id")
    release = serializers.CharField(source="release_id", help_text="SHA-256 of its bundle.")
    version = serializers.CharField(source="release.version")
    nodes = serializers.SerializerMethodField()

    class Meta:
        model = AgentRollout
        fields = (
            *("id", "object", "pool", "release", "version", "state", "halt_reason", "attempt"),
            *("canary_share", "wave_size", "pause_s", "limit_s", "nodes", "created_at"),
            "ended_at",
        )

    def get_nodes(self, rollout: AgentRollout) -> dict[str, Any]:
        """How many, how many run the release, which are under way, which are updated by hand."""
        return agent_rollouts.counts(rollout, self.context["now"])


class RolloutBody(serializers.Serializer[Any]):
    pool = serializers.CharField()
    release = serializers.CharField(
        default="", allow_blank=True, help_text="Empty: the agent of this control plane."
    )
    canary_share = serializers.FloatField(default=waves.Policy.canary_share)
    wave_size = serializers.IntegerField(default=waves.Policy.wave_size)
    pause_s = serializers.FloatField(default=waves.Policy.pause_s)
    limit_s = serializers.FloatField(default=waves.Policy.limit_s)


class AgentRollouts(HouseViewSet):
    serializer_class = RolloutView
    queryset = AgentRollout.objects.none()

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "now": self.now}

    @extend_schema(responses=RolloutView(many=True))
    def list(self, request: Request) -> Response:
        access.operator(self.principal)
        rows = self.paginate_queryset(_rollouts())
        shown = RolloutView(rows, many=True, context=self.get_serializer_context())
        return self.get_paginated_response(shown.data)

    @extend_schema(responses=RolloutView)
    def retrieve(self, request: Request, pk: str) -> Response:
        return self._shown(self._found(pk))

    @extend_schema(
        request=RolloutBody,
        responses={201: RolloutView},
        description="Supersedes the pool's rollout that is under way, if it is of another release.",
    )
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, RolloutBody)
        pool = Pool.objects.filter(pk=body.pop("pool")).first()
        if pool is None:
            raise NotFound("pool", field="pool")
        wanted = body.pop("release")
        release = (
            AgentRelease.objects.filter(pk=wanted).first()
            if wanted
            else agent_rollouts.release(self.now)
        )
        if release is None:
            raise NotFound("release", field="release")
        made = agent_rollouts.begin(
            pool=pool,
            release=release,
            policy=waves.Policy(**body),
            actor=self.principal.actor,
            now=self.now,
        )
        return self._shown(made, status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=RolloutView)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: str) -> Response:
        found = self._found(pk)
        return self._shown(
            agent_rollouts.resume(rollout=found, actor=self.principal.actor, now=self.now)
        )

    @extend_schema(request=None, responses=RolloutView)
    @action(detail=True, methods=["post"])
    def abort(self, request: Request, pk: str) -> Response:
        found = self._found(pk)
        return self._shown(
            agent_rollouts.abort(rollout=found, actor=self.principal.actor, now=self.now)
        )

    def _found(self, pk: str) -> AgentRollout:
        access.operator(self.principal)
        found = _rollouts().filter(pk=pk).first()
        if found is None:
            raise NotFound("agent_rollout")
        return found

    def _shown(self, row: AgentRollout, code: int = status.HTTP_200_OK) -> Response:
        shown = RolloutView(row, context=self.get_serializer_context())
        return Response(shown.data, status=code)


def _rollouts() -> QuerySet[AgentRollout]:
    return AgentRollout.objects.select_related("release").defer("release__content")
