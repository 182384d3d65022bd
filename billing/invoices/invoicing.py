"""Drafts, and how they become final: one transaction numbers, freezes, posts and records.

A draft is drawn anew until its grace time is over. To finalise asks VIES again, before anything is
locked; what is not decided holds the draft with a reason that people see. Then everything happens
in one transaction: a kill anywhere leaves the draft or the whole final invoice. The series' row is
locked last, after the document has been set and judged with the number that is to be expected.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import transaction

from billing import errors, months, tenants
from billing.books import chart
from billing.credit import credits
from billing.einvoice import rules
from billing.einvoice.document import Invoice as Document
from billing.einvoice.document import Preceding
from billing.invoices import document as invoice_document
from billing.invoices import drawing, issuing, numbering, treatment
from billing.invoices.document import Heading
from billing.invoices.drawing import Drawn
from billing.invoices.models import InvoiceKind, InvoiceState, Issuer
from billing.meters import cutoff, metering
from billing.models import Account, CreditUse, Customer, Entity, Invoice, InvoiceLine
from billing.pricing.charges import Charge
from billing.pricing.terms import CurrencyMismatch
from billing.rating import PriceVersion, Unpriced
from billing.vat.decision import Decision, Outcome
from compliance import audit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parties:
    entity: Entity
    customer: Customer | None


class ProfileChanged(Exception):
    """The decision was made for another profile: decide anew."""


def period(month: datetime) -> tuple[datetime, datetime]:
    """The calendar month in UTC that `month` is in: its start, and the first moment after it."""
    start = months.start_of(month)
    return start, months.after(start)


def before(start: datetime) -> datetime:
    """The start of the month before the one that begins then."""
    return period(start - timedelta(days=1))[0]


def grace_over(end: datetime) -> datetime:
    """Until when a draft of the period that ended then is drawn anew."""
    return end + timedelta(hours=settings.BILLING_GRACE_H)


def parties(account: Account) -> Parties:
    """Who issues to an account, and its profile. Raises `errors.NotIssuable` without an entity."""
    customer = Customer.objects.select_related("entity").filter(account=account).first()
    if customer is not None:
        return Parties(customer.entity, customer)
    entity = Entity.objects.order_by("id").first()
    if entity is None:
        raise errors.NotIssuable("entity_missing", "nobody is set up to issue invoices")
    return Parties(entity, None)


def draft(
    account_id: str,
    month: datetime,
    now: datetime,
    *,
    ask: treatment.Ask = treatment.ask_vies,
    price_list: Sequence[PriceVersion] | None = None,
    again: bool = False,
) -> Invoice | None:
    """The invoice of that month, drawn as of now while it is a draft; None if nothing is owed.

    `again` opens a new one where the month's was credited. Raises `errors.UnknownAccount`,
    ValueError for a month that is not over, `rating.Unpriced`.
    """
    invoice = row(account_id, month, now, again=again)
    if invoice.state != InvoiceState.DRAFT:
        return invoice
    found = parties(invoice.account)
    kept = invoice.decision
    if found.customer is not None and not treatment.drafted(kept):
        kept = treatment.as_kept(_decide(invoice, found.entity, found.customer, now, ask))
    with transaction.atomic():
        locked = Invoice.objects.select_for_update().filter(pk=invoice.pk).first()
        if locked is None or locked.state != InvoiceState.DRAFT:
            return locked
        drawn = _drawn(locked, price_list)
        if drawn.empty:
            _discard(locked)
            return None
        keep_lines(locked, drawn.lines)
        _keep_draft(locked, found, drawn, kept, now)
    return locked


def finalise(
    invoice_id: str,
    actor: audit.Actor,
    now: datetime,
    *,
    ask: treatment.Ask = treatment.ask_vies,
    price_list: Sequence[PriceVersion] | None = None,
) -> Invoice | None:
    """Make a draft final, or say in `held_reason` why not. What is final already is returned.

    None where the draft came to nothing and is gone. Raises `errors.UnknownInvoice`, and
    `errors.InvoiceRefused` while its grace time lasts.
    """
    invoice = Invoice.objects.select_related("account").filter(pk=invoice_id).first()
    if invoice is None:
        raise errors.UnknownInvoice(invoice_id)
    if invoice.state != InvoiceState.DRAFT:
        return invoice
    if now < grace_over(invoice.period_end):
        raise errors.InvoiceRefused(
            f"{invoice.id} is drawn anew until {grace_over(invoice.period_end):%d %b %Y %H:%M} UTC"
        )
    differs = metering.unexplained(invoice.account_id, invoice.period_start, invoice.period_end)
    if differs:
        because = f"{len(differs)} findings of its metering, such as: {differs[0].detail}"
        return hold(invoice, "metering_unexplained", because, now)
    try:
        return _finalise(invoice, actor, now, ask, price_list)
    except errors.NotIssuable as error:
        return (
            None
            if _came_to_nothing(invoice, price_list)
            else hold(invoice, error.code, str(error), now)
        )
    except Unpriced as error:
        return hold(invoice, "unpriced", str(error), now)
    except CurrencyMismatch as error:
        return hold(invoice, error.code, str(error), now)


def row(account_id: str, month: datetime, now: datetime, *, again: bool = False) -> Invoice:
    """The month's invoice; an empty draft if there is none. Raises as `draft` does."""
    start, end = period(month)
    if end > now:
        raise ValueError(f"{start:%B %Y} is not over")
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    mine = Invoice.objects.filter(
        account=account, kind=InvoiceKind.INVOICE, period_start=start
    ).order_by("id")
    found = mine.exclude(state=InvoiceState.CREDITED).first()
    if found is None and not again:
        found = mine.first()
    if found is not None:
        return found
    made, _ = mine.exclude(state=InvoiceState.CREDITED).get_or_create(
        account=account,
        kind=InvoiceKind.INVOICE,
        period_start=start,
        defaults={
            "entity": parties(account).entity,
            "series": numbering.SERIES[InvoiceKind.INVOICE],
            "period_end": end,
            "currency": account.currency,
            "drafted_at": now,
        },
    )
    return made


