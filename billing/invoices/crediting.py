"""Taking back and giving up: credit notes and write-offs. What is final is never edited."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from django.db import transaction

from billing import errors
from billing.books import chart
from billing.einvoice import canonical
from billing.einvoice import credit as einvoice_credit
from billing.einvoice.document import Invoice as Document
from billing.invoices import drawing, freezing, issuing, numbering
from billing.invoices.freezing import Frozen
from billing.invoices.models import Form, InvoiceKind, InvoiceState
from billing.models import CreditUse, Invoice, InvoiceLine
from compliance import audit

MAX_REASON = 500


@dataclass(frozen=True)
class Part:
    """What a credit note takes back, in cents; `source`: the refund that it is for."""

    net: int
    vat: int
    source: str = ""


def credit(invoice_id: str, reason: str, actor: audit.Actor, now: datetime) -> Invoice:
    """The credit note that takes a whole invoice back, its VAT included; the same when repeated.

    What the invoice still asked for is settled by it; what had been paid is owed to the customer
    (`due` less `settled` of the credit note). Raises `errors.UnknownInvoice`, `NotIssuable`, and
    `errors.InvoiceRefused` for a draft, a credit note or an advance invoice.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise errors.InvoiceRefused(f"say why, in 1 to {MAX_REASON} printable letters")
    with transaction.atomic():
        original = _locked(invoice_id)
        made = Invoice.objects.filter(corrects=original).first()
        if made is not None:
            return made
        if original.kind == InvoiceKind.ADVANCE:
            raise errors.InvoiceRefused(
                f"{original} is credited when its payment is given back, or a part of it"
            )
        if original.kind != InvoiceKind.INVOICE:
            raise errors.InvoiceRefused(f"{original} is no invoice: only invoices are credited")
        if original.state not in (InvoiceState.FINAL, InvoiceState.PAID):
            raise errors.InvoiceRefused(f"{original} is {original.state}: it cannot be credited")
        note, frozen = _rendered(original, reason, now)
        sale = _sale(note)
        chart.post_credit_note(sale, at=now, by=_revenue(original, sale.net))
        note.settled = _open(original)
        issuing.freeze(note, frozen, original.entity, actor, now, "invoice.credit")
        original.state = InvoiceState.CREDITED
        original.save(update_fields=["state"])
    return note


def credit_advance(use: CreditUse, actor: audit.Actor, now: datetime) -> Invoice | None:
    """The credit note for as much of an advance invoice as a refund of its credit gives back; the
    same when repeated, None where no advance invoice has stated any of it.

    In the transaction of whoever gives it back, who posts it: the note asks for nothing. Its VAT
    is the refund's share of the grant's, so that all uses and notes come to the invoice's, to the
    cent; the cent for which no invoice could be made (`advances.net_of`) is the grant's last.
    """
    grant = use.grant
    source = f"refund:{use.id}"
    made = Invoice.objects.filter(source=source).first()
    if made is not None or not grant.invoice_id:
        return made
    original = _locked(grant.invoice_id)
    before = grant.amount - grant.left - use.amount
    gross = min(before + use.amount, original.gross) - min(before, original.gross)
    if not gross:
        return None
    part = Part(gross - use.tax, use.tax, source)
    reason = "The payment on account was given back"
    reason += "" if gross == original.gross else " in part"
    note, frozen = _rendered(original, reason, now, part)
    note.settled = note.due
    issuing.freeze(note, frozen, original.entity, actor, now, "invoice.credit")
    if sum(original.credit_notes.values_list("gross", flat=True)) == original.gross:
        original.state = InvoiceState.CREDITED
        original.save(update_fields=["state"])
    return note


