"""Whether a start gets on, and how far it is: what deadlines and people go by."""

from datetime import datetime, timedelta
from typing import Any

from controlplane.endpoints import notify
from controlplane.endpoints.models import Replica
from controlplane.fleet import wire

_MOST = 2**62
_STEP = timedelta(seconds=1)  # less is not worth a row


def note(row: Replica, said: wire.ReplicaReport, now: datetime) -> None:
    """Keep what the node says of a replica that starts.

    More bytes of the weights are progress; fewer are another beginning. Its node knows more:
    `stalled_s` is how long nothing else moved either.
    """
    facts: dict[str, Any] = {}
    done, total = (min(max(count, 0), _MOST) for count in (said.bytes_done, said.bytes_total))
    if (done, total) != (row.bytes_done, row.bytes_total):
        facts |= {"bytes_done": done, "bytes_total": total}
    moved = moved_at(row, said, now, more=done > row.bytes_done)
    if moved is not None:
        facts["progress_at"] = moved
    if not facts:
        return
    Replica.objects.filter(id=row.id).update(**facts)
    if "bytes_done" in facts:
        notify.changed(row.endpoint_id)


def moved_at(
    row: Replica, said: wire.ReplicaReport, now: datetime, *, more: bool
) -> datetime | None:
    """When it last got on, where that is news."""
    if more:
        return now
    # A number from a node, which may be anything.
    known = row.progress_at or row.state_at
    longest_s = max(0.0, (now - known).total_seconds())
    stalled_s = min(max(0.0, said.stalled_s), longest_s)
    at = now - timedelta(seconds=stalled_s)
    return at if at - known >= _STEP else None
