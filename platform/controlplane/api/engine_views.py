"""Engine versions: which there are, for all; what becomes of them, for the operator."""

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import engine_blocking, engine_outlook, engine_versions
from controlplane.endpoints.models import EngineVersion
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class EngineVersionView(serializers.ModelSerializer[EngineVersion]):
    object = serializers.CharField(default="engine_version", read_only=True)

    class Meta:
        model = EngineVersion
        fields = (
            *("id", "object", "engine", "version", "status", "note", "replacement", "deadline"),
            *("created_at", "changed_at"),
        )


class OnItView(serializers.Serializer[Any]):
    endpoint = serializers.CharField(source="on.endpoint.id")
    name = serializers.CharField(source="on.endpoint.name")
    organization = serializers.CharField(source="on.endpoint.project.organization_id")
    wishes = serializers.BooleanField(
        source="on.wishes", help_text="It asks for it; false: replicas still run it."
    )
    replicas = serializers.IntegerField(source="on.replicas")
    course = serializers.CharField(
        help_text="Of a blocked version's: rolls | rolls_again | stays | leaving | own_image."
    )
    course_at = serializers.DateTimeField(
        source="at", allow_null=True, help_text="When that begins, where something does."
    )
    outlook = serializers.CharField(source="text", help_text="The same in words.")


class VersionDetail(EngineVersionView):
    endpoints = serializers.SerializerMethodField()

    class Meta:
        model = EngineVersion
        fields = (*EngineVersionView.Meta.fields, "image", "endpoints")

    @extend_schema_field(OnItView(many=True))
    def get_endpoints(self, version: EngineVersion) -> Any:
        return OnItView(engine_outlook.listed(version, self.context["now"]), many=True).data


class VersionBody(serializers.Serializer[Any]):
    engine = serializers.CharField()
    version = serializers.CharField()
    image = serializers.CharField(
        default="", allow_blank=True, help_text="Empty: nodes bring the version themselves."
    )
    note = serializers.CharField(default="", allow_blank=True)


class NoteBody(serializers.Serializer[Any]):
    note = serializers.CharField(default="", allow_blank=True, help_text="Why; tenants read it.")


class BlockBody(NoteBody):
    deadline = serializers.DateTimeField(help_text="By when no endpoint runs on it.")
    replacement = serializers.CharField(
        default="", allow_blank=True, help_text="Empty: the newest that is supported."
    )


class EngineVersions(HouseViewSet):
    serializer_class = EngineVersionView
    queryset = EngineVersion.objects.none()

    @extend_schema(responses=EngineVersionView(many=True))
    def list(self, request: Request) -> Response:
        return self.page(EngineVersion.objects.all(), EngineVersionView)

    @extend_schema(responses=VersionDetail)
    def retrieve(self, request: Request, pk: str) -> Response:
        return self._shown(self._version(pk))

    @extend_schema(request=VersionBody, responses={201: VersionDetail})
    @idempotent
    def create(self, request: Request) -> Response:
        access.operator(self.principal)
        body = self.checked(request, VersionBody)
        row = engine_versions.add(actor=self.principal.actor, now=self.now, **body)
        return self._shown(row, status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=VersionDetail)
    @action(detail=True, methods=["post"])
    def support(self, request: Request, pk: str) -> Response:
        row = engine_blocking.support(
            actor=self.principal.actor, version=self._version(pk), now=self.now
        )
        return self._shown(row)

    @extend_schema(request=NoteBody, responses=VersionDetail)
    @action(detail=True, methods=["post"])
    def deprecate(self, request: Request, pk: str) -> Response:
        version, body = self._version(pk), self.checked(request, NoteBody)
        row = engine_versions.deprecate(
            actor=self.principal.actor, version=version, now=self.now, **body
        )
        return self._shown(row)

    @extend_schema(request=BlockBody, responses=VersionDetail)
    @action(detail=True, methods=["post"])
    def block(self, request: Request, pk: str) -> Response:
        """Nobody may choose it; owners of endpoints on it are told, and rolled by the deadline."""
        version, body = self._version(pk), self.checked(request, BlockBody)
        row = engine_blocking.block(
            actor=self.principal.actor, version=version, now=self.now, **body
        )
        return self._shown(row)

    def _shown(self, row: EngineVersion, code: int = status.HTTP_200_OK) -> Response:
        return Response(VersionDetail(row, context={"now": self.now}).data, status=code)

    def _version(self, pk: str) -> EngineVersion:
        access.operator(self.principal)
        found = EngineVersion.objects.filter(pk=pk).first()
        if found is None:
            raise NotFound("engine version")
        return found
