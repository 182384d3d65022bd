"""What ends of the room's rows."""

from compliance.privacy import retention
from controlplane.api.models import StoredReply


def register() -> None:
    retention.rows(
        "stored_reply",
        lambda before: StoredReply.objects.filter(created_at__lt=before),
        person="principal",
    )
