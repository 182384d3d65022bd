"""The foundation's own part of an export: the audit events of a log."""

from collections.abc import Iterator
from datetime import datetime

from compliance import audit, exports

COLUMNS = (
    *("id", "recorded_at", "action", "outcome", "actor_type", "actor_id"),
    *("target_type", "target_id", "region", "request_id"),
)


def register() -> None:
    exports.register("audit_events", COLUMNS, audit_events)


def audit_events(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """The events' columns; their exact bodies are in the bundle's part of the log."""
    for event in audit.events(log, start, end):
        yield tuple(getattr(event, name) for name in COLUMNS)
