"""Calendar months in UTC, which is what is billed: no hour is lost or doubled. Pure."""

from datetime import UTC, datetime, timedelta


def start_of(moment: datetime) -> datetime:
    """The first moment of the month that `moment` (aware) is in."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def after(start: datetime) -> datetime:
    """The first moment of the month after the one that begins at `start`."""
    return (start + timedelta(days=32)).replace(day=1)


def last(moment: datetime, count: int) -> list[datetime]:
    """Starts of the month around `moment` and of those before it, newest first."""
    found = [start_of(moment)]
    while len(found) < count:
        found.append(start_of(found[-1] - timedelta(days=1)))
    return found
