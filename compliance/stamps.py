"""Times as records have them."""

from datetime import UTC, datetime


def stamp(at: datetime) -> str:
    """UTC with microseconds: `2026-01-31T12:00:00.000000Z`. Raises ValueError on a naive time."""
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
