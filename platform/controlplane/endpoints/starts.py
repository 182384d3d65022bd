"""What each start took, phase by phase, against the time that is promised for its tier.

A start runs from the wish (the replica was asked for, or to be woken) until it serves. Seconds of
phases: those that the node times are the node's, what is left of ours is `placed`, the way there
and back. `routed` follows when a gateway has the replica in its directory.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import connection

from compliance import audit, ids
from controlplane.endpoints.models import Endpoint, Replica, Start, Transition
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.wire import StartTier

PHASES = ("queued", "placed", "fetched", "spawned", "loaded", "compiled", "probed", "routed")
# Where nothing has to be brought, the time is ours to keep.
PREPARED = frozenset({StartTier.WAKE, StartTier.STANDBY, StartTier.WARM})
NO_ROOM = "no devices were free"  # stands with the arc to `placed`: that wait is no start
_STARTS_KEPT = 9
_MEASURED = 200  # newest starts that figures are made of


def target_s(tier: str) -> float | None:
    """What a start of this tier may take; None where nothing is promised."""
    return settings.START_TARGET_S if tier in PREPARED else None


def note(replica_id: str, *, reason: Reason, now: datetime) -> None:
    """A start has ended, in `ready` or not: keep what it took. In the arc's own transaction."""
    replica = Replica.objects.select_related("endpoint__project__organization").get(id=replica_id)
    arcs = _arcs(replica_id)
    asked_at = _asked_at(replica, arcs)
    total_s = max(0.0, (now - asked_at).total_seconds())
    queued_s, waited = _queued(arcs)
    phases = timed(total_s, queued_s, replica.phase_seconds)
    target = target_s(replica.start_tier)
    missed = target is not None and total_s - (queued_s if waited else 0.0) > target
    ready = replica.state == State.READY
    start = Start.objects.create(
        id=ids.new("sta"),
        endpoint=replica.endpoint,
        replica=replica,
        tier=replica.start_tier,
        ready=ready,
        reason=reason,
        asked_at=asked_at,
        ended_at=now,
        total_s=round(total_s, 3),
        phases=phases,
        target_s=target,
        missed=missed,
    )
    if ready:
        newest = replica.endpoint.start_seconds[1 - _STARTS_KEPT :]
        Endpoint.objects.filter(id=replica.endpoint_id).update(
            start_seconds=[*newest, round(total_s, 3)],
            wake_requested_at=None,  # who woke it has what they asked for
        )
    if missed:
        _tell(start, replica.endpoint, now)


