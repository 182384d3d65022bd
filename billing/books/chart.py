"""The chart of accounts, and what each event of a sale posts: pure entries, and thin posts.

Usage is accrued in units of 10^-9 (scale 9), invoices and payments are in cents (scale 2). An
invoice leads from one to the other over two bridges whose values cancel out, and what its lines
were rounded by stands in `rounding`: no part of a cent is lost.

    receivable:<acc>   what an account owes              prepaid:<acc>     credit that it bought
    unbilled:<acc>  9  served and not invoiced yet       unmatched:<ent>   money of nobody known
    bank:<ent>, clearing:<provider>:<ent>                vat:<country>:<rate>
    revenue:<what>  9, discount  9, rounding  9          fees:<provider>, bad_debt
    claims:<acc>       money that went back though used  transfers:<ent>, opening:<ent>
    bridge:s2, bridge:s9  9                              accrual_difference  9: a finding, if not 0
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from django.db import connection

from billing import errors
from billing.books import ledger
from billing.books.ledger import Entry
from billing.models import LedgerTransaction

FINE = 9  # decimal places of what is accrued
NANO_PER_CENT = 10**7
BRIDGE, BRIDGE_FINE = "bridge:s2", "bridge:s9"
DISCOUNT, ROUNDING, DIFFERENCE = "discount", "rounding", "accrual_difference"
BAD_DEBT = "bad_debt"
INVOICE, CREDIT_NOTE, ADVANCE = "invoice", "credit_note", "advance"


def receivable(account_id: str) -> str:
    return f"receivable:{account_id}"


def unbilled(account_id: str) -> str:
    return f"unbilled:{account_id}"


def prepaid(account_id: str) -> str:
    return f"prepaid:{account_id}"


def bank(entity_id: str) -> str:
    return f"bank:{entity_id}"


def clearing(provider: str, entity_id: str) -> str:
    return f"clearing:{provider}:{entity_id}"


def unmatched(entity_id: str) -> str:
    return f"unmatched:{entity_id}"


def claims(account_id: str) -> str:
    return f"claims:{account_id}"


def transfers(entity_id: str) -> str:
    return f"transfers:{entity_id}"


def opening(entity_id: str) -> str:
    return f"opening:{entity_id}"


def fees(provider: str) -> str:
    return f"fees:{provider}"


def revenue(what: str) -> str:
    return f"revenue:{what}"


@dataclass(frozen=True)
class Vat:
    """The tax of one rate (percent) in one country, in cents. Nothing owed, nothing listed."""

    country: str
    rate: Decimal
    amount: int

    @property
    def code(self) -> str:
        """The same account however the rate was written: 19, 19.0 and 19.00 are one."""
        return f"vat:{self.country}:{format(self.rate.normalize(), 'f')}"


@dataclass(frozen=True)
class Sale:
    """An invoice as it becomes final. `net` and `vat` in cents, after allowances and free credit.

    In units of 10^-9: `accrued`, what it takes out of `unbilled` (`accrued_until`); `discount`,
    what the customer need not pay of that (allowances, tiers, free credit), positive; `extra`,
    what it owes and was never accrued (a commitment's shortfall), by the name of the revenue.
    `lines` were rounded, so often may half a cent be lost or won.
    """

    invoice_id: str
    account_id: str
    net: int
    vat: tuple[Vat, ...] = ()
    accrued: int = 0
    discount: int = 0
    extra: Mapping[str, int] = field(default_factory=dict)
    lines: int = 0
    currency: str = "EUR"

    @property
    def gross(self) -> int:
        return self.net + sum(each.amount for each in self.vat)


def invoice_entries(sale: Sale) -> list[Entry]:
    """Dr receivable / Cr bridge, VAT; and Dr bridge, discount / Cr unbilled, extra revenue.

    What is left is rounding, as far as the lines explain it, else a difference that the
    reconciliation finds: an invoice is right, and the accruals were not.
    """
    rest = sale.accrued + sum(sale.extra.values()) - sale.discount - sale.net * NANO_PER_CENT
    explained = abs(rest) <= (sale.lines + 1) * NANO_PER_CENT
    fine = [
        (unbilled(sale.account_id), -sale.accrued),
        *((revenue(what), -units) for what, units in sorted(sale.extra.items())),
        (DISCOUNT, sale.discount),
        (BRIDGE_FINE, sale.net * NANO_PER_CENT),
        (ROUNDING if explained else DIFFERENCE, rest),
    ]
    return [*_owed(sale.account_id, sale.net, sale.vat, BRIDGE, sale.currency), *_fine(fine, sale)]


def post_invoice(sale: Sale, *, at: datetime) -> LedgerTransaction | None:
    """Once for each invoice; None for one that moves nothing (a month without usage)."""
    return _post(f"invoice:{sale.invoice_id}:finalise", INVOICE, at, invoice_entries(sale))


def credit_note_entries(sale: Sale, by: Mapping[str, int] | None = None) -> list[Entry]:
    """The mirror of an invoice: `net` and `vat` are what is given back, in positive cents.

    `by`: which revenue loses how much (10^-9); the rest, or all of it, is a correction of none.
    """
    given = dict(by or {})
    rest = sale.net * NANO_PER_CENT - sum(given.values())
    given["corrections"] = given.get("corrections", 0) + rest
    fine = [
        *((revenue(what), units) for what, units in sorted(given.items())),
        (BRIDGE_FINE, -sale.net * NANO_PER_CENT),
    ]
    back = tuple(Vat(each.country, each.rate, -each.amount) for each in sale.vat)
    return [*_owed(sale.account_id, -sale.net, back, BRIDGE, sale.currency), *_fine(fine, sale)]


def post_credit_note(
    sale: Sale, *, at: datetime, by: Mapping[str, int] | None = None
) -> LedgerTransaction | None:
    """`sale.invoice_id` is the credit note's own id."""
    key = f"invoice:{sale.invoice_id}:finalise"
    return _post(key, CREDIT_NOTE, at, credit_note_entries(sale, by))


def advance_entries(sale: Sale) -> list[Entry]:
    """An invoice in advance: what is paid becomes credit, its VAT is owed now."""
    return _owed(sale.account_id, sale.net, sale.vat, prepaid(sale.account_id), sale.currency)


def post_advance(sale: Sale, *, at: datetime) -> LedgerTransaction | None:
    key = f"invoice:{sale.invoice_id}:finalise"
    return _post(key, ADVANCE, at, advance_entries(sale))


def apply_credit_entries(account_id: str, amount: int, vat: Sequence[Vat] = ()) -> list[Entry]:
    """Bought credit pays `amount` cents, of which `vat` was invoiced in advance and is not owed
    a second time."""
    tax = sum(each.amount for each in vat)
    return _cents(
        [
            (prepaid(account_id), amount - tax),
            *((each.code, each.amount) for each in vat),
            (receivable(account_id), -amount),
        ]
    )


def post_apply_credit(
    *, invoice_id: str, account_id: str, amount: int, at: datetime, vat: Sequence[Vat] = ()
) -> LedgerTransaction | None:
    entries = apply_credit_entries(account_id, amount, vat)
    return _post(f"invoice:{invoice_id}:credit", "apply_credit", at, entries)


def write_off_entries(account_id: str, amount: int, vat: Sequence[Vat] = ()) -> list[Entry]:
    """`amount` cents will not come; `vat`: what of that was tax that is owed no more (Art. 90)."""
    tax = sum(each.amount for each in vat)
    return _cents(
        [
            (BAD_DEBT, amount - tax),
            *((each.code, each.amount) for each in vat),
            (receivable(account_id), -amount),
        ]
    )


def post_write_off(
    *, invoice_id: str, account_id: str, amount: int, at: datetime, vat: Sequence[Vat] = ()
) -> LedgerTransaction | None:
    entries = write_off_entries(account_id, amount, vat)
    return _post(f"invoice:{invoice_id}:write_off", "write_off", at, entries)


def expired_entries(account_id: str, amount: int) -> list[Entry]:
    """Bought credit that nobody used in time is revenue."""
    fine = [(BRIDGE_FINE, amount * NANO_PER_CENT), (revenue("expired"), -amount * NANO_PER_CENT)]
    return [
        *_cents([(prepaid(account_id), amount), (BRIDGE, -amount)]),
        *(Entry(code, units, "EUR", FINE) for code, units in fine if units),
    ]


def cents(sides: Iterable[tuple[str, int]], currency: str = "EUR") -> list[Entry]:
    """Entries in cents; sides of the same account are added up, and those of nothing left out."""
    return _cents(sides, currency)


def accrued_until(account_id: str, end: datetime) -> int:
    """What was served before `end`, was accrued, and is on no invoice yet; units of 10^-9.

    An accrual is told by the hour that it is of, which its key has: it may be posted later, where
    the books of that hour are closed.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ACCRUED, [int(end.timestamp()), unbilled(account_id)])
        return int(cursor.fetchone()[0])


_ACCRUED = """
SELECT coalesce(sum(e.amount) FILTER (WHERE t.kind <> 'accrual'
    OR split_part(t.idempotency_key, ':', 3)::bigint < %s), 0)
FROM billing_ledgeraccount a
JOIN billing_ledgerentry e ON e.account_id = a.id
JOIN billing_ledgertransaction t ON t.id = e.transaction_id
WHERE a.code = %s
"""


def _owed(
    account_id: str, net: int, vat: Sequence[Vat], against: str, currency: str
) -> list[Entry]:
    gross = net + sum(each.amount for each in vat)
    sides = [(against, -net), *((each.code, -each.amount) for each in vat)]
    return _cents([(receivable(account_id), gross), *sides], currency)


def _cents(sides: Iterable[tuple[str, int]], currency: str = "EUR") -> list[Entry]:
    return [Entry(code, amount, currency) for code, amount in _summed(sides).items() if amount]


def _fine(sides: Iterable[tuple[str, int]], sale: Sale) -> list[Entry]:
    found = _summed(sides).items()
    return [Entry(code, units, sale.currency, FINE) for code, units in found if units]


def _summed(sides: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for code, amount in sides:
        if type(amount) is not int:
            raise errors.Unbalanced(f"{code}: {amount!r} is no whole number of units")
        sums[code] = sums.get(code, 0) + amount
    return sums


def _post(key: str, kind: str, at: datetime, entries: list[Entry]) -> LedgerTransaction | None:
    if not entries:
        return None
    return ledger.post(idempotency_key=key, kind=kind, effective_at=at, entries=entries)
