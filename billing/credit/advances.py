"""Top-ups: is one taxed when it is paid, or when it is used? And the advance invoice if so.

Whatever a balance can buy is one kind of service, supplied electronically: for one customer all
meters of the catalogue have the same place and rate. So once VIES or the like has proved these,
an advance invoice states the VAT of the payment (Art. 65), at once, and by the 15th of the next
month at the latest. What is not proved waits, visibly, and is tried each hour. What was used
meanwhile was taxed on that invoice, and stays a multi-purpose credit.

VIES is asked before anything is locked; then one transaction draws, numbers, freezes, posts and
notes the decision: a kill anywhere leaves a top-up that waits, or one that is done.
"""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction

from django.db import transaction
from django.db.models import Q

from billing import errors, tenants
from billing.books import chart, closing
from billing.credit import credits
from billing.credit.advance_models import TopUpTreatment
from billing.credit.models import CreditKind
from billing.einvoice import rules
from billing.einvoice.document import Invoice as Document
from billing.invoices import document as invoice_document
from billing.invoices import drawing, invoicing, issuing, numbering, treatment
from billing.invoices.document import Heading
from billing.invoices.models import InvoiceKind
from billing.models import CreditGrant, Customer, Invoice, Payment, TopUpDecision
from billing.pricing import prices
from billing.pricing.charges import Charge
from billing.vat import advance
from billing.vat.advance import AdvanceDecision, Treatment
from billing.vat.canonical import digest, plain
from billing.vat.dates import invoice_due
from compliance import audit

log = logging.getLogger(__name__)

RETRY = timedelta(hours=1)
KIND = "advance"  # of its line
USED_BEFORE = "a part of it was used, and taxed then, before it was decided"
_NOTE = "Invoice for a payment on account: later invoices deduct what of it they use, VAT included."


def tend(
    now: datetime,
    *,
    ask: treatment.Ask = treatment.ask_vies,
    enough: Callable[[], bool] = lambda: False,
) -> Counter[str]:
    """Decide what waits, one top-up after the other; how many came to what. What is wrong with
    one of them keeps none of the others."""
    done: Counter[str] = Counter()
    for grant_id in waiting(now):
        if enough():
            break
        try:
            row = decide(grant_id, now, ask=ask)
        except Exception:
            log.exception("top-up %s cannot be decided", grant_id)
            TopUpDecision.objects.filter(grant_id=grant_id, decided_at=None).update(tried_at=now)
            done["failed"] += 1
            continue
        done[row.treatment or "held"] += 1
    return done


def waiting(now: datetime) -> list[str]:
    """Ids of bought credit that is to be looked at: new, or held and not tried for an hour."""
    open_ = Q(top_up=None) | Q(top_up__decided_at=None, top_up__tried_at=None)
    again = Q(top_up__decided_at=None, top_up__tried_at__lte=now - RETRY)
    found = CreditGrant.objects.filter(open_ | again, kind=CreditKind.BOUGHT)
    return list(found.order_by("granted_at", "id").values_list("id", flat=True))


def decide(
    grant_id: str,
    now: datetime,
    *,
    ask: treatment.Ask = treatment.ask_vies,
    actor: audit.Actor = audit.SYSTEM,
) -> TopUpDecision:
    """The decision on one top-up, its advance invoice included; once, however often it is asked
    for. It may still wait (`held_reason`). Raises `errors.CreditRefused` for credit that was
    given: nothing was paid for it, so it is a discount when it is used (Art. 79(b))."""
    grant = CreditGrant.objects.select_related("account").filter(pk=grant_id).first()
    if grant is None or grant.kind != CreditKind.BOUGHT:
        raise errors.CreditRefused(f"{grant_id} is no credit that was bought", code="not_bought")
    row = _row(grant)
    if row.decided_at is not None:
        return row
    try:
        return _decide(grant, row, now, ask, actor)
    except errors.NotIssuable as error:
        return hold(row, error.code, str(error), now, actor=actor)


def hold(
    row: TopUpDecision, reason: str, because: str, now: datetime, *, actor: audit.Actor
) -> TopUpDecision:
    """It waits, visibly; told once for each reason, and loudly when its day has passed."""
    with transaction.atomic():
        held = _locked(row)
        if held.decided_at is not None:
            return held
        changed = held.held_reason != reason
        held.held_reason, held.because, held.tried_at = reason[:64], because[:500], now
        held.save(update_fields=["held_reason", "because", "tried_at"])
        if changed:
            _tell(held, "credit.hold", now, actor, reason=held.held_reason)
    late = now.astimezone(UTC).date() > held.due_on
    level = logging.ERROR if late else logging.WARNING
    log.log(level, "top-up %s waits until %s: %s", held.grant_id, held.due_on, because)
    return held


def _row(grant: CreditGrant) -> TopUpDecision:
    received = _received(grant)
    row, _ = TopUpDecision.objects.get_or_create(
        grant=grant, defaults={"received_on": received, "due_on": invoice_due(received)}
    )
    return row


def _received(grant: CreditGrant) -> date:
    """The day on which the money came, in UTC: the chargeable event."""
    at = Payment.objects.filter(pk=grant.payment_id).values_list("received_at", flat=True).first()
    return (at or grant.granted_at).astimezone(UTC).date()


