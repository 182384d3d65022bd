"""What a restored database goes through before anybody may use it.

Run as the tables' owner, in one transaction but for the migrations before it and the grants after
it: until the grants the running roles can read nothing. It may be repeated. After a restore that
somebody else's tools made (a point in time, a snapshot of a disk) it is what is left to do.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import F

from compliance import audit, grants, tombstones
from compliance.log import succession
from compliance.models import Tombstone
from controlplane.endpoints import lifecycle
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import EnrollmentToken, Node
from workers.backup import journal

# Further than a lost stretch of time can have drawn: gateways refuse what is older than they saw.
GENERATIONS = 1_000_000_000
VERSIONS = 1_000_000
ISSUED = frozenset({"invoice.finalise", "invoice.credit", "invoice.advance"})


@dataclass(frozen=True)
class Reopened:
    """How much was ended again, by action, and what else was done away with."""

    ended: dict[str, int] = field(default_factory=dict)
    tombstones: int = 0
    sessions: int = 0
    enrollment_tokens: int = 0
    lost_invoices: list[str] = field(default_factory=list)  # issued since; for people to look at


def reopen(
    *,
    backup_id: str,
    snapshot_at: datetime,
    stones: list[Tombstone],
    now: datetime,
    facts: dict[str, Any] | None = None,
) -> Reopened:
    """Raises tombstones.UnknownEnd, and then nothing is opened."""
    call_command("migrate", interactive=False, verbosity=0)
    with transaction.atomic():
        with connection.cursor() as cursor:
            _begin_anew(cursor)
        done = Reopened(
            ended=tombstones.replay(stones, now),
            tombstones=len(stones),
            lost_invoices=sorted(
                str(one.facts["number"]) for one in stones if one.action in ISSUED
            ),
            # Who had signed out since would be signed in again.
            sessions=Session.objects.all().delete()[0],
            # One that has been used since would let in another.
            enrollment_tokens=EnrollmentToken.objects.filter(
                used_at=None, expires_at__gt=now
            ).update(expires_at=now),
        )
        _await_nodes(now)
        # What was signed since is lost here: `stoa evidence succeed` goes on from it.
        succession.mark_restored()
        # An agent that heard a later list takes this one at once.
        Node.objects.update(desired_version=F("desired_version") + VERSIONS)
        audit.record(
            actor=audit.SYSTEM,
            action="backup.restore",
            target=audit.Target("backup", backup_id),
            log=audit.PLATFORM,
            now=now,
            change=[
                audit.Change("recovery_point", None, audit.stamp(snapshot_at)),
                audit.Change("tombstones", None, done.tombstones),
                audit.Change("ended", None, dict(done.ended)),
                audit.Change("lost_invoices", None, list(done.lost_invoices)),
                *(audit.Change(name, None, value) for name, value in (facts or {}).items()),
            ],
        )
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS stoa_restoring")
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    return done


def _await_nodes(now: datetime) -> None:
    """Nothing is routed to, or charged for, that no node has vouched for since. A node that still
    serves is adopted by its next report, one that lost its engines starts them."""
    ready = Replica.objects.filter(state=State.READY).order_by("id")
    for replica_id in ready.values_list("id", flat=True):
        lifecycle.advance(
            replica_id,
            State.UNREACHABLE,
            reason=Reason.NODE_UNREACHABLE,
            detail="restored from a backup: its node was not heard since",
            now=now,
        )


def stones(folder: Path | None) -> list[Tombstone]:
    """Raises journal.JournalBroken, OSError."""
    return journal.missing(folder) if folder is not None else []


def _begin_anew(cursor: Any) -> None:
    """What counts in this cluster's own transactions, or was seen further on elsewhere."""
    cursor.execute("DELETE FROM gateway.changes")
    cursor.execute(
        "SELECT setval('gateway.directory_generation',"
        " (SELECT last_value FROM gateway.directory_generation) + %s)",
        [GENERATIONS],
    )
