"""What a node did by itself: orphans that it ended, the proofs that its devices are clean."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import HouseViewSet
from controlplane.fleet.models import Node, NodeEvent
from controlplane.tenancy import access
from controlplane.tenancy.errors import NotFound


class NodeEventView(serializers.ModelSerializer[NodeEvent]):
    object = serializers.CharField(default="node_event", read_only=True)
    node = serializers.CharField(source="node_id")
    device = serializers.IntegerField(source="device_index", allow_null=True)
    detail = serializers.DictField(help_text="What was measured: texts and whole numbers.")

    class Meta:
        model = NodeEvent
        fields = (
            "id",
            "object",
            "node",
            "kind",
            "at",
            "recorded_at",
            "device",
            "from_organization",
            "to_organization",
            "detail",
        )


class NodeEvents(HouseViewSet):
    """The operator's. To anybody else there are none."""

    serializer_class = NodeEventView
    queryset = NodeEvent.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("kind", str, description="One kind alone.")],
        responses=NodeEventView(many=True),
    )
    def list(self, request: Request, pk: str) -> Response:
        access.operator(self.principal)
        if not Node.objects.filter(pk=pk).exists():
            raise NotFound("node")
        found = NodeEvent.objects.filter(node_id=pk)
        if kind := request.query_params.get("kind"):
            found = found.filter(kind=kind)
        return self.page(found, NodeEventView)
