"""The close of a month: every account's draft, and, once the grace time is over, its invoice.

One account at a time, each in its own transactions, in the order of their ids: memory does not
grow with the number of accounts, and whoever is interrupted begins again and finds done what was
done. Two that run at once share the work: an account that another one holds is passed over and
looked at again at the end. What is wrong with one account holds its invoice and nobody else's.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

from billing import errors, months, services
from billing.invoices import drawing, invoicing, treatment
from billing.invoices.models import InvoiceKind, InvoiceState
from billing.models import Account, Invoice, MonthRun
from billing.pricing.terms import CurrencyMismatch
from billing.rating import PriceVersion, Unpriced
from compliance import audit, locks

log = logging.getLogger(__name__)

PAGE = 500  # accounts whose ids are read at once
DRAFTS_EVERY = timedelta(days=1)
HELD_EVERY = timedelta(hours=1)


@dataclass
class Closing:
    """How far a month is. `outcomes`: accounts by what became of them: nothing (owes nothing),
    draft, final (now), done (was final before), held, failed, busy."""

    month: str
    final: bool  # whether the grace time is over
    accounts: int = 0
    seen: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    cursor: str = ""  # the account that was done last; "" when all are
    held: Counter[str] = field(default_factory=Counter)  # by reason

    def as_json(self) -> dict[str, object]:
        return {
            "month": self.month,
            "final": self.final,
            "accounts": self.accounts,
            "seen": self.seen,
            "outcomes": dict(sorted(self.outcomes.items())),
            "held": dict(sorted(self.held.items())),
        }


def close_month(
    month: datetime,
    now: datetime,
    *,
    actor: audit.Actor = audit.SYSTEM,
    ask: treatment.Ask = treatment.ask_vies,
    progress: Callable[[Closing], None] | None = None,
    part: tuple[int, int] = (0, 1),
    after: str = "",
    enough: Callable[[], bool] = lambda: False,
) -> Closing:
    """Draft, and when its time has come finalise, the invoice of every account for that month.

    `part` (k, n): the accounts of the k-th of n that work side by side. `after`: begin behind that
    account; `enough` ends it early, and `cursor` says where. Repeating it does only what is left.
    Raises ValueError for a month that is not over.
    """
    start, end = invoicing.period(month)
    if end > now:
        raise ValueError(f"{start:%B %Y} is not over")
    over = now >= invoicing.grace_over(end)
    closing = Closing(f"{start:%Y-%m}", over, Account.objects.count())
    # Every hour of the month stands in the ledger before an invoice takes it from there.
    services.accrue_due(now, start=start, end=end)
    versions = drawing.prices_now()
    busy: list[str] = []
    for account_id in _accounts(part, after):
        if enough():
            break
        closing.cursor = account_id
        outcome = _one(account_id, start, now, actor, ask, versions, closing)
        if outcome == "busy":
            busy.append(account_id)
            continue
        _count(closing, outcome, progress)
    else:
        closing.cursor = ""
    for account_id in busy:  # whoever held them has most likely ended
        outcome = _one(account_id, start, now, actor, ask, versions, closing)
        _count(closing, outcome, progress)
    return closing


def tend(
    now: datetime, *, enough: Callable[[], bool], ask: treatment.Ask = treatment.ask_vies
) -> bool:
    """A worker's share: the month before this one a piece further; False if nothing is to do.

    Drafts are drawn anew each day until their time is over. What is held is tried again each
    hour, of every month, for VIES answers some day.
    """
    start = invoicing.before(invoicing.period(now)[0])
    final = now >= invoicing.grace_over(months.after(start))
    run, _ = MonthRun.objects.get_or_create(
        month=start.date(), final=final, defaults={"begun_at": now}
    )
    if run.ended_at is None:
        _further(run, start, now, enough, ask)
        return True
    if now - run.ended_at < (HELD_EVERY if final else DRAFTS_EVERY):
        return False
    if final:
        MonthRun.objects.filter(pk=run.pk).update(ended_at=now)
        _try_held(now, enough, ask)
    else:
        MonthRun.objects.filter(pk=run.pk).update(ended_at=None, cursor="", outcomes={})
    return True


def _further(
    run: MonthRun, start: datetime, now: datetime, enough: Callable[[], bool], ask: treatment.Ask
) -> None:
    closing = close_month(start, now, ask=ask, after=run.cursor, enough=enough)
    outcomes = Counter(run.outcomes) + closing.outcomes
    MonthRun.objects.filter(pk=run.pk, cursor=run.cursor, ended_at=None).update(
        cursor=closing.cursor, outcomes=outcomes, ended_at=None if closing.cursor else now
    )


def _try_held(now: datetime, enough: Callable[[], bool], ask: treatment.Ask) -> None:
    held = Invoice.objects.filter(state=InvoiceState.DRAFT, kind=InvoiceKind.INVOICE)
    over = held.filter(period_end__lte=now - timedelta(hours=settings.BILLING_GRACE_H))
    for invoice_id in list(over.order_by("id").values_list("id", flat=True)):
        if enough():
            return
        try:
            invoicing.finalise(invoice_id, audit.SYSTEM, now, ask=ask)
        except Exception:
            log.exception("invoice %s cannot be made final", invoice_id)


def state(month: datetime, now: datetime) -> Closing:
    """How far it is, from what is there; nothing is done."""
    start, end = invoicing.period(month)
    over = now >= invoicing.grace_over(end)
    found = Closing(f"{start:%Y-%m}", over, Account.objects.count())
    invoices = Invoice.objects.filter(kind=InvoiceKind.INVOICE, period_start=start)
    for kept, reason in invoices.values_list("state", "held_reason"):
        if kept != InvoiceState.DRAFT:
            found.outcomes["final"] += 1
        elif reason:
            found.outcomes["held"] += 1
            found.held[reason] += 1
        else:
            found.outcomes["draft"] += 1
    found.seen = sum(found.outcomes.values())
    return found


def _accounts(part: tuple[int, int], after: str) -> Iterator[str]:
    """All ids in their order, a page at a time. Accounts opened meanwhile come last."""
    index, of = part
    last, number = after, 0
    while True:
        page = list(
            Account.objects.filter(id__gt=last).order_by("id").values_list("id", flat=True)[:PAGE]
        )
        for account_id in page:
            if number % of == index:
                yield account_id
            number += 1
        if len(page) < PAGE:
            return
        last = page[-1]


def _one(
    account_id: str,
    start: datetime,
    now: datetime,
    actor: audit.Actor,
    ask: treatment.Ask,
    versions: Sequence[PriceVersion],
    closing: Closing,
) -> str:
    """What became of one account; nothing that is wrong with it reaches the others."""
    with locks.try_hold(f"close:{account_id}") as alone:
        if not alone:
            return "busy"
        try:
            return _advance(account_id, start, now, actor, ask, versions, closing)
        except (Unpriced, CurrencyMismatch, errors.NotIssuable) as error:
            log.error("%s: no draft of %s: %s", account_id, closing.month, error)
            closing.held[getattr(error, "code", "unpriced")] += 1
            return "held"
        except Exception:
            log.exception("%s: %s cannot be closed", account_id, closing.month)
            return "failed"


def _advance(
    account_id: str,
    start: datetime,
    now: datetime,
    actor: audit.Actor,
    ask: treatment.Ask,
    versions: Sequence[PriceVersion],
    closing: Closing,
) -> str:
    invoice: Invoice | None
    if closing.final:
        found = invoicing.row(account_id, start, now)
        invoice, done = found, found.state != InvoiceState.DRAFT
        if not done:
            invoice = invoicing.finalise(invoice.id, actor, now, ask=ask, price_list=versions)
    else:
        invoice, done = invoicing.draft(account_id, start, now, ask=ask, price_list=versions), False
    if invoice is None:
        return "nothing"
    if invoice.state != InvoiceState.DRAFT:
        return "done" if done else "final"
    if invoice.held_reason:
        closing.held[invoice.held_reason] += 1
        return "held"
    return "draft"


def _count(closing: Closing, outcome: str, progress: Callable[[Closing], None] | None) -> None:
    closing.seen += 1
    closing.outcomes[outcome] += 1
    if progress is not None:
        progress(closing)
