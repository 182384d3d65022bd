"""Where a replica stands, and each other node's reason, as the API shows it."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from controlplane.endpoints.explaining import Explained
from controlplane.fleet.models import Device


class HeldDeviceView(serializers.ModelSerializer[Device]):
    node = serializers.CharField(source="node_id")

    class Meta:
        model = Device
        fields = ("id", "node", "index", "kind")


class RejectedView(serializers.Serializer[Any]):
    node = serializers.CharField(help_text="Empty: what holds of all of them together.")
    reason = serializers.CharField()


class PlacementView(serializers.Serializer[Explained]):
    object = serializers.CharField(default="placement", read_only=True)
    at = serializers.DateTimeField(help_text="When it was decided; of one that waits, now.")
    nodes = serializers.ListField(
        source="node_ids",
        child=serializers.CharField(),
        help_text="By rank. Of one that waits, where it would go.",
    )
    devices = HeldDeviceView(many=True)
    rejected = serializers.SerializerMethodField()

    @extend_schema_field(RejectedView(many=True))
    def get_rejected(self, explained: Explained) -> list[dict[str, str]]:
        return [{"node": node, "reason": why} for node, why in sorted(explained.rejected.items())]
