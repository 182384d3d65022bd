"""Each night: credit that has ended ends, debits are announced, and the books are reconciled."""

import logging
from datetime import UTC, datetime

from billing import errors
from billing.books import reconciliation
from billing.credit import credits
from billing.payments import debits
from compliance import audit
from controlplane.tenancy import notices
from controlplane.tenancy.models import Organization

log = logging.getLogger(__name__)


def due(now: datetime) -> bool:
    """Once a day (UTC), as soon as somebody looks."""
    last = reconciliation.newest()
    return last is None or last.at.astimezone(UTC).date() < now.astimezone(UTC).date()


def run(now: datetime) -> bool:
    """What is due of it; True if it was done. Each part may be repeated."""
    if not due(now):
        return False
    try:
        credits.expire(now)
        announce(now)
    except errors.BillingError as error:
        log.error("the night's work on credit and debits stopped: %s", error)
    reconciliation.run(now)
    return True


def announce(now: datetime) -> int:
    """Tell each debtor amount and day of its debits; how many there are."""
    made = debits.announce(actor=audit.SYSTEM, now=now)
    accounts = [one.invoice.account_id for one in made]
    homes = {one.account_id: one for one in Organization.objects.filter(account_id__in=accounts)}
    for debit in made:
        if (home := homes.get(debit.invoice.account_id)) is not None:
            notices.tell(
                home,
                subject=f"Direct debit for {debit.invoice.label} on {debit.collect_on}",
                text=(
                    f"{debit.amount / 100:.2f} EUR for invoice {debit.invoice.label} will be"
                    f" collected on {debit.collect_on} by SEPA direct debit, mandate"
                    f" {debit.mandate.reference}, creditor {debit.invoice.entity.creditor_id}."
                ),
                about=audit.Target("debit", debit.id),
                key="announced",
                now=now,
            )
    return len(made)
