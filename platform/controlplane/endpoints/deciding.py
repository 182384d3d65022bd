"""How many replicas each endpoint should have: looks at traffic, clock and memory, and decides.

`look` only reads: an endpoint that is due (`Scaling.look_at`, or asked for by name) is decided
anew, of the others the last decision holds. `keep` then writes what has to be remembered, by
compare-and-set on the look before: of two that looked at once, one's memory counts. What both
decided is the same or nearly so, and harmless.
"""

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Q

from billing import rating
from billing.pricing import prices
from controlplane.commits import UNFLUSHED
from controlplane.endpoints import elasticity, starts, traffic
from controlplane.endpoints.models import (
    Activity,
    Endpoint,
    EndpointVersion,
    Replica,
    Scaling,
)
from controlplane.endpoints.reconcile import Decided, ReplicaView
from controlplane.endpoints.states import COMING, LIVE, State
from controlplane.endpoints.traffic import Quiet, Row
from controlplane.scaling import caps
from controlplane.scaling.caps import Warmth
from controlplane.scaling.decide import Decision, Picture, Why, Wish, decide
from controlplane.scaling.desired import USUAL
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.load import Capacity, Load
from controlplane.scaling.policy import OFF, KeepAlive

log = logging.getLogger(__name__)

START_S = 18.0  # of an endpoint that was never started: what we promise
WAKE_S = 3.0  # of one that sleeps and was never woken
SLEEP_RENT = 0.02  # of a second asleep: it holds memory of its node, and no money of anybody's
WAKE_LASTS_S = 600.0  # a wake that led to nothing for so long is forgotten
PRESSED = Q(waiting__gt=0) | Q(pressed=True)
_PAUSE = timedelta(seconds=0.4)
FRESH = timedelta(seconds=5)
_MAX_NUM_SEQS = 256  # of an engine that has not said: vLLM's own default
_THERE = LIVE - {State.DRAINING}
_BACK = timedelta(seconds=USUAL.memory_s + traffic.STALE_S)


@dataclass(frozen=True)
class Look:
    """At one endpoint that was due: the decision, and what to remember with it."""

    endpoint_id: str
    was: datetime | None  # the look before
    due: datetime | None  # and when it said to look again
    decision: Decision
    quiet: Quiet
    kept_from: datetime | None
    warm: int
    warmth: Warmth
    capacity: Mapping[str, Any]
    gaps: GapHistory | None  # None: as it was


@dataclass(frozen=True)
class Looked:
    """What to do, for every endpoint; and the looks that `keep` should remember."""

    at: datetime
    decided: Mapping[str, Decided]
    looks: Sequence[Look] = ()


@dataclass
class _Seen:
    """What gateways wrote of one endpoint of late."""

    rows: list[Row] = field(default_factory=list)
    prefill_tps: dict[traffic.Worker, float] = field(default_factory=dict)


def look(
    endpoints: Mapping[str, Endpoint],
    replicas: Mapping[str, Sequence[ReplicaView]],
    *,
    now: datetime,
    only_due: bool,
) -> Looked:
    """`replicas`: those that live. With `only_due` those whose time has come are looked at."""
    known = {row.endpoint_id: row for row in Scaling.objects.filter(endpoint__in=endpoints)}
    pressed = _pressed(now) if only_due else set()
    due = {
        id: endpoint
        for id, endpoint in endpoints.items()
        if not only_due or _due(endpoint, known.get(id), now, pressed)
    }
    decided = {
        id: Decided(row.replicas, row.tier, Why(row.why))
        for id, row in known.items()
        if id not in due
    }
    decided |= {
        id: Decided(0, OFF, Why.IDLE) for id in endpoints.keys() - known.keys() - due.keys()
    }
    looks = []
    if due:
        rows = {id: known.get(id) or Scaling(endpoint=endpoint) for id, endpoint in due.items()}
        seen, engines = _seen(rows.values(), now), _engines(due)
        hourly, usual = _hourly(due.values(), replicas, now), starts.usual_s(due)
        for id, endpoint in due.items():
            row = rows[id]
            try:
                one = _look(
                    endpoint, row, replicas.get(id, ()), seen[id], engines.get(id),
                    hourly.get(id, Decimal(0)), usual.get(id, (None, None)), now,
                )  # fmt: skip
            except Exception:  # one endpoint must not stop the others
                log.exception("it cannot be decided how many replicas %s should have", id)
                decided[id] = Decided(row.replicas, row.tier, Why(row.why))
                continue
            looks.append(one)
            decision = one.decision
            decided[id] = Decided(decision.replicas, decision.tier, decision.why)
    return Looked(now, decided, looks)


