"""The books against all that they must agree with, each night. A difference is loud.

It says which account and how much, in the log, in the audit log, in `stoa doctor` and to the
operator; no month is closed while the newest run has one. Nothing is put right here: a person
finds out why.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from billing import services
from billing.books import chart
from billing.meters import rollup
from billing.models import BankStatement, Reconciliation
from billing.payments import statements
from compliance import audit

log = logging.getLogger(__name__)
LOOK_BACK = timedelta(hours=49)  # at usage and its accruals: two nights, if one was missed
MOST = 200  # findings that are kept of one run; the count is of all


@dataclass(frozen=True)
class Finding:
    """`found` in the books, `expected` by what they must agree with, in euro or as said."""

    check: str
    account: str
    found: str
    expected: str
    text: str


def run(
    now: datetime, *, since: datetime | None = None, actor: audit.Actor = audit.SYSTEM
) -> Reconciliation:
    """Compare everything; `since`: from when on usage and accruals are looked at again."""
    start = services.hour_start(since or now - LOOK_BACK)
    findings: list[Finding] = []
    checked: dict[str, int] = {}
    for name, check in _CHECKS.items():
        count = 0
        for one in check(start, services.hour_start(now)):
            count += 1
            if isinstance(one, Finding):
                log.error("reconciliation: %s", one.text)
                findings.append(one)
        checked[name] = count
    with transaction.atomic():
        made = Reconciliation.objects.create(
            at=now, findings=[asdict(one) for one in findings[:MOST]], checked=checked
        )
        audit.record(
            actor=actor,
            action="books.reconcile",
            target=audit.Target("reconciliation", made.id),
            log=audit.PLATFORM,
            now=now,
            outcome="failure" if findings else "success",
            reason="differences" if findings else "",
            change=[
                audit.Change("findings", None, len(findings)),
                audit.Change("first", None, findings[0].text[:300] if findings else None),
            ],
        )
    return made


def newest() -> Reconciliation | None:
    return Reconciliation.objects.order_by("-at", "-id").first()


# What a check yields: one for each account that it compared, a Finding where that differs.
_Seen = Iterator[Finding | None]


def _euro(units: int, scale: int = 2) -> str:
    return format(Decimal(int(units)).scaleb(-scale), "f")


def _compared(
    check: str, account: str, found: int, expected: int, against: str, scale: int = 2
) -> Finding | None:
    if found == expected:
        return None
    books, other = _euro(found, scale), _euro(expected, scale)
    difference = _euro(found - expected, scale)
    text = f"{check}: {account} stands at {books} in the books, {other} by {against}: {difference}"
    return Finding(check, account, books, other, text)


def _rows(statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return list(cursor)


def _trial_balance(start: datetime, end: datetime) -> _Seen:
    statement = (
        "SELECT a.currency, a.scale, sum(e.amount)::bigint FROM billing_ledgerentry e"
        " JOIN billing_ledgeraccount a ON a.id = e.account_id GROUP BY 1, 2"
    )
    for currency, scale, total in _rows(statement):
        yield _compared("trial balance", f"all of {currency}", total, 0, "itself", scale)


def _bridge(start: datetime, end: datetime) -> _Seen:
    """Cents that went over the bridge on one side came out on the other; no accrual was wrong."""
    stands = dict(_balances((chart.BRIDGE, chart.BRIDGE_FINE, chart.DIFFERENCE)))
    total = stands.get(chart.BRIDGE, 0) * chart.NANO_PER_CENT + stands.get(chart.BRIDGE_FINE, 0)
    yield _compared("bridge", "bridge:s2 and bridge:s9", total, 0, "each other", 9)
    yield _compared("bridge", chart.DIFFERENCE, stands.get(chart.DIFFERENCE, 0), 0, "invoices", 9)


def _balances(codes: tuple[str, ...]) -> list[tuple[str, int]]:
    statement = (
        "SELECT a.code, sum(e.amount)::bigint FROM billing_ledgeraccount a"
        " JOIN billing_ledgerentry e ON e.account_id = a.id WHERE a.code = ANY (%s) GROUP BY 1"
    )
    return [(code, int(total)) for code, total in _rows(statement, list(codes))]


def _against(check: str, prefix: str, others: str, against: str) -> _Seen:
    """Each account `prefix`… of the ledger against a statement of (rest of the code, cents)."""
    statement = f"""
    WITH books AS (
        SELECT substr(a.code, %s) AS of, sum(e.amount)::bigint AS cents
        FROM billing_ledgeraccount a JOIN billing_ledgerentry e ON e.account_id = a.id
        WHERE starts_with(a.code, %s) GROUP BY 1
    ), others AS ({others})
    SELECT of, coalesce(b.cents, 0), coalesce(o.cents, 0)::bigint
    FROM books b FULL JOIN others o USING (of) ORDER BY of
    """
    for of, found, expected in _rows(statement, len(prefix) + 1, prefix):
        yield _compared(check, f"{prefix}{of}", found, expected, against)


_OPEN = """
SELECT account_id AS of, sum(CASE
    WHEN kind = 'credit_note' THEN settled - due WHEN state = 'final' THEN due - settled
    ELSE 0 END) AS cents
