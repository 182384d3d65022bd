"""What an invoice is made of, out of the database: to compute it again, or to hand it over."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
from django.db import connection
from django.db.models import Q, QuerySet
from django.utils import timezone

from billing import errors, months, tenants
from billing.invoices.bundle import KIND, Event, Head
from billing.invoices.models import Form, InvoiceKind, InvoiceState
from billing.invoices.recompute import STATED
from billing.meters import signed
from billing.meters.proving import Authority, Certificate, Signed
from billing.models import Invoice, InvoiceFile, InvoiceLine
from billing.pricing import agreements, prices
from billing.pricing.charges import Charge
from billing.pricing.terms import Terms
from billing.rating import PriceVersion
from compliance.log import signing

_COLUMNS = ", ".join(Event.__struct_fields__)
# Ids in the order in which Python has them, too.
_EVENTS = (
    f"SELECT {_COLUMNS} FROM billing_usageevent"
    " WHERE account_id = %s AND at >= %s AND at < %s AND basis <> 'attribution'"
    ' AND (%s::bigint IS NULL OR number <= %s) ORDER BY at, id COLLATE "C"'
)


def signature(invoice: Invoice) -> Callable[[str], str]:
    """What signs its evidence's manifest, in the log of its organization. It raises SignerAway."""
    log = tenants.home(invoice.account_id).log
    return lambda sha256: signing.manifest(KIND, sha256, log)


class Stored:
    """A `bundle.Source` of one invoice, which may be a draft still."""

    def __init__(self, invoice: Invoice) -> None:
        """Raises `errors.NoEvidence` for what is drawn from no usage: credit notes, advances."""
        if invoice.kind != InvoiceKind.INVOICE:
            raise errors.NoEvidence(f"{invoice} is a {invoice.kind}: no usage stands behind it")
        self._invoice = invoice

    @property
    def head(self) -> Head:
        invoice = self._invoice
        return Head(
            id=invoice.id,
            label=invoice.label,
            account_id=invoice.account_id,
            currency=invoice.currency,
            start=invoice.period_start.astimezone(UTC),
            end=invoice.period_end.astimezone(UTC),
            json_sha256=invoice.json_sha256,
            upto=invoice.usage_upto,
        )

    def document(self) -> bytes:
        found = InvoiceFile.objects.filter(invoice=self._invoice, form=Form.JSON)
        kept = found.filter(vault_key_id="").first()
        return bytes(kept.content) if kept else b""

    def billed(self) -> list[Charge]:
        return [as_charge(line) for line in self._invoice.lines.order_by("position")]

    def prices(self) -> list[PriceVersion]:
        return prices.versions(self._invoice.currency, self._invoice.account_id)

    def terms(self) -> Terms:
        return agreements.of(self._invoice.account_id)

    def adjusted(self) -> list[datetime]:
        lines = self._invoice.lines.filter(kind="adjustment")
        starts = {months.start_of(line.start) for line in lines}
        return sorted(starts)

    def events(self, month: datetime) -> Iterator[Event]:
        upto = self._invoice.usage_upto
        with connection.chunked_cursor() as cursor:
            span = [month, months.after(month)]
            cursor.execute(_EVENTS, [self._invoice.account_id, *span, upto, upto])
            for row in cursor:
                yield _event(row)

    def earlier(self, month: datetime) -> list[Charge]:
        mine = self._invoice
        before = Invoice.objects.filter(account=mine.account_id, kind=InvoiceKind.INVOICE)
        before = before.exclude(state=InvoiceState.DRAFT).exclude(id=mine.id)
        if mine.final_at is not None:
            same_time = Q(final_at=mine.final_at, id__lt=mine.id)
            before = before.filter(Q(final_at__lt=mine.final_at) | same_time)
        lines = InvoiceLine.objects.filter(
            invoice__in=_standing(before), start__gte=month, start__lt=months.after(month)
        ).exclude(kind__in=STATED)
        return [as_charge(line) for line in lines.order_by("invoice_id", "position")]

    def batches(self) -> Iterator[Signed]:
        """All of its account that arrived from the first of its months until it was final."""
        yield from signed.batches(self._invoice.account_id, *self._span())

    def certificates(self) -> Iterator[Certificate]:
        yield from signed.certificates(self._invoice.account_id, *self._span())

    def authorities(self) -> list[Authority]:
        return [Authority(*one) for one in sorted(tenants.authorities().items())]

    def _span(self) -> tuple[datetime, datetime]:
        mine = self._invoice
        return min([mine.period_start, *self.adjusted()]), mine.final_at or timezone.now()


class Undisclosed(Stored):
    """Without what may say who somebody is: the document, and who asked for what. The sums are the
    same."""

    def document(self) -> bytes:
        return b""

    def events(self, month: datetime) -> Iterator[Event]:
        for event in super().events(month):
            yield msgspec.structs.replace(event, key_id="", agent="", run="")


def as_charge(line: InvoiceLine) -> Charge:
    return Charge(
        kind=line.kind,
        project_id=line.project_id,
        endpoint_id=line.endpoint_id,
        meter=line.meter,
        device_kind=line.device_kind,
        share=line.share,
        price_id=line.price_id,
        unit_amount=line.unit_amount,
        unit_size=line.unit_size,
        quantity=line.quantity,
        exact=Fraction(line.exact),
        amount=Decimal(line.amount).scaleb(-2),
        start=line.start.astimezone(UTC),
        end=line.end.astimezone(UTC),
        note=line.note,
    )


def _standing(invoices: QuerySet[Invoice]) -> list[Invoice]:
    """Without those that were credited whole and drawn again."""
    newest: dict[datetime, Invoice] = {}
    for invoice in invoices.order_by("id"):
        known = newest.get(invoice.period_start)
        if known is None or known.state == InvoiceState.CREDITED:
            newest[invoice.period_start] = invoice
    return list(newest.values())


def _event(row: tuple[Any, ...]) -> Event:
    fields = dict(zip(Event.__struct_fields__, row, strict=True))
    flags = fields["flags"]
    fields["flags"] = tuple(json.loads(flags) if isinstance(flags, str) else flags)
    return Event(**fields)
