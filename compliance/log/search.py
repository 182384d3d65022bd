"""Looking through a log: one set of filters for API, console and streams."""

from collections.abc import Mapping
from datetime import datetime

from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime

from compliance.models import AuditEvent

# What may be asked for, and the column that it must equal.
COLUMNS = {
    "action": "action",
    "actor": "actor_id",
    "target": "target_id",
    "outcome": "outcome",
    "request": "request_id",
}
TIMES = {"since": "recorded_at__gte", "until": "recorded_at__lt"}
NAMES = (*COLUMNS, *TIMES)


class BadFilter(ValueError):
    """`field` cannot be what it is; the message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def find(log: str, wanted: Mapping[str, str]) -> QuerySet[AuditEvent]:
    """Events of a log; `since` is included and `until` is not, both RFC 3339 with a zone.

    An action may end in `.*`: every action of that noun. Empty values are no filters.
    """
    rows = AuditEvent.objects.filter(log_id=log)
    for name, column in COLUMNS.items():
        if value := wanted.get(name, ""):
            if name == "action" and value.endswith(".*"):
                rows = rows.filter(action__startswith=value[:-1])
            else:
                rows = rows.filter(**{column: value})
    for name, column in TIMES.items():
        if value := wanted.get(name, ""):
            rows = rows.filter(**{column: _moment(name, value)})
    return rows


def _moment(name: str, value: str) -> datetime:
    try:
        at = parse_datetime(value)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadFilter(name, "expected a time such as 2026-01-31T12:00:00Z")
    return at
