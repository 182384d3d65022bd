"""What auditors take away of invoices: rows for an export, of one account or (None) of all."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from django.db.models import F, QuerySet, Sum

from billing.credit.models import UseKind
from billing.invoices.models import InvoiceKind, InvoiceState
from billing.models import CreditUse, Invoice, InvoiceLine
from compliance import exports

Row = tuple[exports.Value, ...]
INVOICES = (
    *("id", "number", "kind", "state", "issued_on", "period_start", "period_end", "currency"),
    *("net", "vat", "gross", "prepaid", "due", "settled", "category", "rate", "customer_number"),
    *("vies_consultation", "corrects", "json_sha256", "xml_sha256", "pdf_sha256"),
)
LINES = (
    *("invoice", "position", "kind", "project", "endpoint", "meter", "device_kind", "share"),
    *("price_id", "unit_amount", "unit_size", "quantity", "amount", "start", "end", "note"),
)
STATEMENT = ("period", "customer_number", "invoice", "value")


def invoices(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    for one in issued(account_id, start, end).iterator(chunk_size=500):
        decision = one.decision
        vies = (decision.get("inputs") or {}).get("evidence", {}).get("vies") or {}
        yield (
            *(one.id, one.label, one.kind, one.state, f"{one.issued_on}"),
            *(one.period_start, one.period_end, one.currency),
            *map(_euro, (one.net, one.vat, one.gross, one.prepaid, one.due, one.settled)),
            *(decision.get("category"), decision.get("rate"), decision.get("customer_number")),
            *(vies.get("consultation_number"), one.corrects_id),
            *(one.json_sha256, one.xml_sha256, one.pdf_sha256),
        )


def lines(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    found = InvoiceLine.objects.filter(invoice__in=issued(account_id, start, end).order_by())
    for one in found.order_by("invoice_id", "position").iterator(chunk_size=2000):
        yield (
            *(one.invoice_id, one.position, one.kind, one.project_id, one.endpoint_id),
            *(one.meter, one.device_kind, one.share, one.price_id, one.unit_amount),
            *(one.unit_size, one.quantity, _euro(one.amount), one.start, one.end, one.note),
        )


def statement(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    """Services under reverse charge by month and customer (Art. 262); credit notes take away.

    A payment on account counts when it came; the invoice that deducts it counts the rest.
    """
    for one in issued(account_id, start, end).iterator(chunk_size=500):
        if one.decision.get("listed"):
            credit = one.kind == InvoiceKind.CREDIT_NOTE
            # A credit note counts in the month in which the customer was told (Art. 264(2)).
            month = f"{one.issued_on:%Y-%m}" if credit else f"{one.period_start:%Y-%m}"
            value = _euro(-one.net if credit else one.net - _counted(one))
            yield (month, one.decision["customer_number"], one.label, value)


def _counted(invoice: Invoice) -> int:
    """Net cents of it that advance invoices have stated."""
    if not invoice.advances:
        return 0
    uses = CreditUse.objects.filter(invoice_id=invoice.id, kind=UseKind.APPLY)
    found = uses.exclude(grant__invoice_id="").aggregate(net=Sum(F("amount") - F("tax")))
    return int(found["net"] or 0)


def issued(account_id: str | None, start: datetime, end: datetime) -> QuerySet[Invoice]:
    """Final ones of an account, or of all, by when they became final."""
    found = Invoice.objects.exclude(state=InvoiceState.DRAFT).order_by("final_at", "id")
    found = found.filter(final_at__gte=start, final_at__lt=end)
    return found if account_id is None else found.filter(account_id=account_id)


def _euro(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)
