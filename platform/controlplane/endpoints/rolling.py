"""How many replicas of which version there should be while one takes over from another. Pure.

Until a replica of the new version has been ready (its engine answered), only one of it is made,
beside all of the old ones where there are devices; where there are none, in the place of one old
replica, unless it is a canary, which always comes on top. After that the new version replaces the
old one: as many at once as there are devices, and one by one where there are none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controlplane.endpoints.states import Reason, State


@dataclass(frozen=True)
class RolloutView:
    """One that is under way."""

    stable: int  # the version that it comes from
    to: int
    share: float | None  # percent of traffic for a canary; None: it replaces the old version
    proved: bool  # a replica of it has been ready
    retry_at: datetime | None = None


class Seen(Protocol):
    """Of a replica what counts here: one that serves or will, on a node that stays."""

    @property
    def generation(self) -> int: ...
    @property
    def state(self) -> State: ...
    @property
    def reason(self) -> Reason: ...


@dataclass(frozen=True)
class Group:
    """Of version `number` so many are kept at most, and so many are to be made."""

    number: int
    keep: int
    make: int
    retry_at: datetime | None


def groups(
    generation: int,
    rollout: RolloutView | None,
    retry_at: datetime | None,
    wanted: int,
    serving: Sequence[Seen],
    now: datetime,
) -> list[Group]:
    """What is not kept of any group is on its way out. `retry_at`: the endpoint's back-off."""
    if rollout is None:
        there = sum(r.generation == generation for r in serving)
        return [Group(generation, wanted, max(0, wanted - there), retry_at)]
    new = [r for r in serving if r.generation == rollout.to]
    old = [r for r in serving if r.generation == rollout.stable]
    if rollout.proved and rollout.share is None:
        return [Group(rollout.to, wanted, max(0, wanted - len(new)), rollout.retry_at)]
    aim = 0 if not wanted else _canaries(rollout, wanted)
    starting = sum(r.state is not State.READY for r in new)
    make = max(0, aim - len(new)) if rollout.proved else max(0, min(1, aim) - starting - len(new))
    first = Group(rollout.to, aim, make, rollout.retry_at)
    if rollout.share is not None:
        return [first, Group(rollout.stable, wanted, max(0, wanted - len(old)), retry_at)]
    # The first of a rolling update counts: asleep, it is the new version that wakes.
    deferred = rollout.retry_at is not None and now < rollout.retry_at
    coming = len(new) + (0 if deferred else make)
    gap = max(0, wanted - len(old) - coming)
    return [first, Group(rollout.stable, wanted - _handed_over(new, old, wanted), gap, retry_at)]


def _canaries(rollout: RolloutView, wanted: int) -> int:
    if rollout.share is None or not rollout.proved:
        return 1
    return max(1, math.ceil(wanted * rollout.share / 100))


def _handed_over(new: Sequence[Seen], old: Sequence[Seen], wanted: int) -> int:
    """1 where the new one waits for devices that only an old one can give."""
    waits = any(r.state is State.REQUESTED and r.reason is Reason.NO_CAPACITY for r in new)
    return int(waits and sum(r.state is State.READY for r in old) >= wanted)
