"""From what gateways' workers wrote to a signal over time, and to the gaps between requests. Pure.

A row holds until the next one of the same worker; of a worker that is gone it holds for
`STALE_S`. Workers' loads add up.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.scaling.desired import Sample
from controlplane.scaling.load import Capacity, Load, utilization

STALE_S = 15.0  # three times a gateway's pace while it has something in flight
_NOTHING = timedelta(0)
_STALE = timedelta(seconds=STALE_S)

Worker = tuple[str, int]
Stretch = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Row:
    """`busy`: it had something since its last row. `idle_s`: since then nothing; None: it has."""

    worker: Worker
    at: datetime
    load: Load
    busy: bool
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class Quiet:
    """Between requests: the gaps that ended, in seconds, and since when another one lasts.

    `idle_s`: for how long since the look before nothing ran or waited.
    """

    gaps: tuple[float, ...] = ()
    since: datetime | None = None  # None: something runs or waits, or nothing ever did
    idle_s: float = 0.0


def samples(
    rows: Iterable[Row], capacity: Capacity, now: datetime, asked_since: datetime | None = None
) -> list[Sample]:
    """The utilization by age, oldest first. Since `asked_since` there is one request more."""
    changes: list[tuple[datetime, Load, int]] = []
    for mine in _by_worker(rows):
        for row, until in zip(mine, _ends(mine), strict=True):
            changes += [(row.at, row.load, 1), (until, row.load, -1)]
    if asked_since is not None:
        changes.append((asked_since, Load(running=1), 1))
    changes.sort(key=lambda change: change[0])
    uncached = kv = running = 0
    found: dict[float, Sample] = {}  # of one moment, the last word
    for at, load, sign in changes:
        if at > now and sign < 0:
            continue  # it holds still
        uncached += sign * load.uncached_tokens
        kv += sign * load.kv_tokens
        running += sign * load.running
        age_s = max(0.0, (now - at).total_seconds())
        found[age_s] = Sample(age_s, utilization(Load(uncached, kv, running), capacity))
    return list(found.values())


def quiet(
    rows: Iterable[Row], since: datetime | None, looked_at: datetime | None, now: datetime
) -> Quiet:
    """What is new since `looked_at`, when a gap had lasted `since`, or None: then something ran.

    A gap that it saw ended before is not told again.
    """
    gaps: list[float] = []
    known = looked_at if since is None else None
    stretches = _stretches(rows)
    for start, end in stretches:
        if since is not None:
            if end <= since:
                continue
            if start > since and (known is None or start > known):
                gaps.append((start - since).total_seconds())
        since = end
    open_since = None if since is None or since >= now else since
    return Quiet(tuple(gaps), open_since, _idle_s(stretches, looked_at or now, now))


def _idle_s(stretches: Iterable[Stretch], after: datetime, now: datetime) -> float:
    busy = (min(end, now) - max(start, after) for start, end in stretches)
    left = now - after - sum((one for one in busy if one > _NOTHING), _NOTHING)
    return max(0.0, left.total_seconds())


def _by_worker(rows: Iterable[Row]) -> list[list[Row]]:
    workers: defaultdict[Worker, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.at):
        workers[row.worker].append(row)
    return list(workers.values())


def _ends(rows: Sequence[Row]) -> list[datetime]:
    """Until when each of a worker's rows holds."""
    following = [row.at for row in rows[1:]] + [datetime.max.replace(tzinfo=rows[0].at.tzinfo)]
    return [min(row.at + _STALE, after) for row, after in zip(rows, following, strict=True)]


def _stretches(rows: Iterable[Row]) -> list[Stretch]:
    """When something ran or waited anywhere, ascending and apart."""
    merged: list[Stretch] = []
    for start, end in sorted(one for mine in _by_worker(rows) for one in _of_worker(mine)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _of_worker(rows: Sequence[Row]) -> Iterator[Stretch]:
    """One whose row says that it has something has it until a row says since when it has not."""
    begun: datetime | None = None
    following = [row.at for row in rows[1:]]
    for number, (row, until) in enumerate(zip(rows, _ends(rows), strict=True)):
        if row.busy and row.idle_s is None:
            begun = begun or row.at
            if number == len(following) or until < following[number]:  # it was heard no more
                yield begun, until
                begun = None
        elif row.busy or begun is not None:
            end = row.at - timedelta(seconds=row.idle_s or 0.0)
            yield min(begun or end, end), end
            begun = None
