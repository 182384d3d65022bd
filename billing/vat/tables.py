"""The tables beside this file: versioned rows with a source, never constants in code."""

import json
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any


class UnknownRule(LookupError):
    """The tables say nothing of this country or day: nobody is to guess."""


@cache
def table(name: str) -> dict[str, Any]:
    """`name`.json, read once. Callers do not change it."""
    found: dict[str, Any] = json.loads(
        (files("billing.vat") / "data" / f"{name}.json").read_text("utf-8")
    )
    return found


def in_force(rows: list[dict[str, Any]], on: date, what: str) -> dict[str, Any]:
    """The youngest row that applies on that day. Raises UnknownRule before the first."""
    reached = [row for row in rows if date.fromisoformat(row["from"]) <= on]
    if not reached:
        raise UnknownRule(f"nothing is known of {what} on {on}")
    return max(reached, key=lambda row: str(row["from"]))


def versions() -> dict[str, str]:
    """Which edition of each table a decision was made with."""
    names = ("states", "territories", "issuers", "reverse_charge")
    return {name: str(table(name)["version"]) for name in names}