def hold(invoice: Invoice, reason: str, because: str, now: datetime) -> Invoice:
    """It waits, visibly; told once for each reason."""
    with transaction.atomic():
        held = Invoice.objects.select_for_update().get(pk=invoice.pk)
        if held.state != InvoiceState.DRAFT:
            return held
        changed = held.held_reason != reason
        held.held_reason, held.held_because = reason[:64], because[:500]
        held.save(update_fields=["held_reason", "held_because"])
        if changed:
            log.warning("invoice %s is held: %s: %s", held.id, reason, because)
            issuing.record(held, audit.SYSTEM, "invoice.hold", now, reason=reason)
    return held


def _decide(
    invoice: Invoice, entity: Entity, customer: Customer, now: datetime, ask: treatment.Ask
) -> Decision:
    """As of the last day of the period, when the services of it became chargeable (Art. 64)."""
    on = invoice_document.period(invoice.period_start, invoice.period_end).end
    before = treatment.drafted(invoice.decision)
    return treatment.decide(entity, customer, on=on, at=now, ask=ask, before=before)


def _drawn(invoice: Invoice, price_list: Sequence[PriceVersion] | None) -> Drawn:
    """What is owed; `invoice` notes which usage that was."""
    versions = drawing.prices_now() if price_list is None else price_list
    start, end = invoice.period_start, invoice.period_end
    with cutoff.taken() as upto:
        drawn = drawing.draw(invoice.account, start, end, versions)
    invoice.usage_upto = upto
    return drawn


def _came_to_nothing(invoice: Invoice, price_list: Sequence[PriceVersion] | None) -> bool:
    """Whether nothing is owed; then the draft is gone, whatever stood in its way."""
    with transaction.atomic():
        locked = Invoice.objects.select_for_update().filter(pk=invoice.pk).first()
        if locked is None:
            return True
        if locked.state != InvoiceState.DRAFT or not _drawn(locked, price_list).empty:
            return False
        _discard(locked)
    return True


def _discard(invoice: Invoice) -> None:
    invoice.lines.all().delete()
    invoice.delete()


