"""What ends of the room's rows."""

from compliance.privacy import retention
from controlplane.fleet.models import NodeFinding


def register() -> None:
    retention.rows("node_finding", lambda before: NodeFinding.objects.filter(ended_at__lt=before))
