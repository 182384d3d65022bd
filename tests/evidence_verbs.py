"""Verbs of evidence, done once: part of tests/test_verbs.py."""

from datetime import UTC, datetime
from typing import Any

from billing.models import UsageInbox
from controlplane.residency import receipts

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def receipt(walk: Any) -> None:
    """Of a request of the walk's project; a signer runs."""
    request = {"request_id": "req_1", "project_id": walk.kept.project.id}
    request |= dict.fromkeys(("gateway_id", "key_id", "endpoint_id", "replica_id"), "")
    UsageInbox.objects.create(
        **request,
        **{"operation": "chat.completions", "status": 200, "finish": "", "counted_by": ""},
        **{"input_tokens": 1, "cached_tokens": 0, "output_tokens": 1},
        **dict.fromkeys(("opened_at", "closed_at", "booked_at"), NOW),
    )
    asked = {"project": walk.kept.project, "request_id": "req_1"}
    walk.do(receipts.issue, "receipt.issue", **asked)
