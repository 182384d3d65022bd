"""Weights that a project brings itself, in pieces that may be taken up again."""

from typing import Any, cast

from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api import sending
from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import uploads
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Upload, UploadFile
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission


class UploadFileView(serializers.ModelSerializer[UploadFile]):
    class Meta:
        model = UploadFile
        fields = ("number", "path", "size_bytes", "sha256", "received_bytes", "verified")


class UploadView(serializers.ModelSerializer[Upload]):
    object = serializers.CharField(default="model_upload", read_only=True)
    project = serializers.CharField(source="project_id")
    files = UploadFileView(many=True)

    class Meta:
        model = Upload
        fields = (
            "id",
            "object",
            "project",
            "name",
            "created_at",
            "finished_at",
            "expires_at",
            "files",
        )


class DeclaredFile(serializers.Serializer[Any]):
    path = serializers.CharField(max_length=512)
    size_bytes = serializers.IntegerField(min_value=1, max_value=2**62)
    sha256 = serializers.CharField(max_length=64)


class UploadBody(serializers.Serializer[Any]):
    project = serializers.CharField()
    name = serializers.CharField(max_length=100)
    files = DeclaredFile(many=True)


class Octets(BaseParser):
    """The body as it comes."""

    media_type = "application/octet-stream"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return stream


class Uploads(HouseViewSet):
    serializer_class = UploadView
    queryset = Upload.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=UploadView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = endpoint_access.uploads(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, UploadView)

    def retrieve(self, request: Request, pk: str) -> Response:
        found = endpoint_access.upload(self.principal, pk, Permission.READ)
        return Response(UploadView(found).data)

    @extend_schema(request=UploadBody, responses={201: UploadView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, UploadBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_ENDPOINTS)
        upload = uploads.begin_upload(
            actor=self.principal.actor, project=project, now=self.now, **body
        )
        return Response(UploadView(upload).data, status=status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[OpenApiParameter("number", int), OpenApiParameter("offset", int)],
        request={"application/octet-stream": bytes},
        responses=UploadFileView,
    )
    @action(detail=True, methods=["put"], parser_classes=[Octets])
    def piece(self, request: Request, pk: str) -> Response:
        """The bytes of file `number` from `offset` on."""
        upload = endpoint_access.upload(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        place = {}
        for name in ("number", "offset"):
            text = request.query_params.get(name, "")
            if not text.isdecimal() or len(text) > 18:
                raise Invalid(f"expected a number in {name}", code="invalid", field=name)
            place[name] = int(text)
        file = uploads.take_piece(
            actor=self.principal.actor,
            upload=upload,
            body=cast(uploads.Readable, request.data),
            now=self.now,
            **place,
        )
        return Response(UploadFileView(file).data)

    @extend_schema(
        parameters=[OpenApiParameter("number", int)],
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    @action(detail=True, methods=["get"])
    def content(self, request: Request, pk: str) -> HttpResponseBase:
        """The bytes of file `number`, from any of them on (`Range`); the ETag is its SHA-256."""
        upload = endpoint_access.upload(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        text = request.query_params.get("number", "")
        if not text.isdecimal() or len(text) > 9:
            raise Invalid("expected a number", code="invalid", field="number")
        file, path = uploads.take_out(
            actor=self.principal.actor,
            upload=upload,
            number=int(text),
            start=sending.begins(request),
            now=self.now,
        )
        return sending.send(request, path, name=file.path.rpartition("/")[2], etag=file.sha256)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        upload = endpoint_access.upload(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        uploads.delete_upload(actor=self.principal.actor, upload=upload, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)
