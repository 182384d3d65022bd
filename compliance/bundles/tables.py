"""Rows as CSV for spreadsheets and JSONL for programs, with a schema; in bounded memory."""

import csv
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import rfc8785

from compliance.bundles.writer import Part, text
from compliance.stamps import stamp

Value = str | int | bool | Decimal | datetime | None
Row = Sequence[Value]
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


def write(
    name: str,
    columns: Sequence[str],
    rows: Iterable[Row],
    folder: Path,
    mask: dict[str, Callable[[str], str]] | None = None,
) -> list[Part]:
    """data/NAME.csv, data/NAME.jsonl, schemas/NAME.json; `mask` replaces texts of columns."""
    table, lines = folder / f"{name}.csv", folder / f"{name}.jsonl"
    masks = [(mask or {}).get(column) for column in columns]
    count = 0
    with table.open("w", encoding="utf-8", newline="") as sheet_file, lines.open("wb") as into:
        sheet = csv.writer(sheet_file)
        sheet.writerow(columns)
        for row in rows:
            shown = [_masked(*one) for one in zip(row, masks, strict=True)] if mask else row
            sheet.writerow([cell(value) for value in shown])
            line: dict[str, Any] = dict(zip(columns, map(plain, shown), strict=True))
            into.write(rfc8785.dumps(line) + b"\n")
            count += 1
    said = text(f"schemas/{name}.json", rfc8785.dumps(schema(name, columns)), folder)
    data = (("csv", table), ("jsonl", lines))
    return [*(Part(f"data/{name}.{kind}", source, count) for kind, source in data), said]


def cell(value: Value) -> str | int | bool | None:
    """As a spreadsheet may have it: what a person typed never begins a formula."""
    if isinstance(value, str) and value.startswith(_DANGEROUS):
        return "'" + value
    return plain(value)


def plain(value: Value) -> str | int | bool | None:
    """As JSON has it: exact numbers with a fraction are strings, times are UTC."""
    if isinstance(value, datetime):
        return stamp(value)
    return format(value, "f") if isinstance(value, Decimal) else value


def _masked(value: Value, mask: Callable[[str], str] | None) -> Value:
    return value if mask is None or value in (None, "") else mask(str(plain(value)))


def schema(name: str, columns: Sequence[str]) -> dict[str, Any]:
    kinds = ["string", "integer", "boolean", "null"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "type": "object",
        "properties": {column: {"type": kinds} for column in columns},
        "required": list(columns),
        "additionalProperties": False,
    }
