"""How warm an endpoint waits, and for how long: ski rental over several tiers.

While nobody asks, each tier costs its rent a second; who comes then pays the way back from the
tier that was reached. Going down is free. With one tier's rent r and way back b, the best in
hindsight is the lower envelope of `r * gap + b`. It falls into independent choices between
neighbours: of two tiers, rent (difference of rents) until a break-even C, or buy (difference of
ways back). Whoever goes down anywhere in [C/2, 2C] pays at most three times the optimum of that
choice, so at most three times in all, whatever the gaps are; at C it is twice. Within those
bounds the endpoint's own history chooses.

After Karlin et al. 1988 (rent or buy), Lotker, Patt-Shamir and Rawitz 2008 (several slopes).
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controlplane.scaling.gaps import GapHistory

EARLIEST, LATEST = 0.5, 2.0  # of the break-even; at worst 1 + 1 / EARLIEST, or 1 + LATEST


@dataclass(frozen=True, slots=True)
class Tier:
    """`rent`: cost of an idle second; `back`: cost of serving again from here."""

    name: str
    rent: float
    back: float


@dataclass(frozen=True, slots=True)
class Step:
    """Wait in the tier from `after_s` of the gap on, until the next step."""

    after_s: float
    tier: Tier


HOT = Tier("hot", 1.0, 0.0)


def tier(name: str, rent: float, wake_s: float, wait_value: float) -> Tier:
    """One from which serving again takes `wake_s`: the replica's seconds, and somebody's wait.

    `wait_value` is what a second of waiting costs, in seconds of a hot replica.
    """
    return Tier(name, rent, wake_s * (1.0 + wait_value))


def envelope(tiers: Iterable[Tier]) -> tuple[Tier, ...]:
    """Those that are the cheapest for some gap, warmest first. ValueError if there is none."""
    kept: list[Tier] = []
    for one in sorted(tiers, key=lambda t: (t.back, t.rent)):
        if kept and one.rent >= kept[-1].rent:
            continue  # dearer in both
        while len(kept) > 1 and break_even(kept[-1], one) <= break_even(kept[-2], kept[-1]):
            kept.pop()
        kept.append(one)
    if not kept:
        raise ValueError("no tier")
    return tuple(kept)


def break_even(warmer: Tier, colder: Tier) -> float:
    """The gap, in seconds, at which both cost the same."""
    return (colder.back - warmer.back) / (warmer.rent - colder.rent)


def plan(tiers: Iterable[Tier], history: GapHistory | None = None) -> tuple[Step, ...]:
    """When to go down to which tier; without a history at the break-evens."""
    kept = envelope(tiers)
    steps = [Step(0.0, kept[0])]
    for warmer, colder in itertools.pairwise(kept):
        even_s = break_even(warmer, colder)
        after_s = even_s
        if history is not None:
            after_s = history.cheapest(even_s, EARLIEST * even_s, LATEST * even_s)
        # Still within this choice's bounds: the one before had lower ones.
        steps.append(Step(max(after_s, steps[-1].after_s), colder))
    return tuple(steps)


def fixed(timeout_s: float, tiers: Iterable[Tier]) -> tuple[Step, ...]:
    """Hot for `timeout_s`, then in the coldest tier: whatever it costs, it is what was said."""
    return Step(0.0, HOT), Step(timeout_s, min(tiers, key=lambda tier: tier.rent))


def at(steps: Sequence[Step], idle_s: float) -> tuple[Tier, float | None]:
    """The tier after `idle_s` of a gap, and the seconds until the next step, if there is one."""
    tier = steps[0].tier
    for step in steps[1:]:
        if step.after_s > idle_s:
            return tier, step.after_s - idle_s
        tier = step.tier
    return tier, None


def cost(steps: Sequence[Step], gap_s: float) -> float:
    """What a gap costs under a plan: the rents, and the way back at its end."""
    rent, reached = 0.0, steps[0].tier
    for step, end_s in zip(steps, [*(s.after_s for s in steps[1:]), gap_s], strict=True):
        if step.after_s > gap_s or (step.after_s == gap_s and step is not steps[0]):
            break
        rent += step.tier.rent * (min(end_s, gap_s) - step.after_s)
        reached = step.tier
    return rent + reached.back


def optimum(tiers: Iterable[Tier], gap_s: float) -> float:
    """What it would have cost to know the gap: going at once to the tier that is best for it."""
    return min(tier.rent * gap_s + tier.back for tier in tiers)