def write_off(invoice_id: str, reason: str, actor: audit.Actor, now: datetime) -> Invoice:
    """What a final invoice still asks for will not come: a bad debt, and its VAT is owed no more
    (Art. 90). Repeating changes nothing. Raises `errors.UnknownInvoice`, `errors.InvoiceRefused`.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise errors.InvoiceRefused(f"say why, in 1 to {MAX_REASON} printable letters")
    with transaction.atomic():
        invoice = _locked(invoice_id)
        if invoice.state == InvoiceState.WRITTEN_OFF:
            return invoice
        if invoice.state != InvoiceState.FINAL or invoice.kind == InvoiceKind.CREDIT_NOTE:
            raise errors.InvoiceRefused(f"{invoice} asks for nothing any more")
        amount = _open(invoice)
        chart.post_write_off(
            invoice_id=invoice.id,
            account_id=invoice.account_id,
            amount=amount,
            vat=_part(invoice, amount),
            at=now,
        )
        invoice.state = InvoiceState.WRITTEN_OFF
        invoice.save(update_fields=["state"])
        issuing.record(
            invoice,
            actor,
            "invoice.write_off",
            now,
            change=[audit.Change("amount", None, amount)],
            personal={"reason": reason},
        )
    return invoice


def _locked(invoice_id: str) -> Invoice:
    found = (
        Invoice.objects.select_for_update(of=("self",))
        .select_related("entity", "account")
        .filter(pk=invoice_id)
        .first()
    )
    if found is None:
        raise errors.UnknownInvoice(invoice_id)
    return found


def _rendered(
    original: Invoice, reason: str, now: datetime, part: Part | None = None
) -> tuple[Invoice, Frozen]:
    """The credit note's row with its number, and its forms; of the whole, or a part."""
    part = part or Part(original.net, original.vat)
    note = _mirror(original, reason, now, part)
    before = canonical.loads(freezing.content(original, Form.JSON))
    issued = now.astimezone(UTC).date()
    whole = part.net == original.net

    def build(label: str) -> Document:
        made = einvoice_credit.whole(before, label, issued, reason)
        return made if whole else einvoice_credit.part(made, _euro(part.net), _euro(part.vat))

    return note, issuing.number_and_render(note, build, now)


def _mirror(original: Invoice, reason: str, now: datetime, part: Part) -> Invoice:
    """A draft of the credit note: positive amounts as its document has them, the same lines."""
    gross = part.net + part.vat
    note = Invoice.objects.create(
        entity=original.entity,
        account=original.account,
        kind=InvoiceKind.CREDIT_NOTE,
        series=numbering.SERIES[InvoiceKind.CREDIT_NOTE],
        period_start=original.period_start,
        period_end=original.period_end,
        currency=original.currency,
        net=part.net,
        vat=part.vat,
        gross=gross,
        due=gross,
        decision=original.decision,
        drafted_at=now,
        corrects=original,
        reason=reason,
        source=part.source,
    )
    lines = list(original.lines.order_by("position"))
    for line in lines:
        line.pk, line.invoice = None, note
        if part.net != original.net and line.amount:  # the one line of an advance invoice
            line.amount, line.unit_amount = part.net, _euro(part.net)
            line.exact = f"{part.net}/100"
    InvoiceLine.objects.bulk_create(lines)
    return note


def _euro(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)


def _sale(note: Invoice) -> chart.Sale:
    return chart.Sale(
        invoice_id=note.id,
        account_id=note.account_id,
        net=note.net,
        vat=_part(note, note.gross),
        lines=note.lines.count(),
        currency=note.currency,
    )


def _part(invoice: Invoice, amount: int) -> tuple[chart.Vat, ...]:
    """The VAT in `amount` cents of what an invoice comes to; an invoice of ours has one rate."""
    if not invoice.vat:
        return ()
    share = Decimal(invoice.vat) * amount / invoice.gross
    place, rate = invoice.decision["place"], Decimal(invoice.decision["rate"])
    return (chart.Vat(place, rate, int(share.quantize(Decimal(1), ROUND_HALF_UP))),)


def _open(invoice: Invoice) -> int:
    """Cents that it still asks for. What was written off asks for nothing."""
    return invoice.due - invoice.settled if invoice.state == InvoiceState.FINAL else 0


def _revenue(original: Invoice, net: int) -> Mapping[str, int]:
    """Which revenue a whole credit takes back, 10^-9, by meter; the rest are corrections."""
    by: dict[str, Fraction] = {}
    for line in map(drawing.as_charge, original.lines.all()):
        if line.meter:
            by[line.meter] = by.get(line.meter, Fraction(0)) + line.exact
    return {meter: drawing.units(exact) for meter, exact in by.items() if exact and net}
