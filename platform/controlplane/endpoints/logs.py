"""The newest lines of each replica's engine, as its node sends them."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Max, Q

from controlplane.endpoints import notify
from controlplane.endpoints.models import LogLine, Replica
from controlplane.fleet import wire
from controlplane.fleet.models import Node

KEEP_LINES = 2000
LINE_CHARACTERS = 2000
_MAX_NUMBER = 2**53


def append(node: Node, chunk: wire.LogChunk, now: datetime) -> int:
    """Keep what is new of a chunk; returns how many lines that was.

    A line that is there already, a replica that is not this node's, a replica whose end is
    confirmed long since: nothing happens. Beyond the newest KEEP_LINES, older lines go.
    """
    # Of a gang the log is rank 0's.
    whose = Q(node_id=node.id) | Q(members__node=node, members__rank=0)
    if not Replica.objects.filter(whose, id=chunk.replica_id).exists():
        return 0
    last = chunk.first_number + len(chunk.lines) - 1
    if not chunk.lines or last > _MAX_NUMBER:
        return 0
    first_kept = max(chunk.first_number, last - KEEP_LINES + 1)
    lines = [
        LogLine(replica_id=chunk.replica_id, number=number, text=clean(text))
        for number, text in enumerate(chunk.lines, chunk.first_number)
        if number >= first_kept
    ]
    mine = LogLine.objects.filter(replica_id=chunk.replica_id)
    with transaction.atomic():
        newest = mine.aggregate(last=Max("number"))["last"] or 0
        floor = max(newest, last) - KEEP_LINES
        fresh = [line for line in lines if line.number > floor]
        known = set(
            mine.filter(number__gte=first_kept, number__lte=last).values_list("number", flat=True)
        )
        LogLine.objects.bulk_create(fresh, ignore_conflicts=True)
        mine.filter(number__lte=floor).delete()
        if added := sum(line.number not in known for line in fresh):
            notify.changed(chunk.replica_id)
    return added


def tail(replica: Replica, count: int) -> list[LogLine]:
    """The newest `count` lines, oldest of them first."""
    newest = LogLine.objects.filter(replica=replica).order_by("-number")
    return list(newest[: max(0, min(count, KEEP_LINES))])[::-1]


def after(replica: Replica, number: int, limit: int = KEEP_LINES) -> list[LogLine]:
    """Lines beyond `number`, oldest first: what a follower has not seen yet."""
    return list(LogLine.objects.filter(replica=replica, number__gt=number)[:limit])


def clean(text: str) -> str:
    """As PostgreSQL can keep it and a page can show it."""
    return text.replace("\0", "�").encode("utf-8", "replace").decode()[:LINE_CHARACTERS]


def joined(lines: Sequence[str]) -> str:
    """The last lines of a failed engine, bounded."""
    return "\n".join(clean(line) for line in lines[-100:])
