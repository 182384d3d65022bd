"""Which backups stay: of each hour, day, week and month the last one, so many of each. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TypeVar

Key = TypeVar("Key")

_PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
}


@dataclass(frozen=True)
class Rules:
    """How many periods of each length keep their last backup; periods without one count not."""

    hourly: int = 24
    daily: int = 7
    weekly: int = 5
    monthly: int = 12

    @classmethod
    def of(cls, text: str) -> "Rules":
        """From `hourly=24,daily=7`; what is not named is 0. Raises ValueError."""
        known = {field.name for field in fields(cls)}
        counts = dict.fromkeys(known, 0)
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, _, number = word.partition("=")
            if name not in known or not number.isdecimal():
                raise ValueError(f"{word!r}: expected {', '.join(sorted(known))}=NUMBER")
            counts[name] = int(number)
        if not any(counts.values()):
            raise ValueError("it keeps nothing")
        return cls(**counts)

    @property
    def longest(self) -> timedelta:
        """From when a backup is made until it is surely let go."""
        return max(
            timedelta(hours=self.hourly + 1) if self.hourly else timedelta(),
            timedelta(days=self.daily + 1) if self.daily else timedelta(),
            timedelta(weeks=self.weekly + 1) if self.weekly else timedelta(),
            timedelta(days=31 * (self.monthly + 1)) if self.monthly else timedelta(),
        )


def kept(backups: Iterable[tuple[Key, datetime]], rules: Rules) -> set[Key]:
    """Of (backup, when) those that stay. The newest always does."""
    newest_first = sorted(backups, key=lambda pair: pair[1], reverse=True)
    stay = {key for key, _ in newest_first[:1]}
    for name, period in _PERIODS.items():
        seen: set[object] = set()
        for key, at in newest_first:
            mark = period(at.astimezone(UTC))
            if mark not in seen and len(seen) < getattr(rules, name):
                seen.add(mark)
                stay.add(key)
    return stay
