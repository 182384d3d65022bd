"""Times that others write, as RFC 3339 has them."""

import re
from datetime import UTC, date, datetime, timedelta

from django.utils.dateparse import parse_datetime

_LEAP = re.compile(r"(.*[T ]\d\d:\d\d):60(?:\.\d+)?(Z|z|[+-]\d\d:?\d\d)")


def parse(text: str) -> datetime:
    """The moment in UTC. A leap second (23:59:60 in UTC, whatever the zone) is the first moment of
    the day after, as in every clock that counts since 1970: nothing lies between the two.

    Raises ValueError for a time that is none, or is not of any day, or has no zone.
    """
    leap = _LEAP.fullmatch(text)
    moment = parse_datetime(f"{leap[1]}:59{leap[2].upper()}" if leap else text)  # may raise, too
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"no time with a zone: {text!r}")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"out of all time: {text!r}") from error
    if not leap:
        return moment
    if (moment.hour, moment.minute) != (23, 59) or moment.date() == date.max:
        raise ValueError(f"no leap second: {text!r}")
    return moment + timedelta(seconds=1)
