"""What came in from other installations: the operator's to take over, and to look at."""

from typing import Any, cast

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.upload_views import Octets
from controlplane.api.views import HouseViewSet
from controlplane.switching import bundle, taking
from controlplane.switching.models import SwitchingImport
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class ImportView(serializers.ModelSerializer[SwitchingImport]):
    object = serializers.CharField(default="switching_import", read_only=True)
    organization = serializers.CharField(source="organization_id")

    class Meta:
        model = SwitchingImport
        fields = (
            *("id", "object", "organization", "origin", "bundle_id", "bundle_sha256"),
            *("size_bytes", "counts", "notes", "ids", "created_at", "created_by"),
        )


class SwitchingImports(HouseViewSet):
    serializer_class = ImportView
    queryset = SwitchingImport.objects.none()
    parser_classes = (Octets,)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        access.operator(self.principal)

    def list(self, request: Request) -> Response:
        return self.page(SwitchingImport.objects.all(), ImportView)

    def retrieve(self, request: Request, pk: str) -> Response:
        found = SwitchingImport.objects.filter(pk=pk).first()
        if found is None:
            raise NotFound("switching import")
        return Response(ImportView(found).data)

    @extend_schema(
        parameters=[
            OpenApiParameter("vkey", str, required=True, many=True, description="who signed it"),
            OpenApiParameter("region", str, required=True),
            OpenApiParameter("name", str, description="of the organization; as it was called"),
            OpenApiParameter("pool", str, many=True, description="THEIRS=OURS, by id or name"),
        ],
        request={"application/octet-stream": bytes},
        responses={201: ImportView},
    )
    def create(self, request: Request) -> Response:
        """The body is the bundle; the same one again answers what it came to."""
        asked = request.query_params
        pools = dict(one.partition("=")[::2] for one in asked.getlist("pool"))
        choice = taking.Choice(asked.get("region", ""), asked.get("name", ""), pools)
        done = taking.come_in(
            cast(bundle.Readable, request.data),
            asked.getlist("vkey"),
            actor=self.principal.actor,
            choice=choice,
            now=self.now,
        )
        return Response(ImportView(done).data, status=status.HTTP_201_CREATED)
