"""Which things are to end. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from workers.agent.reaper.things import Expected, Kind, Thing

Key = tuple[Kind, str]


@dataclass(frozen=True)
class Judgement:
    """`seen`: since when each unknown thing has been so, for the next look."""

    end: tuple[Thing, ...]
    tell: tuple[Thing, ...]  # strangers that were not there before
    seen: Mapping[Key, float]


def judge(
    things: Collection[Thing],
    expected: Expected,
    seen: Mapping[Key, float],
    now: float,
    *,
    grace_s: float,
    alone: bool = False,
) -> Judgement:
    """`now` and `seen` are seconds of one clock; `seen` is what the look before remembered.

    A thing that was known, or gone, in between begins its grace anew.
    """
    unknown = [thing for thing in things if not expected.knows(thing)]
    since = {thing.key: min(seen.get(thing.key, now), now) for thing in unknown}
    over = [thing for thing in unknown if now - since[thing.key] >= grace_s]
    return Judgement(
        end=tuple(thing for thing in over if alone or thing.kind is not Kind.STRANGER),
        tell=tuple(
            thing for thing in unknown if thing.kind is Kind.STRANGER and thing.key not in seen
        ),
        seen=since,
    )