def _due(endpoint: Endpoint, row: Scaling | None, now: datetime, pressed: Collection[str]) -> bool:
    if endpoint.stopped_at is not None:
        return False  # whatever was decided, it has none
    return row is None or row.look_at is None or row.look_at <= now or row.endpoint_id in pressed


def _pressed(now: datetime) -> set[str]:
    """Where gateways have more than is ready, whether or not a hint of it was heard."""
    late = Activity.objects.filter(PRESSED, at__gt=now - FRESH)
    return set(late.values_list("endpoint_id", flat=True).distinct())


def _seen(rows: Iterable[Scaling], now: datetime) -> Mapping[str, _Seen]:
    """As far back as the windows reach; of who was not looked at for longer, since then."""
    seen: defaultdict[str, _Seen] = defaultdict(_Seen)
    looked = {row.endpoint_id: row.looked_at for row in rows}
    late = [id for id, at in looked.items() if at is None or at < now - _BACK]
    found = Activity.objects.filter(endpoint_id__in=looked.keys() - set(late), at__gt=now - _BACK)
    sources = [found] if len(late) < len(looked) else []
    sources += [Activity.objects.filter(endpoint_id__in=late)] if late else []
    for source in sources:
        for row in source.order_by("id").values_list(*_COLUMNS):
            _add(seen[row[0]], row)
    return seen


_COLUMNS = (
    "endpoint_id", "gateway_id", "worker", "at", "in_flight", "waiting", "uncached_tokens",
    "kv_tokens", "running", "idle_s", "prefill_tps",
)  # fmt: skip


def _add(seen: _Seen, row: tuple[Any, ...]) -> None:
    _, gateway, number, at, in_flight, waiting, uncached, kv, running, idle_s, tps = row
    worker = (gateway, number)
    load = Load(uncached, kv, max(running, waiting))
    busy = bool(in_flight or waiting or running)
    seen.rows.append(Row(worker, at, load, busy, idle_s))
    if tps:
        seen.prefill_tps[worker] = tps


