"""Other names for a project's endpoints, with the order in which they are tried."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import aliases
from controlplane.endpoints.models import Alias
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission


class AliasView(serializers.ModelSerializer[Alias]):
    object = serializers.CharField(default="alias", read_only=True)
    project = serializers.CharField(source="project_id")

    class Meta:
        model = Alias
        fields = ("id", "object", "project", "name", "targets", "fallback_on", "created_at")


class AliasChangeBody(serializers.Serializer[Any]):
    targets = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Endpoints of the project, `name` or `name:adapter`, in the order to try.",
    )
    fallback_on = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text=f"When the next is tried: {', '.join(aliases.FALLBACKS)}.",
    )


class AliasBody(AliasChangeBody):
    project = serializers.CharField()
    name = serializers.CharField(trim_whitespace=False, allow_blank=True)
    targets = serializers.ListField(child=serializers.CharField())


class Aliases(HouseViewSet):
    serializer_class = AliasView
    queryset = Alias.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=AliasView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = endpoint_access.aliases(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, AliasView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(AliasView(endpoint_access.alias(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=AliasBody, responses={201: AliasView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, AliasBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_ENDPOINTS)
        alias = aliases.create_alias(
            actor=self.principal.actor, project=project, now=self.now, **body
        )
        return Response(AliasView(alias).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=AliasChangeBody, responses=AliasView)
    def partial_update(self, request: Request, pk: str) -> Response:
        alias = endpoint_access.alias(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        body = self.checked(request, AliasChangeBody)
        changed = aliases.update_alias(
            actor=self.principal.actor, alias=alias, now=self.now, **body
        )
        return Response(AliasView(changed).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        alias = endpoint_access.alias(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        aliases.delete_alias(actor=self.principal.actor, alias=alias, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)
