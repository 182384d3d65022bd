"""An invoice that was issued after the recovery point of a backup, put back from what was archived.

Its customer has the document, so it stays what it is: the same number, the same bytes. The frozen
JSON is enough where the journal outside of the database (compliance.tombstones) knows the hashes of
all forms; what is not given is made anew from it and must have its hash. Lines are taken from the
invoice's evidence, or drawn from the usage that is here where that comes to the same. All of it is
one transaction: credit that it used is used again, the ledger posted, its number drawn, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import cast

import facturx as reader
import msgspec
from django.db import transaction

from billing import errors, months
from billing.books import chart, closing
from billing.credit import credits
from billing.einvoice import canonical, cii, facturx
from billing.einvoice.document import Invoice as Document
from billing.invoices import drawing, freezing, invoicing, issuing, numbering
from billing.invoices.freezing import Frozen
from billing.invoices.models import Form, InvoiceKind, InvoiceState
from billing.meters import cutoff
from billing.models import Customer, Entity, Invoice
from billing.pricing.charges import Charge
from billing.rating import Unpriced
from compliance import audit
from compliance.models import Tombstone

_ISSUED = ("invoice.finalise", "invoice.put_back")


@dataclass(frozen=True)
class Archived:
    """What somebody kept. `json` is the frozen document; the rest may be empty. `billed` and
    `account_id` are of its evidence."""

    json: bytes
    cii: bytes = b""
    pdf: bytes = b""
    decision: bytes = b""
    billed: tuple[Charge, ...] = ()
    account_id: str = ""


def put_back(kept: Archived, *, actor: audit.Actor, now: datetime, account_id: str = "") -> Invoice:
    """The invoice, final again; the same when repeated. Raises `errors.InvoiceRefused`, which
    says what is missing or does not fit, and changes nothing."""
    document = _read(kept.json)
    label = document.number
    with transaction.atomic():
        if (found := Invoice.objects.filter(label=label).first()) is not None:
            return _same(found, kept)
        stone = _stone(label)
        customer = _customer(document, kept.account_id or account_id)
        with credits.alone(customer.account_id):
            frozen = _forms(kept, document, stone)
            invoice = _row(document, customer, stone, kept, now)
            charges = _lines(invoice, document, kept)
            _settled(invoice, document, charges, stone.at if stone else now, now)
            _number(invoice, document)
            at = stone.at if stone else _midnight(document.issued)
            issuing.freeze(
                invoice, frozen, customer.entity, actor, now, "invoice.put_back", final_at=at
            )
    return invoice


def number(frozen: bytes) -> str:
    """Of a frozen document. Raises `errors.InvoiceRefused` for what is none."""
    return _read(frozen).number


def _read(frozen: bytes) -> Document:
    try:
        document = canonical.loads(frozen)
    except canonical.Unreadable as error:
        raise errors.InvoiceRefused(f"this is no frozen document: {error}") from error
    base = numbering.SERIES[InvoiceKind.INVOICE]
    if document.kind != "invoice" or not document.number.startswith(base):
        raise errors.InvoiceRefused(
            f"{document.number} is no invoice of a month: put back what it is of, and issue it"
            " again (docs/backup.md)"
        )
    return document


def _same(found: Invoice, kept: Archived) -> Invoice:
    if freezing.content(found, Form.JSON) != kept.json:
        raise errors.InvoiceRefused(f"another invoice is {found.label} here ({found.id})")
    return found


def _stone(label: str) -> Tombstone | None:
    """What the journal knows of it, from when it was issued first."""
    found = Tombstone.objects.filter(action__in=_ISSUED, facts__number=label)
    return found.order_by("at", "id").first()


def _customer(document: Document, account_id: str) -> Customer:
    found = Customer.objects.select_related("entity", "account")
    if account_id:
        customers = list(found.filter(account_id=account_id))
    else:
        customers = list(found.filter(legal_name=document.customer.name)[:2])
    if len(customers) != 1:
        raise errors.InvoiceRefused(
            f"say whose it is: {len(customers)} accounts here are {document.customer.name}"
        )
    (customer,) = customers
    if document.supplier.vat_id != customer.entity.vat_id:
        raise errors.InvoiceRefused(f"{document.supplier.vat_id} issued it, not we")
    if document.currency != customer.account.currency:
        raise errors.InvoiceRefused(f"it is in {document.currency}, the account is not")
    return customer


def _forms(kept: Archived, document: Document, stone: Tombstone | None) -> Frozen:
    """All forms, each as it was issued as far as that can be told."""
    xml = kept.cii or cii.write(document)
    if xml != cii.write(document):
        raise errors.InvoiceRefused("the XML does not say what the document says")
    if not kept.pdf and stone is None:
        raise errors.InvoiceRefused("the journal does not know it: its PDF is needed, too")
    pdf = kept.pdf or facturx.render(document, xml, stone.at if stone else _midnight(None))
    if _inside(pdf) != xml:
        raise errors.InvoiceRefused("the PDF has another invoice inside")
    frozen = Frozen(document, {Form.JSON: kept.json, Form.CII: xml, Form.PDF: pdf})
    for form, digest in frozen.sums.items():
        known = stone.facts.get(f"{form}_sha256") if stone else None
        if known is not None and known != digest:
            raise errors.InvoiceRefused(
                f"the {form} is not what was issued: the journal has another SHA-256"
            )
    freezing.judge(xml)
    return frozen


def _inside(pdf: bytes) -> bytes:
    try:
        _, xml = reader.get_facturx_xml_from_pdf(pdf, check_xsd=False)
    except Exception as error:  # the library has no class of its own for what is no PDF
        raise errors.InvoiceRefused(f"the PDF cannot be read: {error}") from error
    return cast(bytes, xml or b"")


def _row(
    document: Document, customer: Customer, stone: Tombstone | None, kept: Archived, now: datetime
) -> Invoice:
    """A draft in the place of whatever draft the month has now."""
    assert document.period is not None
    start = _midnight(document.period.start)
    mine = Invoice.objects.filter(account=customer.account, kind=InvoiceKind.INVOICE)
    there = mine.filter(period_start=start).exclude(state=InvoiceState.CREDITED).first()
    if there is not None and there.state != InvoiceState.DRAFT:
        raise errors.InvoiceRefused(f"{there.label} bills that month: credit it first")
    if there is not None:
        there.lines.all().delete()
        there.delete()
    named = {"id": stone.target_id} if stone else {}
    return Invoice.objects.create(
        **named,
        entity=customer.entity,
        account=customer.account,
        kind=InvoiceKind.INVOICE,
        series=document.number.split("-")[0],
        period_start=start,
        period_end=_midnight(document.period.end) + timedelta(days=1),
        currency=document.currency,
        decision=_decision(document, customer.entity, kept.decision),
        drafted_at=now,
    )


def _decision(document: Document, entity: Entity, kept: bytes) -> dict[str, object]:
    """As it was archived; else what the document itself says of its VAT."""
    if kept:
        try:
            found = msgspec.json.decode(kept, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise errors.InvoiceRefused(f"the decision cannot be read: {error}") from error
        return found
    (group, *_) = document.vat
    return {
        "outcome": "decided",
        "category": group.category,
        "rate": format(group.rate.normalize(), "f"),
        "place": entity.country if group.rate else "",
        "reason": "put_back",
        "because": "as the document says; the decision itself was not archived",
        "articles": [],
        "customer_number": document.customer.vat_id,
        "listed": group.category == "AE",
        "inputs": {},
    }


def _lines(invoice: Invoice, document: Document, kept: Archived) -> tuple[Charge, ...]:
    """As they were charged. Raises where they do not come to the document, line by line."""
    charges = kept.billed or _drawn(invoice, document)
    said = [(one.quantity, one.price, one.amount) for one in document.lines]
    if [(one.quantity, drawing.plain(one.unit_amount), one.amount) for one in charges] != [
        (quantity, drawing.plain(price), amount) for quantity, price, amount in said
    ]:
        raise errors.InvoiceRefused(
            "its lines are not what the usage here comes to: give its evidence as well"
            " (stoa billing evidence, or GET /api/v1/invoices/ID/evidence, of its customer)"
        )
    invoicing.keep_lines(invoice, charges)
    return tuple(charges)


def _drawn(invoice: Invoice, document: Document) -> tuple[Charge, ...]:
    """The month's lines from the usage that is here, with the credit that the document names."""
    try:
        drawn = drawing.draw(
            invoice.account, invoice.period_start, invoice.period_end, drawing.prices_now()
        )
    except Unpriced:
        return ()
    given = [one for one in document.lines if one.sku == drawing.FREE_CREDIT]
    free = tuple(
        drawing.free_credit(-drawing.cents(one.amount), invoice.period_start, invoice.period_end)
        for one in given
    )
    return (*drawn.lines[:-1], *free, drawn.lines[-1])


