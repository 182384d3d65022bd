"""Load, clock and caps together: how many replicas an endpoint should have, and how warm they wait.

One picture in, one decision out; the same picture gives the same decision. Whoever asks again
after each change of the load, and at the latest after `again_s`, misses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from controlplane.scaling import caps, keepalive, schedules
from controlplane.scaling.caps import NO_CAP, NOTHING, Cap, Warmth
from controlplane.scaling.desired import Sample, desired
from controlplane.scaling.gaps import GapHistory
from controlplane.scaling.policy import OFF, PREDICTABLE, Policy
from controlplane.scaling.schedules import Burst, Schedule

HOT = keepalive.HOT.name
LONGEST_S = 60.0  # after that, look again


class Why(StrEnum):
    """What decided."""

    MIN_REPLICAS = "min_replicas"
    LOAD = "load"
    KEEP_ALIVE = "keep_alive"
    CLOCK = "clock"  # a schedule or a burst
    CAPPED = "capped"  # it would wait warm if its cap had something left
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody set for an endpoint. `hourly`: what a replica costs, in euro."""

    min_replicas: int = 0
    max_replicas: int = 1
    policy: Policy = PREDICTABLE
    schedules: Sequence[Schedule] = ()
    bursts: Sequence[Burst] = ()
    cap: Cap = NO_CAP
    hourly: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Picture:
    """What is. `samples`: the signal, oldest first, as far back as the policy's windows reach.

    `current`: replicas that are there or come; `idle_s`: since the last answer, infinite where
    there was none (what still runs or waits makes a sample above 0, and then it is not looked at);
    `start_s`: how long a start from off takes here, `wake_s` one from sleep (None: it cannot).
    """

    samples: Sequence[Sample]
    current: int
    idle_s: float
    start_s: float
    wake_s: float | None = None
    sleep_rent: float = 0.0
    max_num_seqs: int = 1
    history: GapHistory = field(default_factory=GapHistory)
    warmth: Warmth = NOTHING


@dataclass(frozen=True, slots=True)
class Decision:
    """`replicas` in `tier`; `warm` of them wait hot at the cap's expense (see `caps`)."""

    replicas: int
    tier: str
    warm: int
    why: Why
    again_s: float


def decide(wish: Wish, picture: Picture, now: datetime) -> Decision:
    asked = bool(picture.samples) and picture.samples[-1].utilization > 0
    needed = _by_load(wish, picture) if asked else wish.min_replicas
    clock = min(wish.max_replicas, _by_clock(wish, picture, now))
    tier, kept, next_s = (
        (HOT, needed, _soon(wish, picture, needed)) if asked else _kept(wish, picture)
    )
    wanted = max(needed, kept, clock)
    if needed or clock:
        tier = HOT
    warm = wanted - needed if tier == HOT else 0
    left_s = caps.left_s(picture.warmth, wish.cap, now, replicas=warm, hourly=wish.hourly)
    again_s = min(next_s, _next_by_clock(wish, picture, now))
    if warm and left_s <= 0:
        return Decision(needed, HOT if needed else OFF, 0, Why.CAPPED, again_s)
    if clock == wanted > max(needed, kept):
        why = Why.CLOCK
    elif asked:
        why = Why.LOAD
    elif kept > needed:
        why = Why.KEEP_ALIVE
    else:
        why = Why.MIN_REPLICAS if needed else Why.IDLE
    return Decision(wanted, tier, warm, why, min(again_s, left_s))


def _by_load(wish: Wish, picture: Picture) -> int:
    return desired(
        picture.samples,
        picture.current,
        wish.policy.windows,
        min_replicas=wish.min_replicas,
        max_replicas=wish.max_replicas,
    )


def _soon(wish: Wish, picture: Picture, wanted: int) -> float:
    """A mean moves on while the load stays: until it has arrived, look again and again."""
    windows = wish.policy.windows
    panic = picture.samples[-1].utilization > windows.panic_at * wanted
    return windows.panic_s / 4 if panic and wanted < wish.max_replicas else windows.stable_s / 12


def _by_clock(wish: Wish, picture: Picture, now: datetime) -> int:
    return schedules.floor(
        wish.schedules,
        wish.bursts,
        now,
        lead_s=picture.start_s,
        max_num_seqs=picture.max_num_seqs,
        target=wish.policy.windows.target,
    )


def _next_by_clock(wish: Wish, picture: Picture, now: datetime) -> float:
    return schedules.next_change_s(
        wish.schedules, wish.bursts, now, within_s=LONGEST_S, lead_s=picture.start_s
    )


def _kept(wish: Wish, picture: Picture) -> tuple[str, int, float]:
    """Through a gap: the tier, the replicas in it, and the seconds until the next step.

    More than one are kept only as long as the windows want them; what sleeps or is started anew
    is one.
    """
    tiers = wish.policy.tiers(picture.start_s, picture.wake_s, picture.sleep_rent)
    steps = wish.policy.steps(tiers, picture.history)
    tier, next_s = keepalive.at(steps, picture.idle_s)
    again_s = LONGEST_S if next_s is None else next_s
    if picture.current == 0 or tier.name == OFF:
        return OFF, 0, again_s
    if tier.name == HOT:
        kept = min(picture.current, _by_load(wish, picture))
        if kept > max(1, wish.min_replicas):  # the windows move on
            again_s = min(again_s, wish.policy.windows.stable_s / 12)
        return HOT, kept, again_s
    return tier.name, 1, again_s
