"""Who runs which line, until when, and what came of it. Every step is one statement or one
transaction, guarded by the owner and the attempt it was taken for, so that it may be killed,
repeated or come too late.

What became of an attempt whose runner was lost is looked up in the books. If all of its answer
was delivered, it was charged: the line is run again under the same id, for nothing. If it was cut
off, nothing of it was charged, and it gets a new id. If the books know nothing of it, it keeps its
id: should it turn up there later, it counts once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, QuerySet

from billing.models import UsageInbox
from controlplane.batches.models import Batch, Line, LineState

_DELIVERED = "complete"  # as a gateway closes what it has answered whole

# Materialized: a subquery may be run again for each row, and would then lock beyond its limit.
_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT l.id FROM batches_line l JOIN batches_batch b ON b.id = l.batch_id
    WHERE l.batch_id = %(batch)s AND l.model = %(model)s AND l.state = 'pending'
      AND (l.not_before IS NULL OR l.not_before <= %(now)s)
      AND b.status = 'in_progress' AND b.ends_as = '' AND b.expires_at > %(now)s
    ORDER BY l.number LIMIT %(most)s FOR UPDATE OF l SKIP LOCKED)
UPDATE batches_line l
SET state = 'running', owner = %(owner)s, lease_until = %(until)s, began_at = %(now)s
FROM due WHERE l.id = due.id RETURNING l.id
"""


# From one model to the next in the index of those that wait: however many do, none is counted.
_STREAMS = """
WITH RECURSIVE open AS (
    SELECT b.id, b.project_id FROM batches_batch b
    JOIN tenancy_project p ON p.id = b.project_id
    JOIN tenancy_organization o ON o.id = p.organization_id
    WHERE b.status = 'in_progress' AND b.ends_as = '' AND b.expires_at > %(now)s
      AND (%(region)s = '' OR o.region_code = %(region)s)
), found AS (
    SELECT open.id, open.project_id, (
        SELECT min(l.model) FROM batches_line l WHERE l.batch_id = open.id AND l.state = 'pending'
    ) AS model FROM open
    UNION ALL
    SELECT found.id, found.project_id, (
        SELECT min(l.model) FROM batches_line l
        WHERE l.batch_id = found.id AND l.state = 'pending' AND l.model > found.model
    ) FROM found WHERE found.model IS NOT NULL
)
SELECT id, project_id, model FROM found
WHERE EXISTS (
    SELECT 1 FROM batches_line l
    WHERE l.batch_id = found.id AND l.model = found.model AND l.state = 'pending'
      AND (l.not_before IS NULL OR l.not_before <= %(now)s))
ORDER BY id, model
"""


@dataclass(frozen=True)
class Stream:
    """Lines of one batch that ask for one model, and wait."""

    batch_id: str
    project_id: str
    model: str


def streams(now: datetime, region: str = "") -> list[Stream]:
    """All that could be run now, in one region or in all, oldest batch first."""
    with connection.cursor() as cursor:
        cursor.execute(_STREAMS, {"now": now, "region": region})
        return [Stream(*row) for row in cursor.fetchall()]


def claim(stream: Stream, owner: str, *, now: datetime, lease_s: float, most: int) -> list[Line]:
    """At most so many of its lines, in order, each for this owner alone until the lease ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            _CLAIM,
            {
                "owner": owner,
                "until": now + timedelta(seconds=lease_s),
                "now": now,
                "batch": stream.batch_id,
                "model": stream.model,
                "most": most,
            },
        )
        ids = [id for (id,) in cursor.fetchall()]
    return list(Line.objects.filter(id__in=ids).order_by("number"))


def renew(owner: str, ids: Sequence[str], *, now: datetime, lease_s: float) -> int:
    """Those of these lines that the owner still runs."""
    mine = Line.objects.filter(id__in=ids, owner=owner, state=LineState.RUNNING)
    return mine.update(lease_until=now + timedelta(seconds=lease_s))


def settle(
    line: Line,
    owner: str,
    *,
    result: bytes,
    failed: bool,
    now: datetime,
    tokens: tuple[int, int] | None = None,
) -> bool:
    """Its one result, sealed, and the tokens of its prompt and answer where they are known. False,
    and nothing changes, where it is somebody else's by now."""
    prompt, output = tokens or (None, None)
    return bool(
        _mine(line, owner).update(
            state=LineState.FAILED if failed else LineState.DONE,
            result=result,
            owner="",
            lease_until=None,
            ended_at=now,
            prompt_tokens=prompt,
            output_tokens=output,
        )
    )


def put_back(line: Line, owner: str, *, not_before: datetime, fault: bool, known: bool) -> bool:
    """It is to be run again; `fault`: it may have been an engine's or the line's own.

    `known`: the books were told that nothing was delivered, or never heard of it. Else, and where
    its id had been used before, they are asked, as for a lost runner's. What is paid stays so.
    """
    changes: dict[str, object] = {"state": LineState.PENDING, "owner": "", "lease_until": None}
    if fault:
        changes["failures"] = F("failures") + 1
    if known and not line.unsure:
        changes["attempt"] = F("attempt") + (0 if line.paid else 1)
    elif not line.paid:
        changes["lease_until"] = not_before  # taken over from here when that is past
        changes |= {"state": LineState.RUNNING, "owner": f"left:{owner}"[:64]}
    return bool(_mine(line, owner).update(not_before=not_before, **changes))


def take_over(now: datetime, *, most: int = 500) -> int:
    """Lines whose leases are over wait again; returns how many."""
    with transaction.atomic():
        over = list(
            Line.objects.select_for_update(skip_locked=True)
            .filter(state=LineState.RUNNING, lease_until__lt=now)
            .order_by("lease_until")[:most]
        )
        booked = _finishes([line.request_id for line in over])
        for line in over:
            finish = booked.get(line.request_id)
            if finish is not None and finish != _DELIVERED:
                line.attempt += 1
            line.paid, line.unsure = finish == _DELIVERED, finish is None
            line.state, line.owner, line.lease_until = LineState.PENDING, "", None
        fields = ["attempt", "paid", "unsure", "state", "owner", "lease_until"]
        Line.objects.bulk_update(over, fields)
    return len(over)


def waits(batch_id: str, code: str) -> None:
    """What keeps a batch's lines from running now; empty when they run."""
    Batch.objects.filter(id=batch_id).exclude(waits_for=code).update(waits_for=code)


def _mine(line: Line, owner: str) -> QuerySet[Line]:
    return Line.objects.filter(
        id=line.id, owner=owner, state=LineState.RUNNING, attempt=line.attempt
    )


def _finishes(request_ids: Collection[str]) -> dict[str, str]:
    rows = UsageInbox.objects.filter(request_id__in=request_ids)
    return dict(rows.values_list("request_id", "finish"))
