"""A restored database: nothing of its logs is signed again, and each goes on from its last head."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from compliance import audit
from compliance.log import checkpoints, merkle, notes, proofs, sequencer, signing, succession
from compliance.models import AuditEvent, Log, LogLeaf
from tests.signers import running

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
OURS = "org_00000000000000000000000001"

pytestmark = pytest.mark.django_db


def happen(times: int) -> list[str]:
    made = [
        audit.record(
            actor=audit.SYSTEM,
            action="price.create",
            target=audit.Target("price", f"prc_{n}"),
            log=OURS,
            now=NOW,
        )
        for n in range(times)
    ]
    while sequencer.sequence(NOW):
        pass
    return made


def lose(events: list[str], log: Log) -> None:
    """As a restore of an older backup does: the superuser takes away what came since."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("auditevent", "logleaf", "logcheckpoint"):
            cursor.execute(f"ALTER TABLE compliance_{table} DISABLE TRIGGER append_only_rows")
        cursor.execute("DELETE FROM compliance_auditevent WHERE id = ANY(%s)", [events])
        cursor.execute("DELETE FROM compliance_logleaf WHERE event_id = ANY(%s)", [events])
        cursor.execute("DELETE FROM compliance_logcheckpoint WHERE size > %s", [log.size])
        for table in ("auditevent", "logleaf", "logcheckpoint"):
            cursor.execute(f"ALTER TABLE compliance_{table} ENABLE ALWAYS TRIGGER append_only_rows")
    Log.objects.filter(id=log.id).update(size=log.size, peaks=bytes(log.peaks))


def test_a_log_that_lost_its_end_is_closed_and_succeeded() -> None:
    with running():
        key = signing.verifier()
        happen(4)
        checkpoints.sign_due(NOW)
        unsigned = happen(2)  # in the backup, with no head of their own in it
        backup = Log.objects.get(owner=OURS)
        lost = happen(3)
        checkpoints.sign_due(NOW + checkpoints.EVERY)
        last = checkpoints.newest(OURS)
        assert last is not None and last.size == 9

        lose(lost, backup)
        since = happen(5)  # more than was lost
        checkpoints.sign_due(NOW + 2 * checkpoints.EVERY)
        assert Log.objects.get(id=backup.id).refused == "inconsistent"
        new = succession.succeed(OURS, actor=audit.SYSTEM, now=NOW)
        while sequencer.sequence(NOW):
            pass
        checkpoints.sign_due(NOW + 3 * checkpoints.EVERY)
        head = checkpoints.newest(OURS)
        assert head is not None and head.log_id == new.id
        with pytest.raises(signing.Refused, match="closed"):
            signing.checkpoint(backup.origin, 9, bytes(last.root), [])

    assert new.origin == f"localhost/audit/t/{OURS}/2"
    first = AuditEvent.objects.get(id=LogLeaf.objects.get(log_id=new.id, index=0).event_id)
    assert first.action == "log.succeed"
    assert notes.open_note(last.note, [key]).split("\n")[1] == "9"
    said = bytes(first.body).decode()
    assert '"path":"predecessor.size","to":9' in said
    assert last.note.replace("\n", "\\n") in said
    order = LogLeaf.objects.filter(log_id=new.id).order_by("index").values_list("event_id")
    assert [event for (event,) in order] == [first.id, *sorted([*unsigned, *since])]
    for event in (*unsigned, *since):
        found = proofs.inclusion(event)
        assert found.origin == new.origin
        root = notes.parse_checkpoint(notes.open_note(found.note, [key])).root
        assert merkle.included(found.leaf_hash, found.index, found.size, found.proof, root)


def test_after_a_restore_no_head_is_signed_until_the_command_has_run() -> None:
    out = StringIO()
    with running():
        happen(2)
        assert succession.mark_restored() == 1
        assert checkpoints.sign_due(NOW) == 0
        call_command("evidence", "status", stdout=out)
        assert "  restored  " in out.getvalue()
        call_command("evidence", "succeed", stdout=out)
        assert f"localhost/audit/t/{OURS}/2 goes on" in out.getvalue()
        while sequencer.sequence(NOW):
            pass
        assert checkpoints.sign_due(NOW) == 1
        call_command("evidence", "succeed", stdout=out)
        assert "no head is refused" in out.getvalue()
        with pytest.raises(CommandError, match="no head of platform"):
            call_command("evidence", "succeed", "platform")
        call_command("evidence", "vkey", stdout=out)
        assert signing.vkey() in out.getvalue()
    head = checkpoints.newest(OURS)
    assert head is not None and head.size == 3


def test_without_a_signer_nothing_is_closed() -> None:
    happen(2)
    succession.mark_restored()
    with pytest.raises(CommandError, match="no signer answers"):
        call_command("evidence", "succeed")
    assert Log.objects.get().closed_at is None
