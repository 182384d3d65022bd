"""Customers hear which invoice their card's bank wants them to confirm, until it is paid."""

from datetime import datetime

from billing.payments.stripe import paying
from compliance import audit
from controlplane.tenancy import notices
from controlplane.tenancy.models import Notice, Organization

KEY = "confirm"


def tell(now: datetime) -> int:
    """Each once; what is paid by now is told no more. Returns how many there are."""
    waiting = {one.id: one for one in paying.unconfirmed(now)}
    told = Notice.objects.filter(about_type="invoice", key=KEY, closed_at=None)
    for id in set(told.values_list("about_id", flat=True)) - waiting.keys():
        notices.withdraw(actor=audit.SYSTEM, about=_about(id), key=KEY, now=now)
    accounts = {one.account_id for one in waiting.values()}
    homes = {one.account_id: one for one in Organization.objects.filter(account_id__in=accounts)}
    for invoice in waiting.values():
        if (home := homes.get(invoice.account_id)) is None:
            continue
        left = (invoice.due - invoice.settled) / 100
        notices.tell(
            home,
            subject=f"Invoice {invoice.label} is not paid: your bank asks you to confirm it",
            text=(
                f"Your card's bank did not let us collect {left:.2f} {invoice.currency} without"
                " its holder. The invoice is still open: pay it on Stripe's page, where the bank"
                " can ask, or by bank transfer."
            ),
            about=_about(invoice.id),
            key=KEY,
            now=now,
        )
    return len(waiting)


def _about(invoice_id: str) -> audit.Target:
    return audit.Target("invoice", invoice_id)