def _decide(
    grant: CreditGrant, row: TopUpDecision, now: datetime, ask: treatment.Ask, actor: audit.Actor
) -> TopUpDecision:
    while grant.left == grant.amount and not grant.invoice_id:
        found = invoicing.parties(grant.account)
        customer = invoicing.ready(grant.currency, found)
        decision = treatment.decide(
            found.entity, customer, on=row.received_on, at=now, ask=ask, before=None
        )
        specified = bool(prices.versions(grant.currency, grant.account_id))
        judged = advance.advance(
            advance.TopUp(row.received_on, buys=(decision,), specified=specified)
        )
        if judged.treatment in (Treatment.HOLD, Treatment.REFUSED):
            raise errors.NotIssuable(decision.reason, judged.because)
        try:
            with transaction.atomic():
                return _write(row, customer, judged, now, actor)
        except invoicing.ProfileChanged:
            continue
    with credits.alone(grant.account_id):
        return _settle(_locked(row), TopUpTreatment.MULTI_PURPOSE_CREDIT, USED_BEFORE, now, actor)


def _write(
    row: TopUpDecision,
    customer: Customer,
    judged: AdvanceDecision,
    now: datetime,
    actor: audit.Actor,
) -> TopUpDecision:
    """In the caller's transaction: all of it, or nothing."""
    invoicing.still(customer)
    with credits.alone(customer.account_id):
        locked = _locked(row)
        if locked.decided_at is not None:
            return locked
        if locked.grant.left != locked.grant.amount:
            return _settle(locked, TopUpTreatment.MULTI_PURPOSE_CREDIT, USED_BEFORE, now, actor)
        locked.decision = plain(judged)
        if judged.treatment is Treatment.ADVANCE_INVOICE:
            _issue(locked, customer, judged, now, actor)
        return _settle(locked, TopUpTreatment(judged.treatment), judged.because, now, actor)


def _locked(row: TopUpDecision) -> TopUpDecision:
    rows = TopUpDecision.objects.select_for_update(of=("self",)).select_related("grant__account")
    return rows.get(pk=row.pk)


def _settle(
    row: TopUpDecision, how: TopUpTreatment, because: str, now: datetime, actor: audit.Actor
) -> TopUpDecision:
    if row.decided_at is None:
        row.treatment, row.because, row.held_reason = how, because, ""
        row.tried_at = row.decided_at = now
        row.save()
        _tell(row, "credit.decide", now, actor)
    return row


def _issue(
    row: TopUpDecision,
    customer: Customer,
    judged: AdvanceDecision,
    now: datetime,
    actor: audit.Actor,
) -> Invoice:
    """The advance invoice, final and paid; the VAT that it states is owed from now on."""
    grant, decision = row.grant, judged.decision
    assert decision is not None
    start = datetime.combine(row.received_on, time(), UTC)
    end = start + timedelta(days=1)
    rate = decision.rate or Decimal(0)
    net = net_of(grant.amount, rate)
    gross = net + _tax(net, rate)
    invoice = Invoice.objects.create(
        entity=customer.entity,
        account=grant.account,
        kind=InvoiceKind.ADVANCE,
        series=numbering.SERIES[InvoiceKind.ADVANCE],
        period_start=start,
        period_end=end,
        currency=grant.currency,
        decision=treatment.as_kept(decision),
        drafted_at=now,
        source=f"credit:{grant.id}",
    )
    lines = (_line(net, start, end), drawing.egress(start, end))
    names = invoicing.keep_lines(invoice, lines)
    issued = now.astimezone(UTC).date()
    heading = Heading("", issued, issued, start, end, prepaid=gross, notes=(_NOTE,))

    def build(label: str) -> Document:
        named = Heading(label, issued, issued, start, end, prepaid=gross, notes=heading.notes)
        return invoice_document.build(customer.entity, customer, lines, decision, names, named)

    invoice.prepaid = gross
    credits.taxed(
        grant.id,
        invoice_id=invoice.id,
        vat=chart.Vat(decision.place, rate, gross - net),
        at=closing.open_at(now),
    )
    frozen = issuing.number_and_render(invoice, build, now)
    invoicing.settle_sums(invoice, frozen.document)
    issuing.freeze(invoice, frozen, customer.entity, actor, now, "invoice.advance")
    return invoice


def net_of(gross: int, rate: Decimal) -> int:
    """The largest net amount in cents that with its VAT, rounded as invoices do, comes to `gross`
    at most. To one amount in six none comes at 19 %: that cent is taxed when it is used."""
    net = int(Decimal(gross) / (1 + rate / 100)) + 1
    while net + _tax(net, rate) > gross:
        net -= 1
    return net


def _tax(net: int, rate: Decimal) -> int:
    return drawing.cents(rules.cents(Decimal(net).scaleb(-2) * rate / 100))


def _line(net: int, start: datetime, end: datetime) -> Charge:
    amount = Decimal(net).scaleb(-2)
    return Charge(
        KIND, "", "", "", "", 1000, "", amount, 1, 1, Fraction(amount), amount, start, end,
        "Received on the day of this line's period",
    )  # fmt: skip


def _tell(
    row: TopUpDecision, action: str, now: datetime, actor: audit.Actor, *, reason: str = ""
) -> None:
    grant = CreditGrant.objects.get(pk=row.grant_id)  # with what its invoice changed
    where = tenants.home(grant.account_id)
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("credit_grant", grant.id),
        log=where.log,
        region=where.region,
        now=now,
        reason=reason,
        change=[
            audit.Change("treatment", None, row.treatment or None),
            audit.Change("due_on", None, f"{row.due_on}"),
            audit.Change("invoice", None, grant.invoice_id or None),
            audit.Change("decision_sha256", None, digest(row.decision) if row.decision else None),
        ],
    )
