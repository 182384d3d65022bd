"""After a restore: a log whose head is lost is closed, and another one goes on from that head.

History is never signed again. The signer closes the origin for good and says the last head that it
signed; the successor's first leaf is an event that has that head. Leaves that no kept head covers
(of before the restore point, or written since) get a place in the successor, so that none is left
without a signature.
"""

import base64
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Max

from compliance import audit, locks
from compliance.log import sequencer, signing
from compliance.log.models import Log, LogCheckpoint, LogPending


class NothingToSucceed(Exception):
    """The log's head is not refused, or there is no such log."""


def waiting() -> list[str]:
    """The owners of logs whose head the signer refuses, or that were restored."""
    found = Log.objects.filter(closed_at=None).exclude(refused="").order_by("owner")
    return list(found.values_list("owner", flat=True))


def mark_restored() -> int:
    """Part of reopening a restored database: no head is signed until each log is succeeded."""
    return Log.objects.filter(closed_at=None).update(refused="restored")


def succeed(owner: str, *, actor: audit.Actor, now: datetime, region: str = "") -> Log:
    """The open successor. Raises NothingToSucceed, SignerAway. May be repeated after a kill."""
    with transaction.atomic():
        locks.hold(sequencer.LOCK)
        old = Log.objects.select_for_update().filter(owner=owner, closed_at=None).first()
        if old is None or not old.refused:
            raise NothingToSucceed(f"no head of {owner} is refused")
        # The signer's part first: if we die after it, its answer is the same the next time.
        head = signing.close(old.origin)
        covered = _covered(old, head)
        old.closed_at = now
        old.save(update_fields=("closed_at",))
        new = Log.objects.create(
            owner=owner,
            number=old.number + 1,
            origin=signing.origin_of(owner, old.number + 1),
            opened_at=now,
        )
        event = audit.record(
            actor=actor,
            action="log.succeed",
            target=audit.Target("log", new.id),
            log=owner,
            now=now,
            region=region,
            change=[
                audit.Change("origin", old.origin, new.origin),
                audit.Change("predecessor.size", None, head.size),
                audit.Change("predecessor.root", None, base64.b64encode(head.root).decode()),
                audit.Change("predecessor.note", None, head.note),
                audit.Change("predecessor.kept_heads_size", None, covered),
                audit.Change("reason", None, old.refused),
            ],
        )
        first = LogPending.objects.filter(event_id=event).values_list(
            "event_id", "owner", "leaf_hash", "recorded_at", "queued_at"
        )
        sequencer.append(list(first), now)
        with connection.cursor() as cursor:
            cursor.execute("SELECT stoa_requeue_leaves(%s, %s)", [old.id, covered])
    new.refresh_from_db()
    return new


def _covered(old: Log, head: signing.Head) -> int:
    """How many leaves the last head covers that is kept here and that the signer's continues."""
    kept = LogCheckpoint.objects.filter(log_id=old.id, size__lte=head.size)
    return int(kept.aggregate(size=Max("size"))["size"] or 0)
