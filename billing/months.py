"""Calendar months in UTC, which is what is billed: no hour is lost or doubled. Pure."""

from datetime import UTC, datetime, timedelta


def start_of(moment: datetime) -> datetime:
    """The first moment of the month that `moment` (aware) is in."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def after(start: datetime) -> datetime:
    """The first moment of the month after the one that begins at `start`."""
    return (start + timedelta(days=32)).replace(day=1)
