"""What a project lets its runs do, and when the gateway's runaway brake acts."""

from collections.abc import Mapping
from typing import Any

from controlplane.tenancy.errors import Invalid

LIMITS = {
    "max_calls": (1, 1e9),
    "max_depth": (1, 8),
    "max_seconds": (1, 30 * 86_400),
    "slow_s": (0.1, 30),
}
WHOLE = ("max_calls", "max_depth")
MEASURES = ("calls_per_minute", "eur_per_minute", "depth", "repeats")
STEPS = ("warn", "slow", "pause", "stop")
VALUE_MAX = 1e9


def checked(policy: Mapping[str, Any] | None, field: str = "run_policy") -> dict[str, Any] | None:
    """As it is kept. Raises Invalid."""
    if policy is None:
        return None
    if not isinstance(policy, Mapping):
        raise _invalid(field, "an object, or null for the default")
    if unknown := policy.keys() - {*LIMITS, *MEASURES}:
        raise _invalid(field, f"an object of {', '.join((*LIMITS, *MEASURES))}: {unknown.pop()!r}")
    kept: dict[str, Any] = {}
    for name, (least, most) in LIMITS.items():
        if name in policy and policy[name] is not None:
            kept[name] = _number(policy[name], least, most, f"{field}.{name}")
    for name in WHOLE:
        if not isinstance(kept.get(name, 1), int):
            raise _invalid(f"{field}.{name}", "a whole number")
    for name in MEASURES:
        if name in policy:
            kept[name] = _steps(policy[name], f"{field}.{name}")
    return kept


def _steps(steps: Any, field: str) -> dict[str, float]:
    """Absent steps are never taken; the ones that are there rise."""
    if not isinstance(steps, Mapping) or steps.keys() - {*STEPS}:
        raise _invalid(field, f"an object of {', '.join(STEPS)}")
    given = [(name, steps[name]) for name in STEPS if steps.get(name) is not None]
    kept = {name: _number(value, 0.01, VALUE_MAX, f"{field}.{name}") for name, value in given}
    values = list(kept.values())
    if values != sorted(values):
        raise _invalid(field, f"in rising order: {', '.join(STEPS)}")
    return kept


def _number(value: Any, least: float, most: float, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _invalid(field, f"a number from {least:g} to {most:g}")
    return value


def _invalid(field: str, what: str) -> Invalid:
    return Invalid(f"{field} is {what}", code="invalid_run_policy", field=field.partition(".")[0])
