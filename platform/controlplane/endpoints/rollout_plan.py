"""How a new version takes over, as somebody asked for it. Pure: checked before it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from controlplane.endpoints.errors import Invalid

STEPS_MAX = 20
FOR_S = range(7 * 86_400 + 1)


class Strategy(StrEnum):
    ROLLING = "rolling"  # replica by replica, each with the traffic that it can take
    CANARY = "canary"  # a share of traffic first, and the rest when it proves itself


@dataclass(frozen=True)
class Step:
    """A canary's share of traffic, in percent, and for how long it is watched at least."""

    share: float
    for_s: int


@dataclass(frozen=True)
class RolloutPlan:
    """What is asked of a rollout. The defaults suit an endpoint that serves people."""

    strategy: Strategy = Strategy.ROLLING
    steps: tuple[Step, ...] = ()  # of a canary
    for_s: int = 60  # watched after the last replica of the old version has gone
    automatic: bool = True  # False: a canary goes on only when somebody promotes it
    min_requests: int = 20  # that a canary's step has to see
    max_error_increase: float | None = 1.0  # percentage points; None: errors are not judged
    max_latency_ratio: float | None = 1.5  # of the p95; None: latency is not judged
    progress_deadline_s: int = 600  # without progress for so long it has failed
    max_failed_starts: int = 3

    def kept(self) -> dict[str, Any]:
        """As the database keeps it."""
        return asdict(self)


def load(kept: Mapping[str, Any]) -> RolloutPlan:
    """What `kept` wrote."""
    known = {field.name for field in fields(RolloutPlan)}
    given = {name: value for name, value in kept.items() if name in known}
    given["strategy"] = Strategy(given["strategy"])
    given["steps"] = tuple(Step(**step) for step in given["steps"])
    return RolloutPlan(**given)


def asked(
    *,
    strategy: str = Strategy.ROLLING,
    share: float | None = None,
    for_s: int | None = None,
    steps: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> RolloutPlan:
    """A plan from what came in; `share` and `for_s` stand for a single step. Raises Invalid."""
    if strategy not in set(Strategy):
        raise _invalid("strategy", "expected `rolling` or `canary`")
    canary = strategy == Strategy.CANARY
    if not canary and (share is not None or steps):
        raise _invalid("strategy", "only a canary has a share of traffic, or steps")
    if steps and (share is not None or for_s is not None):
        raise _invalid("steps", "steps have shares and times of their own")
    taken = [Step(float(one["share"]), int(one["for_s"])) for one in steps]
    if canary and not taken:
        taken = [Step(10.0 if share is None else share, 300 if for_s is None else for_s)]
    plan = RolloutPlan(Strategy(strategy), tuple(taken), **more)
    if not canary and for_s is not None:
        plan = RolloutPlan(Strategy(strategy), for_s=for_s, **more)
    _check(plan)
    return plan


def _check(plan: RolloutPlan) -> None:
    shares = [step.share for step in plan.steps]
    if len(shares) > STEPS_MAX or any(not 0 < share < 100 for share in shares):
        raise _invalid("share", f"expected up to {STEPS_MAX} shares, above 0 and below 100 percent")
    if shares != sorted(set(shares)):
        raise _invalid("steps", "each step has a larger share than the one before")
    if any(seconds not in FOR_S for seconds in (plan.for_s, *(one.for_s for one in plan.steps))):
        raise _invalid("for_s", f"expected 0 to {FOR_S.stop - 1} seconds")
    _within("min_requests", plan.min_requests, 1, 1_000_000)
    _within("max_error_increase", plan.max_error_increase, 0, 100)
    _within("max_latency_ratio", plan.max_latency_ratio, 1, 100)
    _within("progress_deadline_s", plan.progress_deadline_s, 1, FOR_S.stop - 1)
    _within("max_failed_starts", plan.max_failed_starts, 1, 100)


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise _invalid(name, f"expected {least:g} to {most:g}, not {value:g}")


def _invalid(name: str, message: str) -> Invalid:
    return Invalid(message, code="invalid_rollout", field=f"rollout.{name}")
