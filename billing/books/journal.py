"""The ledger's journal of a period: every transaction that is effective in it, with its entries.

By the time it is effective, then by id, read as it is asked for. As JSON lines it is complete and
canonical (RFC 8785): one transaction a line, amounts as whole units of 10^-scale and as a number
of the currency in text, so that sums need no rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import IO

import rfc8785
from django.db import connection

from compliance import audit, exports

COLUMNS = (
    *("transaction", "key", "kind", "effective_at", "posted_at", "reverses", "position"),
    *("account", "currency", "scale", "units", "amount"),
)


@dataclass(frozen=True)
class Side:
    """One entry: `units` of 10^-`scale` of the currency, debit positive."""

    account: str
    currency: str
    scale: int
    units: int

    @property
    def amount(self) -> Decimal:
        return Decimal(self.units).scaleb(-self.scale)


@dataclass(frozen=True)
class Posted:
    id: str
    key: str
    kind: str
    effective_at: datetime
    posted_at: datetime
    reverses: str | None
    sides: tuple[Side, ...]


_ROWS = """
SELECT t.id, t.idempotency_key, t.kind, t.effective_at, t.posted_at, t.reverses_id,
    a.code, a.currency, a.scale, e.amount
FROM billing_ledgertransaction t
JOIN billing_ledgerentry e ON e.transaction_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.account_id
WHERE t.effective_at >= %s AND t.effective_at < %s
ORDER BY t.effective_at, t.id, e.id
"""


def posted(start: datetime, end: datetime) -> Iterator[Posted]:
    """What is effective from `start` until before `end`."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(_ROWS, [start, end])
        for head, rows in groupby(cursor, key=lambda row: row[:6]):
            id, key, kind, effective, made, reverses = head
            sides = tuple(
                Side(code, money, scale, int(units)) for *_, code, money, scale, units in rows
            )
            yield Posted(
                id, key, kind, effective.astimezone(UTC), made.astimezone(UTC), reverses, sides
            )


def lines(start: datetime, end: datetime) -> Iterator[bytes]:
    """The journal as JSON lines."""
    for one in posted(start, end):
        yield (
            rfc8785.dumps(
                {
                    "transaction": one.id,
                    "key": one.key,
                    "kind": one.kind,
                    "effective_at": audit.stamp(one.effective_at),
                    "posted_at": audit.stamp(one.posted_at),
                    "reverses": one.reverses,
                    "entries": [
                        {
                            "account": side.account,
                            "currency": side.currency,
                            "scale": side.scale,
                            "units": str(side.units),
                            "amount": format(side.amount, "f"),
                        }
                        for side in one.sides
                    ],
                }
            )
            + b"\n"
        )


def write(file: IO[bytes], start: datetime, end: datetime) -> int:
    """How many transactions there are."""
    count = 0
    for line in lines(start, end):
        file.write(line)
        count += 1
    return count


def rows(log: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """For an export, an entry a row. The books are the platform's, so its log alone has them."""
    if log != audit.PLATFORM:
        return
    for one in posted(start, end):
        for position, side in enumerate(one.sides, 1):
            yield (
                *(one.id, one.key, one.kind, one.effective_at, one.posted_at, one.reverses),
                *(position, side.account, side.currency, side.scale, side.units, side.amount),
            )
