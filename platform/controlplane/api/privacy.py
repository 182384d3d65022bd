"""The room's table, classified: replies that are repeated."""

from compliance.privacy import registry
from compliance.privacy.registry import PROCESSOR, levels
from controlplane.api.models import StoredReply


def register() -> None:
    registry.table(
        StoredReply,
        category="access",
        role=PROCESSOR,
        purpose="answering a repeated request as the first one",
        basis="instruction",
        retention="stored_reply",
        location="database-sealed",
        columns=levels(
            none="id fingerprint status created_at",
            pseudonymous="principal key",
            secrets="sealed_body",
        ),
    )
