"""Sealing for a subject: bound to place and person, and gone everywhere once its key is."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from compliance import audit, keys, sealing, tombstones
from compliance.keys import boxes, destroying
from compliance.models import AuditEvent, DataKey, EventSecret, KeyDestruction, Tombstone
from compliance.subjects import Subject

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
ADA = Subject("person", "usr_01k00000000000000000000000")
BOB = Subject("person", "usr_01k00000000000000000000001")
OURS = Subject("organization", "org_01k00000000000000000000000")
ONE = audit.Actor("user", "usr_01k00000000000000000000008", "session")
TWO = audit.Actor("user", "usr_01k00000000000000000000009", "session")
KEEP = audit.Target("backup", "bak_1")

pytestmark = pytest.mark.django_db


def test_a_blob_opens_only_where_it_belongs() -> None:
    blob = keys.seal(b"ada@example.eu", subject=ADA, context="row:1")
    other = keys.seal(b"bob@example.eu", subject=BOB, context="row:1")
    assert keys.unseal(memoryview(blob), subject=ADA, context="row:1") == b"ada@example.eu"
    assert b"ada" not in blob and blob != keys.seal(b"ada@example.eu", subject=ADA, context="row:1")
    for subject, context in ((ADA, "row:2"), (BOB, "row:1"), (OURS, "row:1")):
        with pytest.raises(sealing.SealBroken):
            keys.unseal(blob, subject=subject, context=context)
    head = len(boxes.MAGIC) + 29
    for forged in (
        other[:head] + blob[head:],  # another's key
        blob[:-1] + bytes([blob[-1] ^ 1]),
        blob[: head + 5],
        blob[:4],
        boxes.MAGIC + b"dk_" + b"0" * 26 + blob[head:],
    ):
        with pytest.raises(sealing.SealBroken):
            keys.unseal(forged, subject=ADA, context="row:1")


def test_a_wrapped_key_in_another_row_does_not_open() -> None:
    blob = keys.seal(b"x", subject=ADA, context="row:1")
    keys.seal(b"x", subject=BOB, context="row:1")
    theirs = DataKey.objects.get(subject_id=BOB.id)
    DataKey.objects.filter(subject_id=ADA.id).update(wrapped=theirs.wrapped)
    boxes.forget()
    with pytest.raises(sealing.SealBroken):
        keys.unseal(blob, subject=ADA, context="row:1")


def test_what_the_master_key_sealed_stays_readable() -> None:
    old = sealing.seal(b"before", context="row:1")
    assert keys.unseal(old, subject=ADA, context="row:1") == b"before"
    with pytest.raises(sealing.SealBroken):
        keys.unseal(old, subject=ADA, context="row:2")


def test_a_subjects_next_epoch_begins_by_itself() -> None:
    first = keys.seal(b"one", subject=OURS, context="c")
    DataKey.objects.update(created_at=NOW - timedelta(days=900))
    second = keys.seal(b"two", subject=OURS, context="c")
    assert boxes.key_of(first) != boxes.key_of(second)
    assert DataKey.objects.count() == 2
    assert keys.unseal(first, subject=OURS, context="c") == b"one"
    assert keys.state(OURS) == "active"
    assert keys.state(ADA) == "none"


# --- destruction ---------------------------------------------------------------------------


def asked(subject: Subject = ADA) -> KeyDestruction:
    return destroying.request(actor=ONE, subject=subject, reason_code="erasure", now=NOW)


def test_one_person_alone_destroys_nothing() -> None:
    blob = keys.seal(b"x", subject=ADA, context="c")
    wanted = asked()
    with pytest.raises(destroying.Refused) as caught:
        destroying.approve(actor=ONE, destruction=wanted, now=NOW)
    assert caught.value.code == "same_person"
    with pytest.raises(destroying.Refused):
        destroying.approve(actor=audit.SYSTEM, destruction=wanted, now=NOW)
    with pytest.raises(destroying.Refused):
        asked()
    assert keys.unseal(blob, subject=ADA, context="c") == b"x"
    # The database holds it too, whatever the code says.
    with pytest.raises(IntegrityError), transaction.atomic():
        KeyDestruction.objects.update(state="done", decided_by=ONE.id)


def test_what_two_destroy_is_gone_and_certified() -> None:
    blob = keys.seal(b"x", subject=ADA, context="c")
    audit.record(
        actor=audit.SYSTEM, action="backup.create", target=KEEP, log=audit.PLATFORM, now=NOW
    )
    done = destroying.approve(actor=TWO, destruction=asked(), now=NOW)
    assert done.key_ids == [boxes.key_of(blob)]
    assert done.backups_until == (NOW + timedelta(days=31 * 13)).date()
    event = AuditEvent.objects.get(id=done.event_id)
    said = {one["path"]: one["to"] for one in json.loads(bytes(event.body))["change"]}
    assert said == {
        done.key_ids[0]: "destroyed",
        "backups_until": done.backups_until.isoformat(),
        "requested_by": ONE.id,
        "destruction": done.id,
    }
    for _ in range(2):  # with the key still unwrapped here, and without
        with pytest.raises(keys.KeyDestroyed):
            keys.unseal(blob, subject=ADA, context="c")
        boxes.forget()
    with pytest.raises(keys.KeyDestroyed):
        keys.seal(b"y", subject=ADA, context="c")
    assert keys.state(ADA) == "destroyed"
    again = keys.destroy(subjects=[ADA], actor=TWO, reason_code="erasure", now=NOW)
    assert again == done.key_ids
    assert AuditEvent.objects.filter(action="data_key.destroy").count() == 1


def test_nothing_more_is_kept_of_whom_was_erased() -> None:
    """The event stands, and its commitments; the values have no opening any more, old or new."""
    given: dict[str, Any] = {
        "action": "user.create",
        "target": audit.Target("user", ADA.id),
        "now": NOW,
    }
    before = audit.record(
        actor=audit.SYSTEM, **given, log=audit.PLATFORM, personal={"email": "ada@example.eu"}
    )
    first = AuditEvent.objects.get(id=before)
    assert audit.opening(first, "email") == "ada@example.eu"
    assert keys.destroy(subjects=[ADA, BOB], actor=TWO, reason_code="erasure", now=NOW)
    assert keys.state(BOB) == "destroyed"  # who had no key gets none
    assert audit.opening(first, "email") is None
    after = audit.record(
        actor=audit.SYSTEM, **given, log=audit.PLATFORM, personal={"email": "ada@example.eu"}
    )
    assert not EventSecret.objects.filter(event_id=after).exists()
    assert json.loads(bytes(AuditEvent.objects.get(id=after).body))["d"]


def test_a_restored_backup_destroys_them_again() -> None:
    blob = keys.seal(b"x", subject=ADA, context="c")
    vault = boxes.create(OURS, DataKey.VAULT, NOW)
    older = list(DataKey.objects.all())
    keys.destroy(subjects=[ADA, BOB], actor=TWO, reason_code="erasure", now=NOW)
    destroying.destroy_one(key=vault, actor=TWO, reason_code="retention_over", now=NOW)
    stones = list(Tombstone.objects.filter(action="data_key.destroy"))
    assert len(stones) == 3
    DataKey.objects.all().delete()
    DataKey.objects.bulk_create(older)  # as a backup from before has them
    assert keys.unseal(blob, subject=ADA, context="c") == b"x"
    assert tombstones.replay(stones, NOW) == {"data_key.destroy": 2}
    assert not DataKey.objects.filter(destroyed_at=None).exists()
    assert {keys.state(ADA), keys.state(BOB)} == {"destroyed"}
    with pytest.raises(keys.KeyDestroyed):
        keys.unseal(blob, subject=ADA, context="c")


def test_a_key_that_is_made_meanwhile_is_destroyed_too(transactional_db: None) -> None:
    """Whoever makes one comes before the destruction, and is seen by it, or after, and is refused:
    a writer that has not committed holds it up."""
    made, go = Event(), Event()

    def write() -> None:
        with transaction.atomic():
            keys.seal(b"x", subject=ADA, context="c")
            made.set()
            assert go.wait(20)
        connection.close()

    def end() -> list[str]:
        try:
            return keys.destroy(subjects=[ADA], actor=TWO, reason_code="erasure", now=NOW)
        finally:
            connection.close()

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        assert made.wait(20)
        ending = pool.submit(end)
        with connection.cursor() as cursor:
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while True:
                cursor.execute(waits)
                if cursor.fetchone()[0]:
                    break
        assert not ending.done()
        go.set()
        writing.result(20)
        assert len(ending.result(20)) == 1
    assert keys.state(ADA) == "destroyed"
