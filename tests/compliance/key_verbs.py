"""The verbs of keys, each done once (tests/test_verbs.py)."""

from datetime import datetime, timedelta
from typing import Any

from compliance import audit, ids
from compliance.keys import boxes, destroying, rotation
from compliance.models import DataKey
from compliance.subjects import Subject

ASKED = audit.Actor("user", "usr_01k00000000000000000000009")


def walk(do: Any, now: datetime) -> None:
    """By a key-encryption key of the caller's own."""
    do(rotation.note_versions, "kms.rotate")
    one, two, three = (Subject("organization", ids.new("org")) for _ in range(3))
    for subject in (one, two, three):
        boxes.seal(b"x", subject=subject, context="c")
    vault = boxes.create(three, DataKey.VAULT, now)
    do(rotation.rotate, "kms.rotate")
    do(rotation.rewrap, "data_key.rewrap")
    later = now + timedelta(days=900)
    do(rotation.retire, "kms.retire", kek="file/1", now=later)
    asked: dict[str, Any] = {"subject": one, "reason_code": "contract_ended"}
    wanted = do(destroying.request, "key_destruction.request", **asked)
    do(destroying.refuse, "key_destruction.refuse", destruction=wanted)
    wanted = destroying.request(actor=ASKED, **asked, now=now)
    done = do(destroying.approve, "data_key.destroy", destruction=wanted)
    assert len(done.key_ids) == 1
    do(destroying.destroy, "data_key.destroy", subjects=[two], reason_code="erasure")
    do(destroying.destroy_one, "data_key.destroy", key=vault, reason_code="retention_over")