def keep_lines(invoice: Invoice, charges: Sequence[Charge]) -> tenants.Names:
    names = tenants.names(*invoice_document.ids(charges))
    invoice.lines.all().delete()
    InvoiceLine.objects.bulk_create(
        InvoiceLine(
            invoice=invoice,
            position=position,
            kind=one.kind,
            project_id=one.project_id,
            project_name=names.projects.get(one.project_id, ""),
            endpoint_id=one.endpoint_id,
            endpoint_name=names.endpoints.get(one.endpoint_id, ""),
            meter=one.meter,
            device_kind=one.device_kind,
            share=one.share,
            price_id=one.price_id,
            unit_amount=one.unit_amount,
            unit_size=one.unit_size,
            quantity=one.quantity,
            exact=f"{one.exact.numerator}/{one.exact.denominator}",
            amount=drawing.cents(one.amount),
            start=one.start,
            end=one.end,
            note=one.note,
        )
        for position, one in enumerate(charges, 1)
    )
    return names


def _keep_draft(
    invoice: Invoice, found: Parties, drawn: Drawn, kept: dict[str, object], now: datetime
) -> None:
    """A draft says what it comes to, its VAT as far as that is decided."""
    rate = Decimal(str(kept.get("rate") or 0)) if kept.get("outcome") == "decided" else Decimal(0)
    invoice.entity = found.entity
    invoice.net = drawn.net
    invoice.vat = drawing.cents(_tax(drawn.net, rate))
    invoice.gross = invoice.due = invoice.net + invoice.vat
    invoice.decision, invoice.drafted_at = kept, now
    invoice.save()


def _tax(net: int, rate: Decimal) -> Decimal:
    return rules.cents(Decimal(net).scaleb(-2) * rate / 100)


def _finalise(
    invoice: Invoice,
    actor: audit.Actor,
    now: datetime,
    ask: treatment.Ask,
    price_list: Sequence[PriceVersion] | None,
) -> Invoice | None:
    while True:
        found = parties(invoice.account)
        customer = ready(invoice.currency, found)
        decision = _decide(invoice, found.entity, customer, now, ask)
        if decision.outcome is not Outcome.DECIDED:
            raise errors.NotIssuable(decision.reason, decision.because)
        try:
            with transaction.atomic():
                return _write(invoice.pk, customer, decision, actor, now, price_list)
        except ProfileChanged:
            continue


def ready(currency: str, found: Parties) -> Customer:
    """The customer, if nothing stands in the way. Raises `errors.NotIssuable` with the cure."""
    entity, customer = found.entity, found.customer
    if entity.placeholder:
        raise errors.NotIssuable("entity_not_set", "the issuer's own data are not filled in")
    if entity.invoice_issuer != Issuer.PLATFORM:
        raise errors.NotIssuable("other_issuer", f"{entity.invoice_issuer} issues the invoices")
    if customer is None:
        raise errors.NotIssuable("profile_missing", "the organization has no billing profile")
    if currency != entity.currency:
        raise errors.NotIssuable(
            "currency_mismatch",
            f"the account is in {currency}, {entity.name} invoices in {entity.currency}",
        )
    return customer


def _write(
    invoice_id: str,
    customer: Customer,
    decision: Decision,
    actor: audit.Actor,
    now: datetime,
    price_list: Sequence[PriceVersion] | None,
) -> Invoice | None:
    """In the caller's transaction: all of it, or nothing."""
    invoice = (
        Invoice.objects.select_for_update(of=("self",))
        .select_related("account")
        .filter(pk=invoice_id)
        .first()
    )
    if invoice is None or invoice.state != InvoiceState.DRAFT:
        return invoice
    still(customer)
    drawn = _drawn(invoice, price_list)
    if drawn.empty:
        _discard(invoice)
        return None
    if drawn.net < 0:
        raise errors.NotIssuable(
            "negative_total", "more is given back than is owed: credit an earlier invoice"
        )
    lines, free = _with_free_credit(invoice, drawn, now)
    names = keep_lines(invoice, lines)
    invoice.entity, invoice.drafted_at = customer.entity, now
    invoice.decision, invoice.accrued = treatment.as_kept(decision), drawn.accrued
    heading = _heading(invoice, customer.entity, now)
    document = invoice_document.build(customer.entity, customer, lines, decision, names, heading)
    sale = _sale(invoice, drawn, document, decision, free)
    chart.post_invoice(sale, at=now)
    heading = _with_bought_credit(invoice, heading, sale.gross, now)

    def build(label: str) -> Document:
        numbered = replace(heading, label=label)
        return invoice_document.build(customer.entity, customer, lines, decision, names, numbered)

    frozen = issuing.number_and_render(invoice, build, now)
    settle_sums(invoice, frozen.document)
    issuing.freeze(invoice, frozen, customer.entity, actor, now, "invoice.finalise")
    return invoice


