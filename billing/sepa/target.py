"""The days on which T2 (TARGET) settles: every weekday but six holidays, the same each year."""

from datetime import date, timedelta

from dateutil.easter import easter

_FIXED = ((1, 1), (5, 1), (12, 25), (12, 26))
_DAY = timedelta(days=1)


def holidays(year: int) -> frozenset[date]:
    """New Year, Good Friday, Easter Monday, Labour Day, Christmas and the day after."""
    sunday = easter(year)
    moving = (sunday - 2 * _DAY, sunday + _DAY)
    return frozenset((*moving, *(date(year, month, day) for month, day in _FIXED)))


def is_open(day: date) -> bool:
    return day.weekday() < 5 and day not in holidays(day.year)


def on_or_after(day: date) -> date:
    """The first day from this one on that settles."""
    while not is_open(day):
        day += _DAY
    return day


def on_or_before(day: date) -> date:
    """The last day up to this one that settles."""
    while not is_open(day):
        day -= _DAY
    return day


def before(day: date, count: int) -> date:
    """So many settling days earlier than `day`, which is itself not counted."""
    for _ in range(count):
        day = on_or_before(day - _DAY)
    return day


def after(day: date, count: int) -> date:
    """So many settling days later than `day`, which is itself not counted."""
    for _ in range(count):
        day = on_or_after(day + _DAY)
    return day