def _settled(
    invoice: Invoice,
    document: Document,
    charges: Sequence[Charge],
    at: datetime,
    now: datetime,
) -> None:
    """Credit is used as it was, and the ledger posted: what the month accrued is taken."""
    invoicing.settle_sums(invoice, document)
    free = sum(-drawing.cents(one.amount) for one in charges if one.kind == drawing.FREE_CREDIT)
    account_id, net = invoice.account_id, invoice.net
    if free and credits.use_free(account_id, invoice_id=invoice.id, net=free, now=now) != free:
        raise errors.InvoiceRefused("it used credit that is not here: give that first")
    with cutoff.taken() as invoice.usage_upto:
        open_ = drawing.open_accruals(account_id)
    of = {invoice.period_start, *(months.start_of(each.start) for each in charges)}
    taken = {f"{one:%Y-%m}": open_[one] for one in sorted(of) if open_.get(one)}
    discount, extra = drawing.unaccrued(charges)
    discount += free * chart.NANO_PER_CENT
    accrued = sum(taken.values())
    rest = accrued + sum(extra.values()) - discount - net * chart.NANO_PER_CENT
    if abs(rest) > (len(charges) + 1) * chart.NANO_PER_CENT:  # usage that was lost with the rest
        extra["corrections"] = -rest
    place = cast(str, invoice.decision.get("place", ""))
    vat = tuple(
        chart.Vat(place, group.rate, drawing.cents(group.tax))
        for group in document.vat
        if group.tax
    )
    posted = closing.open_at(at)
    sale = chart.Sale(
        invoice.id, account_id, net, vat, accrued, discount, extra, len(charges), invoice.currency
    )
    chart.post_invoice(sale, at=posted)
    invoice.accrued = taken
    _paid(invoice, drawing.cents(document.totals.prepaid), posted, now)


