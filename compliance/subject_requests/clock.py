"""When a request is due: calendar months by the table beside this file. Pure."""

import json
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Term:
    """What applied on the day of receipt. `version`: of the table."""

    months: int
    extension_months: int
    source: str
    version: str


@cache
def _table() -> dict[str, Any]:
    text = (files("compliance.subject_requests") / "terms.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def term(received: datetime) -> Term:
    """Of requests that were received then. Raises LookupError before the first row."""
    day = received.astimezone(UTC).date()
    rows = [row for row in _table()["rows"] if date.fromisoformat(row["from"]) <= day]
    if not rows:
        raise LookupError(f"no period is known for requests of {day}")
    row = max(rows, key=lambda one: str(one["from"]))
    return Term(row["months"], row["extension_months"], row["source"], _table()["version"])


def due(received: datetime) -> date:
    """The last day for an answer: the same day of the next month, or that month's last."""
    return later(received.astimezone(UTC).date(), term(received).months)


def extended(received: datetime) -> date:
    """The last day where the period was extended."""
    rule = term(received)
    return later(received.astimezone(UTC).date(), rule.months + rule.extension_months)


def later(day: date, months: int) -> date:
    """So many calendar months later; the month's last day where it has no such day."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, monthrange(year, month)[1]))