def still(customer: Customer) -> None:
    """Locks the profile that was decided on. Raises `ProfileChanged`: decide anew."""
    now = Customer.objects.select_for_update(of=("self",)).get(pk=customer.pk)
    if now.updated_at != customer.updated_at or now.entity_id != customer.entity_id:
        raise ProfileChanged


def _with_free_credit(
    invoice: Invoice, drawn: Drawn, now: datetime
) -> tuple[tuple[Charge, ...], int]:
    """The lines with what was given, which is taken off before VAT; and how much that is."""
    free = credits.use_free(invoice.account_id, invoice_id=invoice.id, net=drawn.net, now=now)
    if not free:
        return drawn.lines, 0
    given = drawing.free_credit(free, invoice.period_start, invoice.period_end)
    return (*drawn.lines[:-1], given, drawn.lines[-1]), free


def _heading(invoice: Invoice, entity: Entity, now: datetime) -> Heading:
    issued = now.astimezone(UTC).date()
    due = issued + timedelta(days=entity.payment_terms_days)
    return Heading("", issued, due, invoice.period_start, invoice.period_end)


def _with_bought_credit(invoice: Invoice, heading: Heading, gross: int, now: datetime) -> Heading:
    """What was paid before is deducted after VAT; advance invoices of it are named."""
    used = credits.use_bought(
        invoice.account_id, invoice_id=invoice.id, gross=gross, at=now, now=now
    )
    uses = CreditUse.objects.filter(invoice_id=invoice.id)
    advances = Invoice.objects.filter(id__in=uses.values("grant__invoice_id")).order_by("id")
    invoice.prepaid = used.amount
    invoice.advances = [one.id for one in advances]
    preceding = tuple(
        Preceding(one.label, one.issued_on) for one in advances if one.issued_on is not None
    )
    taxed = sum(each.amount for each in used.vat)
    notes = (
        (f"Of the amount paid in advance {Decimal(taxed).scaleb(-2)} {invoice.currency} are VAT"
         " that the advance invoices have stated; it is not owed again.",)
        if taxed
        else ()
    )  # fmt: skip
    return replace(heading, prepaid=used.amount, preceding=preceding, notes=notes)


def _sale(
    invoice: Invoice, drawn: Drawn, sums: Document, decision: Decision, free: int
) -> chart.Sale:
    """The posting of an invoice. One that replaces a credited one was accrued for that one: what
    it owes comes out of what the credit note corrected."""
    accrued = sum(drawn.accrued.values())
    discount = drawn.discount + free * chart.NANO_PER_CENT
    extra = dict(drawn.extra)
    net = drawing.cents(sums.totals.net)
    if _replaces(invoice):
        extra = {"corrections": net * chart.NANO_PER_CENT + discount - accrued}
    return chart.Sale(
        invoice_id=invoice.id,
        account_id=invoice.account_id,
        net=net,
        vat=taxes(sums, decision),
        accrued=accrued,
        discount=discount,
        extra={what: amount for what, amount in extra.items() if amount},
        lines=len(drawn.lines),
        currency=invoice.currency,
    )


def taxes(sums: Document, decision: Decision) -> tuple[chart.Vat, ...]:
    """The VAT of a document by country and rate, in cents."""
    return tuple(
        chart.Vat(decision.place, group.rate, drawing.cents(group.tax))
        for group in sums.vat
        if group.tax
    )


def _replaces(invoice: Invoice) -> bool:
    mine = Invoice.objects.filter(account_id=invoice.account_id, kind=InvoiceKind.INVOICE)
    return mine.filter(period_start=invoice.period_start, state=InvoiceState.CREDITED).exists()


def settle_sums(invoice: Invoice, document: Document) -> None:
    totals = document.totals
    invoice.net, invoice.vat = drawing.cents(totals.net), drawing.cents(totals.vat)
    invoice.gross, invoice.due = drawing.cents(totals.gross), drawing.cents(totals.due)
