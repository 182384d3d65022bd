"""Verbs of evidence, done once: part of tests/test_verbs.py."""

from datetime import UTC, datetime
from typing import Any

from billing.models import UsageInbox
from compliance.log import handover
from controlplane.residency import receipts

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def walk(walk: Any) -> None:
    """Where a signer runs."""
    receipt(walk)
    hand_over(walk)


def receipt(walk: Any) -> None:
    """Of a request of the walk's project."""
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


def hand_over(walk: Any) -> None:
    """The signer's key to the next."""
    for owner in handover.owners():
        walk.do(handover.announce, "log.rotate_key", owner=owner)
    walk.do(handover.retire, "log.retire_key", now=NOW + handover.OVERLAP)
