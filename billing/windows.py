"""The time over which a budget counts, by the calendar of its time zone.

A window's id is part of its counter's name, so a reset is a new counter: nothing is set back,
and what was reserved before midnight is settled where it was reserved.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

ALWAYS_US = 1 << 62


@dataclass(frozen=True, slots=True)
class Window:
    """`starts_us <= t < ends_us`, in Unix microseconds."""

    id: str  # "2026-03-04", "2026-03" or "total"
    starts_us: int
    ends_us: int


_TOTAL = Window("total", 0, ALWAYS_US)


def window(kind: str, time_zone: str, now_us: int) -> Window:
    """The window of `kind` (day, month, total) around `now_us`."""
    if kind == "total":
        return _TOTAL
    zone = _zone(time_zone)
    now = datetime.fromtimestamp(now_us / 1e6, zone)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if kind == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    else:
        end = start + timedelta(days=1)  # on the wall clock: a day may have 23 or 25 hours
    form = "%Y-%m" if kind == "month" else "%Y-%m-%d"
    return Window(start.strftime(form), _us(start), _us(end))


def _us(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


@lru_cache(256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
