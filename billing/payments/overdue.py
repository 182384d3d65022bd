"""Invoices that are due and open, the oldest first: whom to remind."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from billing.invoices.models import Invoice, InvoiceKind, InvoiceState


@dataclass(frozen=True)
class Overdue:
    """`open` in cents, `days` since it was due."""

    invoice_id: str
    label: str
    account_id: str
    customer: str
    due_on: date
    days: int
    open: int


def overdue(now: datetime, account_id: str | None = None) -> Iterator[Overdue]:
    today = now.astimezone(UTC).date()
    rows = (
        Invoice.objects.filter(state=InvoiceState.FINAL, due_on__lt=today)
        .exclude(kind=InvoiceKind.CREDIT_NOTE)
        .select_related("account__customer")
        .order_by("due_on", "id")
    )
    if account_id:
        rows = rows.filter(account_id=account_id)
    for one in rows:
        customer = getattr(one.account, "customer", None)
        yield Overdue(
            one.id,
            one.label,
            one.account_id,
            customer.legal_name if customer else one.account.name,
            one.due_on or today,
            (today - (one.due_on or today)).days,
            one.due - one.settled,
        )