def _paid(invoice: Invoice, prepaid: int, at: datetime, now: datetime) -> None:
    """What it says was paid in advance comes out of the credit that is here."""
    if not prepaid:
        return
    if credits.balance(invoice.account_id, now).bought < prepaid:
        raise errors.InvoiceRefused(
            f"{Decimal(prepaid).scaleb(-2)} were paid in advance and are not here: book the"
            " payments first (stoa billing import-statement)"
        )
    used = credits.use_bought(
        invoice.account_id, invoice_id=invoice.id, gross=prepaid, at=at, now=now
    )
    invoice.prepaid, invoice.advances = used.amount, list(used.advances)


def _number(invoice: Invoice, document: Document) -> None:
    series, year, number = document.number.split("-")
    expected = numbering.expected(invoice.entity_id, series, int(year))
    if expected != int(number):
        raise errors.InvoiceRefused(
            f"{numbering.label(series, int(year), expected)} comes before it: put that back first"
            if expected < int(number)
            else f"the number {document.number} is past: the series stands at {expected - 1}"
        )
    invoice.year, invoice.label = int(year), document.number
    invoice.number = numbering.draw(invoice.entity_id, series, int(year))


def _midnight(day: date | None) -> datetime:
    return datetime.combine(day or date(1970, 1, 1), time(), UTC)
