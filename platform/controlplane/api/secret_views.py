"""What opens a project's sources. Values come in by POST and PUT, and leave by no answer."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.tenancy import access, project_secrets
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import ProjectSecret


class SecretView(serializers.ModelSerializer[ProjectSecret]):
    object = serializers.CharField(default="secret", read_only=True)
    project = serializers.CharField(source="project_id")

    class Meta:
        model = ProjectSecret
        fields = (
            "id",
            "object",
            "project",
            "kind",
            "name",
            "created_at",
            "created_by",
            "changed_at",
            "used_at",
        )


class SecretValueBody(serializers.Serializer[Any]):
    value = serializers.DictField(child=serializers.CharField(), write_only=True)


class SecretBody(SecretValueBody):
    project = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(project_secrets.Kind))
    name = serializers.CharField(default=project_secrets.DEFAULT)


class Secrets(HouseViewSet):
    serializer_class = SecretView
    queryset = ProjectSecret.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=SecretView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = access.secrets(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, SecretView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(SecretView(access.secret(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=SecretBody, responses={201: SecretView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, SecretBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_SECRETS)
        secret = project_secrets.create_secret(
            actor=self.principal.actor, project=project, now=self.now, **body
        )
        return Response(SecretView(secret).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=SecretValueBody, responses=SecretView)
    def update(self, request: Request, pk: str) -> Response:
        secret = access.secret(self.principal, pk, Permission.MANAGE_SECRETS)
        body = self.checked(request, SecretValueBody)
        changed = project_secrets.replace_secret(
            actor=self.principal.actor, secret=secret, value=body["value"], now=self.now
        )
        return Response(SecretView(changed).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        secret = access.secret(self.principal, pk, Permission.MANAGE_SECRETS)
        project_secrets.delete_secret(actor=self.principal.actor, secret=secret, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)
