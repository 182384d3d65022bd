"""Replicas by the clock: cron schedules in a time zone, and bursts that somebody declares.

Where clocks change, as RFC 5545 has it: a time that does not exist is reckoned by the offset from
before the change, a time that exists twice is the first one; with `*` for the hour it is both.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Cron:
    """The five fields, as sets. `days` and `weekdays`: either is enough where both are set."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    every_hour: bool
    either_day: bool

    def on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either_day else of_month and of_week

    def moments(self, day: date, zone: ZoneInfo) -> list[datetime]:
        """When it strikes on that day of the zone's calendar; aware UTC, ascending."""
        if not self.on(day):
            return []
        found = set()
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                found.add(local.astimezone(UTC))
                again = local.replace(fold=1).astimezone(UTC)
                if self.every_hour and again > local.astimezone(UTC):
                    found.add(again)
        return sorted(found)


@lru_cache(1024)
def parse(text: str) -> Cron:
    """`minute hour day month weekday`, with `*`, lists, ranges, steps, and English short names.

    ValueError says what is wrong with it.
    """
    fields = text.split()
    if len(fields) != 5:
        raise ValueError(f"a cron schedule has 5 fields, not {len(fields)}: {text!r}")
    minute, hour, day, month, weekday = fields
    weekdays = _field(weekday, 0, 7, "weekday", _DAYS)
    return Cron(
        minutes=_field(minute, 0, 59, "minute"),
        hours=_field(hour, 0, 23, "hour"),
        days=_field(day, 1, 31, "day"),
        months=_field(month, 1, 12, "month", _MONTHS),
        weekdays=frozenset(number % 7 for number in weekdays),
        every_hour=hour.startswith("*"),
        either_day=not day.startswith("*") and not weekday.startswith("*"),
    )


def _field(
    text: str, low: int, high: int, name: str, names: tuple[str, ...] = ()
) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            start, end = low, high
        else:
            start = _number(first, low, high, name, names)
            end = _number(last, low, high, name, names) if dash else high if slash else start
        every = _number(step, 1, high, name) if slash else 1
        if end < start:
            raise ValueError(f"{name}: {part!r} ends before it begins")
        found |= set(range(start, end + 1, every))
    return frozenset(found)


def _number(text: str, low: int, high: int, name: str, names: tuple[str, ...] = ()) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ValueError(f"{name}: expected {low} to {high}, not {text!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Schedule:
    """At least `replicas` for `duration_s` from each moment at which the cron strikes.

    ValueError if it cannot be.
    """

    cron: str
    time_zone: str
    duration_s: float
    replicas: int = 1

    def __post_init__(self) -> None:
        parse(self.cron)
        try:
            _zone(self.time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"no such time zone: {self.time_zone!r}") from error
        if not 0 < self.duration_s <= LONGEST_S:
            raise ValueError(f"a schedule lasts up to {LONGEST_S:.0f} s, not {self.duration_s}")
        if self.replicas < 1:
            raise ValueError(f"a schedule is for 1 replica or more, not {self.replicas}")

    def starts(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The moments in `(after, until]`, ascending."""
        zone, cron = _zone(self.time_zone), parse(self.cron)
        # Zones are less than a day from UTC, and what does not exist moves by less than that.
        day, last = after.date() - timedelta(days=1), until.date() + timedelta(days=1)
        found: set[datetime] = set()
        while day <= last:
            found.update(at for at in cron.moments(day, zone) if after < at <= until)
            day += timedelta(days=1)
        yield from sorted(found)

    def changes(self, now: datetime, within_s: float, lead_s: float) -> Iterator[datetime]:
        """When `wanted` may change next."""
        duration, lead = timedelta(seconds=self.duration_s), timedelta(seconds=lead_s)
        for start in self.starts(now - duration, now + lead + timedelta(seconds=within_s)):
            yield from (start - lead, start + duration)

    def wanted(self, now: datetime, lead_s: float) -> int:
        """Replicas that should be there or start now, so as to be ready in time."""
        after = now - timedelta(seconds=self.duration_s)
        return self.replicas if any(self.starts(after, now + timedelta(seconds=lead_s))) else 0


@dataclass(frozen=True, slots=True)
class Burst:
    """ "20 workers in 3 minutes": `workers` come at `at` and are gone by `until`.

    `sequences`: how many requests one of them has in flight.
    """

    workers: int
    at: datetime
    until: datetime
    sequences: int = 1

    def changes(self, lead_s: float) -> Iterator[datetime]:
        yield from (self.at - timedelta(seconds=lead_s), self.until)

    def wanted(self, now: datetime, lead_s: float, max_num_seqs: int, target: float) -> int:
        """Replicas that should be there or start now, each `target` full."""
        if not self.at - timedelta(seconds=lead_s) <= now < self.until:
            return 0
        return -int(-self.workers * self.sequences // (max_num_seqs * target))


def floor(
    schedules: Iterable[Schedule],
    bursts: Iterable[Burst],
    now: datetime,
    *,
    lead_s: float,
    max_num_seqs: int,
    target: float,
) -> int:
    """The least number of replicas by the clock. `lead_s`: how long a start takes."""
    by_cron = (schedule.wanted(now, lead_s) for schedule in schedules)
    by_burst = (burst.wanted(now, lead_s, max_num_seqs, target) for burst in bursts)
    return max((*by_cron, *by_burst), default=0)


def next_change_s(
    schedules: Iterable[Schedule],
    bursts: Iterable[Burst],
    now: datetime,
    *,
    within_s: float,
    lead_s: float,
) -> float:
    """Seconds until `floor` may change, `within_s` at most."""
    moments = [at for schedule in schedules for at in schedule.changes(now, within_s, lead_s)]
    moments += [at for burst in bursts for at in burst.changes(lead_s)]
    coming = ((at - now).total_seconds() for at in moments if at > now)
    return min(within_s, *coming, within_s)


@lru_cache(256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
