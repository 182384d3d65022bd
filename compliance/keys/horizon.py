"""How long a copy of what was destroyed may still lie in a backup. Who makes backups tells."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

from compliance.models import AuditEvent

_kept: list[Callable[[], timedelta]] = []


def register(kept: Callable[[], timedelta]) -> None:
    """The room of the backups says how old one can become, while new ones are made."""
    _kept[:] = [kept]


def kept_for() -> timedelta | None:
    """None: this installation has never made a backup."""
    if not _kept or not AuditEvent.objects.filter(action="backup.create").exists():
        return None
    return _kept[0]()


def until(now: datetime) -> date | None:
    """The day after which no backup holds what is destroyed now; None: none holds it."""
    kept = kept_for()
    return None if kept is None else (now + kept).date()
