"""Models brought into nodes' caches before anybody needs them."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.idempotency import idempotent
from controlplane.api.views import HouseViewSet
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import pulls
from controlplane.endpoints.models import Pull, PullNode
from controlplane.fleet.models import Pool
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project


class PullNodeView(serializers.ModelSerializer[PullNode]):
    node = serializers.CharField(source="node_id")

    class Meta:
        model = PullNode
        fields = ("node", "state", "bytes_done", "bytes_total", "revision", "reason", "detail")


class PullView(serializers.ModelSerializer[Pull]):
    object = serializers.CharField(default="model_pull", read_only=True)
    project = serializers.CharField(source="project_id")
    pool = serializers.CharField(source="pool_id")
    nodes = PullNodeView(many=True)

    class Meta:
        model = Pull
        fields = (
            "id",
            "object",
            "project",
            "pool",
            "source",
            "secret",
            "model",
            "revision",
            "created_at",
            "cancelled_at",
            "nodes",
        )


class PullBody(serializers.Serializer[Any]):
    project = serializers.CharField()
    pool = serializers.CharField(help_text="A pool of the organization's own.")
    model = serializers.CharField(max_length=300)
    revision = serializers.CharField(default="", allow_blank=True, max_length=64)
    secret = serializers.CharField(default="", allow_blank=True, max_length=63)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`source` is a name that fields themselves use: it cannot be declared."""
        return {**super().get_fields(), "source": serializers.CharField(default="")}


class Pulls(HouseViewSet):
    serializer_class = PullView
    queryset = Pull.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("project", str, required=False)],
        responses=PullView(many=True),
    )
    def list(self, request: Request) -> Response:
        rows = endpoint_access.pulls(self.principal)
        if wanted := request.query_params.get("project"):
            rows = rows.filter(project_id=wanted)
        return self.page(rows, PullView)

    def retrieve(self, request: Request, pk: str) -> Response:
        return Response(PullView(endpoint_access.pull(self.principal, pk, Permission.READ)).data)

    @extend_schema(request=PullBody, responses={201: PullView})
    @idempotent
    def create(self, request: Request) -> Response:
        body = self.checked(request, PullBody)
        project = access.project(self.principal, body.pop("project"), Permission.MANAGE_ENDPOINTS)
        pull = pulls.pull_model(
            actor=self.principal.actor,
            project=project,
            pool=self._pool(project, body.pop("pool")),
            spec=pulls.PullSpec(**body),
            now=self.now,
        )
        return Response(PullView(pull).data, status=status.HTTP_201_CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Bring no more of it."""
        pull = endpoint_access.pull(self.principal, pk, Permission.MANAGE_ENDPOINTS)
        pulls.cancel_pull(actor=self.principal.actor, pull=pull, now=self.now)
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _pool(self, project: Project, id: str) -> Pool:
        found = endpoint_access.pools_to_fill(self.principal, project).filter(id=id).first()
        if found is None:
            raise NotFound("pool", field="pool")
        return found