FROM billing_invoice WHERE state <> 'draft' GROUP BY 1
"""
_CREDIT = """
SELECT g.account_id AS of, -sum(g."left" - g.tax + coalesce(u.tax, 0)) AS cents
FROM billing_creditgrant g LEFT JOIN (
    SELECT grant_id, sum(tax) AS tax FROM billing_credituse GROUP BY 1
) u ON u.grant_id = g.id
WHERE g.kind = 'bought' GROUP BY 1
"""
_NOBODYS = """
SELECT p.entity_id AS of, -sum(a.amount) AS cents
FROM billing_allocation a JOIN billing_payment p ON p.id = a.payment_id
WHERE a.purpose = 'unmatched' GROUP BY 1
"""


def _receivables(start: datetime, end: datetime) -> _Seen:
    yield from _against("receivables", "receivable:", _OPEN, "open invoices")


def _prepaid(start: datetime, end: datetime) -> _Seen:
    yield from _against("credit", "prepaid:", _CREDIT, "what is left of bought credit")


def _unmatched(start: datetime, end: datetime) -> _Seen:
    yield from _against("unmatched", "unmatched:", _NOBODYS, "payments that nobody assigned")


_SETTLED = """
SELECT i.id, i.label, i.settled, coalesce(sum(a.amount), 0)::bigint
FROM billing_invoice i LEFT JOIN billing_allocation a ON a.invoice_id = i.id
WHERE i.state <> 'draft' AND i.kind <> 'credit_note' GROUP BY 1, 2, 3
HAVING i.settled <> coalesce(sum(a.amount), 0)
"""
_POSTED = """
SELECT p.id, p.amount, coalesce(sum(e.amount), 0)::bigint
FROM billing_payment p
LEFT JOIN billing_ledgertransaction t ON t.idempotency_key = 'payment:' || p.key
LEFT JOIN billing_ledgerentry e ON e.transaction_id = t.id AND e.amount > 0
GROUP BY 1, 2 HAVING p.amount <> coalesce(sum(e.amount), 0)
"""
_BOOKED = """
SELECT t.idempotency_key, sum(e.amount)::bigint FROM billing_ledgertransaction t
JOIN billing_ledgerentry e ON e.transaction_id = t.id AND e.amount > 0
LEFT JOIN billing_payment p ON 'payment:' || p.key = t.idempotency_key
WHERE t.kind = 'payment' AND p.id IS NULL GROUP BY 1
"""


def _payments(start: datetime, end: datetime) -> _Seen:
    """Invoices have settled what payments are for; each payment is posted, and nothing else is."""
    for id, label, settled, paid in _rows(_SETTLED):
        yield _compared("payments", f"invoice {label or id}", settled, paid, "its payments")
    for id, amount, posted in _rows(_POSTED):
        yield _compared("payments", f"payment {id}", posted, amount, "what came in")
    for key, posted in _rows(_BOOKED):
        yield _compared("payments", key, posted, 0, "payments, which do not know it")
    yield None


def _bank(start: datetime, end: datetime) -> _Seen:
    """The ledger's bank against the statements' movements, and these against the newest balance."""
    entities = list(BankStatement.objects.order_by().values_list("entity_id", flat=True).distinct())
    stands = dict(_balances(tuple(chart.bank(one) for one in entities)))
    for entity_id in entities:
        code = chart.bank(entity_id)
        moved = statements.balance(entity_id) or 0
        yield _compared("bank", code, stands.get(code, 0), moved, "bank statements")
        rows = BankStatement.objects.filter(entity_id=entity_id, closing__isnull=False)
        last = rows.order_by("-id").first()
        if last is not None and last.closing is not None:
            yield _compared(
                "bank", f"{code}, its movements", moved, last.closing, f"statement {last.name}"
            )


def _accruals(start: datetime, end: datetime) -> _Seen:
    """What the ledger accrued for each hour against its usage at its prices; and raw usage."""
    for each in services.compare(start, end):
        name = f"unbilled:{each.account_id}, hour {each.hour:%Y-%m-%d %H:00}"
        yield _compared("accruals", name, each.accrued, each.due, "usage and prices", 9)
        if each.unpriced:
            text = f"accruals: {name} has usage without a price: {each.unpriced[0].meter}"
            yield Finding("accruals", name, "", "", text)
    for one in rollup.verify(start, end):
        text = f"accruals: sums of usage differ from its events: {one}"
        yield Finding("accruals", "usage", "", "", text)


_CHECKS: dict[str, Callable[[datetime, datetime], _Seen]] = {
    "trial balance": _trial_balance,
    "bridge": _bridge,
    "receivables": _receivables,
    "credit": _prepaid,
    "unmatched": _unmatched,
    "payments": _payments,
    "bank": _bank,
    "accruals": _accruals,
}