def timed(total_s: float, queued_s: float, node: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase, which add up to `total_s`. `node`: `Replica.phase_seconds`."""
    left = max(0.0, total_s - queued_s)
    spent = {"queued": min(queued_s, total_s), "placed": 0.0}
    starting = node.get("starting", 0.0)
    spawned = min(node.get("spawned", 0.0), starting)
    # An engine that says nothing of its steps loads, as far as anybody knows.
    loaded = min(node.get("loaded", starting), starting - spawned)
    parts = {
        "fetched": node.get("fetching", 0.0),
        "spawned": spawned,
        "loaded": loaded,
        "compiled": starting - spawned - loaded,
        "probed": node.get("probing", 0.0),
    }
    for name, seconds in parts.items():  # two clocks differ: ours is what is promised by
        spent[name] = min(max(0.0, seconds), left)
        left -= spent[name]
    spent["placed"] = left
    return {name: round(seconds, 3) for name, seconds in spent.items()}


@dataclass(frozen=True)
class Figures:
    """Of the starts of one tier: seconds, (median, 95th percentile), in all and by phase."""

    tier: str
    count: int
    missed: int
    total: tuple[float, float]
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)


def measured(endpoint: Endpoint) -> list[Figures]:
    """By tier, of the endpoint's newest starts that came to serve."""
    newest = Start.objects.filter(endpoint=endpoint, ready=True).order_by("-id")[:_MEASURED]
    return figures(list(newest))


def figures(starts: Sequence[Start]) -> list[Figures]:
    """Pure. The quickest tier first; starts whose tier nobody told are left out."""
    found = []
    for tier in StartTier:
        some = [start for start in starts if start.tier == tier]
        if some:
            found.append(
                Figures(
                    tier=tier,
                    count=len(some),
                    missed=sum(start.missed for start in some),
                    total=spread(start.total_s + (start.routed_s or 0.0) for start in some),
                    phases={name: spread(_seconds(some, name)) for name in PHASES},
                )
            )
    return found


def usual_s(endpoint_ids: Iterable[str]) -> dict[str, tuple[float | None, float | None]]:
    """The median seconds of each one's newest starts: (from off, from sleep); None: none yet."""
    with connection.cursor() as cursor:
        cursor.execute(_USUAL, [StartTier.WAKE, StartTier.WAKE, list(endpoint_ids)])
        return {id: (start_s, wake_s) for id, start_s, wake_s in cursor.fetchall()}


_USUAL = """
SELECT e.id, percentile_cont(0.5) WITHIN GROUP (ORDER BY s.total_s) FILTER (WHERE s.tier <> %s),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY s.total_s) FILTER (WHERE s.tier = %s)
FROM unnest(%s::text[]) AS e(id)
CROSS JOIN LATERAL (
    SELECT tier, total_s FROM endpoints_start WHERE endpoint_id = e.id AND ready
    ORDER BY id DESC LIMIT 20
) AS s GROUP BY e.id
"""


@dataclass(frozen=True)
class Underway:
    """A start that goes on. `target_s`: what will be held against it if nothing is fetched."""

    replica: Replica
    asked_at: datetime
    elapsed_s: float
    target_s: float | None


def underway(replicas: Sequence[Replica], now: datetime) -> Underway | None:
    """The oldest start that has its devices and goes on, or None."""
    coming = [r for r in replicas if r.state in (State.PLACED, *_STARTING)]
    if not coming:
        return None
    replica = min(coming, key=lambda one: one.id)
    arcs = _arcs(replica.id)
    queued_s, waited = _queued(arcs)
    asked_at = _asked_at(replica, arcs)
    elapsed = (now - asked_at).total_seconds() - (queued_s if waited else 0.0)
    promised = replica.bytes_total == 0 and replica.start_tier != StartTier.COLD
    target = settings.START_TARGET_S if promised else None
    return Underway(replica, asked_at, max(0.0, elapsed), target)


_STARTING = (State.FETCHING, State.STARTING, State.PROBING)


def _arcs(replica_id: str) -> list[Transition]:
    """Those of its newest start: from the wish, or from its sleep."""
    arcs = list(Transition.objects.filter(replica_id=replica_id).order_by("id"))
    begins = [n for n, arc in enumerate(arcs) if arc.from_state in ("", State.ASLEEP)]
    return arcs[begins[-1] :] if begins else arcs


def _asked_at(replica: Replica, arcs: Sequence[Transition]) -> datetime:
    begun = bool(arcs) and arcs[0].from_state in ("", State.ASLEEP)
    return arcs[0].at if begun else replica.created_at


def _queued(arcs: Iterable[Transition]) -> tuple[float, bool]:
    """How long it waited to be placed, and whether that was for want of devices."""
    for arc in arcs:
        if arc.from_state == State.REQUESTED:
            return arc.seconds, arc.detail == NO_ROOM
    return 0.0, False


def _seconds(starts: Iterable[Start], phase: str) -> list[float]:
    if phase == "routed":
        return [start.routed_s for start in starts if start.routed_s is not None]
    return [start.phases.get(phase, 0.0) for start in starts]


def spread(seconds: Iterable[float]) -> tuple[float, float]:
    """Median and 95th percentile, by nearest rank; zeros of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return 0.0, 0.0
    last = len(ordered)
    return ordered[math.ceil(0.5 * last) - 1], ordered[math.ceil(0.95 * last) - 1]


def _tell(start: Start, endpoint: Endpoint, now: datetime) -> None:
    organization = endpoint.project.organization
    audit.record(
        actor=audit.SYSTEM,
        action="replica.start_missed",
        target=audit.Target("replica", start.replica_id),
        log=organization.id,
        region=endpoint.region_code,
        reason=start.reason,
        now=now,
        change=[
            audit.Change("endpoint_id", None, endpoint.id),
            audit.Change("start_tier", None, start.tier),
            audit.Change("total_s", None, str(start.total_s)),
            audit.Change("target_s", None, str(start.target_s)),
        ],
    )
