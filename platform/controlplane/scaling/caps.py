"""How much warm waiting an endpoint may cost in a day: seconds, euro, or both.

Warm waiting is every second of a hot replica that is kept or started while no load asks for it,
above `min_replicas`: by keep-alive, by a schedule, for a burst. It is counted where it falls: a day
is one of the endpoint's time zone, and with each a new count begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.windows import window

_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Cap:
    """A day's most; None is no bound."""

    seconds: float | None = None
    euro: Decimal | None = None
    time_zone: str = "UTC"


NO_CAP = Cap()


@dataclass(frozen=True, slots=True)
class Warmth:
    """What was waited warm on `day` (of the cap's time zone)."""

    day: str = ""
    seconds: float = 0.0
    euro: Decimal = Decimal(0)


NOTHING = Warmth()


def waited(
    warmth: Warmth, cap: Cap, since: datetime, now: datetime, *, replicas: int, hourly: Decimal
) -> Warmth:
    """With `replicas` warm from `since` until `now`, at that many euro an hour for each.

    What fell on earlier days is over: only the day of `now` is counted on.
    """
    for day, seconds in _days(cap, since, now):
        if day != warmth.day:
            warmth = Warmth(day)
        waited_s = seconds * replicas
        warmth = replace(
            warmth,
            seconds=warmth.seconds + waited_s,
            euro=warmth.euro + hourly * Decimal(waited_s) / _HOUR,
        )
    return warmth


def left_s(warmth: Warmth, cap: Cap, now: datetime, *, replicas: int, hourly: Decimal) -> float:
    """For how long that many replicas may still wait warm today; infinite without a cap.

    It may reach beyond midnight: whoever acts on it asks again then.
    """
    if replicas == 0:
        return float("inf")
    if warmth.day != _day(cap, now):
        warmth = NOTHING
    left = float("inf")
    if cap.seconds is not None:
        left = min(left, (cap.seconds - warmth.seconds) / replicas)
    if cap.euro is not None and hourly > 0:
        left = min(left, float((cap.euro - warmth.euro) * _HOUR / hourly) / replicas)
    return max(0.0, left)


def _day(cap: Cap, at: datetime) -> str:
    return window("day", cap.time_zone, _us(at)).id


def _days(cap: Cap, since: datetime, now: datetime) -> Iterator[tuple[str, float]]:
    """The days that it touches, each with the seconds that fall on it."""
    while since < now:
        day = window("day", cap.time_zone, _us(since))
        end = min(now, datetime.fromtimestamp(day.ends_us / 1e6, UTC))
        yield day.id, (end - since).total_seconds()
        since = end
    yield _day(cap, now), 0.0


def _us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