def _engines(endpoint_ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """What one engine of each said that it can hold; of those that serve."""
    ready = Replica.objects.filter(endpoint__in=list(endpoint_ids), state=State.READY)
    newest = ready.order_by("endpoint_id", "-id").distinct("endpoint_id")
    return dict(newest.values_list("endpoint_id", "engine_report"))


def _hourly(
    endpoints: Iterable[Endpoint], replicas: Mapping[str, Sequence[ReplicaView]], now: datetime
) -> dict[str, Decimal]:
    """What a replica of each costs in euro, of those that have a cap: by the versions that serve
    (on average, where they differ), else by that of what is on its way or comes next."""
    numbers: dict[str, list[int]] = {}
    accounts: dict[str, str] = {}
    for endpoint in endpoints:
        if endpoint.keep_warm_cap is not None:
            accounts[endpoint.id] = endpoint.project.organization.account_id
            there = _current(replicas.get(endpoint.id, ()))
            serving = [one.generation for one in there if one.state is State.READY]
            coming = [one.generation for one in there] or [endpoint.generation]
            numbers[endpoint.id] = serving or coming
    if not numbers:
        return {}
    listed = prices.versions("EUR")
    each: dict[tuple[str, int], Decimal] = {}
    for one in EndpointVersion.objects.filter(
        endpoint__in=numbers, number__in={number for some in numbers.values() for number in some}
    ):
        price = prices.idle(listed, one.device_kind, now, accounts[one.endpoint_id])
        amount = price.amount * one.devices_each if price else Decimal(0)
        each[one.endpoint_id, one.number] = amount * one.device_share / rating.WHOLE
    return {
        id: sum((each[id, number] for number in some), Decimal(0)) / len(some)
        for id, some in numbers.items()
    }


def _current(replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    return [one for one in replicas if one.state in _THERE and one.funded]


def _look(
    endpoint: Endpoint,
    row: Scaling,
    replicas: Sequence[ReplicaView],
    seen: _Seen,
    engine: Mapping[str, Any] | None,
    hourly: Decimal,
    usual: tuple[float | None, float | None],
    now: datetime,
) -> Look:
    kept = _capacity(endpoint, row.capacity, engine, seen)
    capacity = Capacity(
        prefill_tps=kept.get("prefill_tps"),
        ttft_target_s=endpoint.ttft_target_s,
        kv_tokens=kept.get("kv_tokens"),
        max_num_seqs=kept.get("max_num_seqs") or _MAX_NUM_SEQS,
    )
    quiet = traffic.quiet(seen.rows, row.idle_since, row.looked_at, now)
    wish = elasticity.wish(endpoint, hourly)
    current = _current(replicas)
    warmth = _waited(endpoint, row, wish, quiet, now)
    gaps, kept_from = _remembered(row, quiet), _kept_from(endpoint, row, current, quiet)
    start_s, wake_s = usual
    sleeps = any(one.can_sleep for one in current)  # really: its node says that it frees memory
    learned = gaps or (
        _history(row) if endpoint.keep_alive == KeepAlive.AUTOMATIC else GapHistory()
    )
    decision = decide(
        wish,
        Picture(
            samples=traffic.samples(seen.rows, capacity, now, _asked_since(endpoint, current, now)),
            current=len(current),
            idle_s=_idle_s(current, kept_from, now),
            start_s=START_S if start_s is None else start_s,
            wake_s=(WAKE_S if wake_s is None else wake_s) if sleeps else None,
            sleep_rent=SLEEP_RENT,
            max_num_seqs=capacity.max_num_seqs or _MAX_NUM_SEQS,
            history=learned,
            warmth=warmth,
        ),
        now,
    )
    there = len(current) - (decision.replicas - decision.warm)
    warm = max(0, min(decision.warm, there))
    return Look(
        endpoint.id, row.looked_at, row.look_at, decision, quiet, kept_from, warm, warmth,
        kept, gaps,
    )  # fmt: skip


def _waited(endpoint: Endpoint, row: Scaling, wish: Wish, quiet: Quiet, now: datetime) -> Warmth:
    """What waits warm while nothing runs is more than while something does."""
    warmth = Warmth(row.warm_day, row.warm_s, row.warm_euro)
    if row.looked_at is None or row.looked_at >= now:
        return warmth
    spare, idle = row.warm, row.warm
    if row.idle_since is None:  # it was busy
        idle = max(0, row.replicas - endpoint.min_replicas)
    else:
        spare = max(0, row.warm - 1)
    turned = now - timedelta(seconds=quiet.idle_s)
    parts = ((row.looked_at, turned, spare), (turned, now, idle))
    for since, until, replicas in parts:
        if replicas and since < until:
            warmth = caps.waited(
                warmth, wish.cap, since, until, replicas=replicas, hourly=wish.hourly
            )
    return warmth


def _capacity(
    endpoint: Endpoint, known: Mapping[str, Any], engine: Mapping[str, Any] | None, seen: _Seen
) -> dict[str, Any]:
    """As it was known, with what is newer; before the first start what was asked for."""
    kept = {"max_num_seqs": endpoint.engine_args.get("max_num_seqs")} | dict(known)
    if engine:
        kept |= {"kv_tokens": engine.get("kv_cache_tokens")}
        kept |= {"max_num_seqs": engine.get("max_num_seqs") or kept["max_num_seqs"]}
    if seen.prefill_tps:
        kept["prefill_tps"] = round(statistics.median(seen.prefill_tps.values()), 1)
    return kept


def _asked_since(
    endpoint: Endpoint, current: Sequence[ReplicaView], now: datetime
) -> datetime | None:
    """A wake counts as one request until a replica is ready, or nothing comes of it."""
    asked = endpoint.wake_requested_at
    if asked is None or any(one.state is State.READY for one in current):
        return None
    lasting = now - asked < timedelta(seconds=WAKE_LASTS_S)
    return asked if lasting or _on_its_way(current) else None


def _on_its_way(current: Sequence[ReplicaView]) -> bool:
    return any(one.state in COMING and one.state is not State.REQUESTED for one in current)


def _kept_from(
    endpoint: Endpoint, row: Scaling, current: Sequence[ReplicaView], quiet: Quiet
) -> datetime | None:
    """The newest of: the last answer's end, a wake, a replica that got ready or waits for devices.

    That one fell asleep is no such moment.
    """
    moments = [one.state_at for one in current if one.state in (State.READY, State.REQUESTED)]
    known = (row.kept_from, quiet.since, endpoint.wake_requested_at)
    moments += [at for at in known if at is not None]
    return max(moments, default=None)


def _idle_s(current: Sequence[ReplicaView], kept_from: datetime | None, now: datetime) -> float:
    """How long nobody has asked for it. It runs from ready, however long the start took: what is
    on its way is not judged."""
    if _on_its_way(current):
        return 0.0
    return float("inf") if kept_from is None else max(0.0, (now - kept_from).total_seconds())


def _remembered(row: Scaling, quiet: Quiet) -> GapHistory | None:
    if not quiet.gaps:
        return None
    history = _history(row)
    for gap_s in quiet.gaps:
        history.add(gap_s)
    return history


def _history(row: Scaling) -> GapHistory:
    return GapHistory() if row.gaps is None else GapHistory.from_data(row.gaps)


def heard(endpoint_id: str, now: datetime) -> bool:
    """A gateway has more for it than is ready: look soon. False where one looks anyway.

    Gateways say so twice a second each; all of them together are heard as often as that.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MAKE, [[endpoint_id]])
        cursor.execute(_HEARD, {"id": endpoint_id, "now": now, "before": now - _PAUSE})
        return bool(cursor.rowcount)


def keep(looked: Looked) -> None:
    """Remember these looks; those that somebody else overtook are dropped."""
    rows = [_row(one, looked.at) for one in looked.looks if one.was is None or one.was < looked.at]
    if not rows:
        return
    with connection.cursor() as cursor:
        cursor.execute(_MAKE, [[row["id"] for row in rows]])
        cursor.execute(_KEEP, [json.dumps(rows)])


def _row(one: Look, now: datetime) -> dict[str, Any]:
    decision, warmth = one.decision, one.warmth
    return {
        "id": one.endpoint_id,
        "was": one.was and one.was.isoformat(),
        "due": one.due and one.due.isoformat(),
        "now": now.isoformat(),
        "replicas": decision.replicas,
        "tier": decision.tier,
        "why": decision.why,
        "look_at": (now + timedelta(seconds=decision.again_s)).isoformat(),
        "idle_since": one.quiet.since and one.quiet.since.isoformat(),
        "kept_from": one.kept_from and one.kept_from.isoformat(),
        "gaps": one.gaps and one.gaps.as_data(),
        "capacity": dict(one.capacity),
        "warm": one.warm,
        "warm_day": warmth.day,
        "warm_s": warmth.seconds,
        "warm_euro": str(round(warmth.euro, 9)),
    }


_MAKE = """
INSERT INTO endpoints_scaling
    (endpoint_id, replicas, tier, why, capacity, warm, warm_day, warm_s, warm_euro)
SELECT id, 0, 'off', 'idle', '{}', 0, '', 0, 0 FROM endpoints_endpoint WHERE id = ANY (%s)
ON CONFLICT (endpoint_id) DO NOTHING
"""
_HEARD = """
UPDATE endpoints_scaling AS s SET hinted_at = %(now)s, look_at = LEAST(s.look_at, %(now)s)
FROM endpoints_endpoint e
WHERE s.endpoint_id = %(id)s AND e.id = s.endpoint_id
  AND e.stopped_at IS NULL AND e.deleted_at IS NULL AND s.replicas < e.max_replicas
  AND (s.hinted_at IS NULL OR s.hinted_at < %(before)s)
"""
_KEEP = f"""
UPDATE endpoints_scaling AS s
SET replicas = v.replicas, tier = v.tier, why = v.why, looked_at = v.now, look_at = v.look_at,
    idle_since = v.idle_since, kept_from = v.kept_from,
    gaps = COALESCE(NULLIF(v.gaps, 'null'), s.gaps),
    capacity = v.capacity, warm = v.warm, warm_day = v.warm_day, warm_s = v.warm_s,
    warm_euro = v.warm_euro
FROM jsonb_to_recordset(%s) AS v(
    id text, was timestamptz, due timestamptz, now timestamptz, replicas int, tier text, why text,
    look_at timestamptz, idle_since timestamptz, kept_from timestamptz, gaps jsonb,
    capacity jsonb, warm int, warm_day text, warm_s float8, warm_euro numeric)
WHERE s.endpoint_id = v.id AND s.looked_at IS NOT DISTINCT FROM v.was
  AND s.look_at IS NOT DISTINCT FROM v.due
RETURNING {UNFLUSHED}
"""
