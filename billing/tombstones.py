"""What of this room no backup may bring back, and how it is ended again.

Leases: a backup made before they ended would hold for ever what nobody gives back any more.
Gateways end them by `billing_close_leases`, which runs in the database, so a trigger leaves their
tombstones (migration 0018): one for each holder and epoch, as they end together.
"""

from datetime import datetime

from billing.credit.models import Voucher
from billing.invoices import numbering
from billing.models import Customer, Invoice
from billing.payments import debits
from billing.payments.models import Debit, DebitMandate, DebitState
from billing.payments.stripe.models import StripeMethod
from billing.spending import leases
from compliance import audit, tombstones
from compliance.models import Tombstone

CLOSED = "lease.close"


def register() -> None:
    tombstones.register(CLOSED, _close)
    tombstones.register("payment_method.delete", _detach)
    tombstones.register("voucher.revoke", _revoke_voucher)
    tombstones.register("mandate.revoke", _revoke_mandate)
    tombstones.register("debit.collect", _call_debits_off)
    tombstones.register("payment.ask", _hold_collection)
    for action in ("invoice.finalise", "invoice.credit", "invoice.advance", "invoice.put_back"):
        tombstones.register(action, _leave_series_off)


def _close(stone: Tombstone, now: datetime) -> bool:
    mine = leases.open_leases().filter(holder=stone.facts["holder"], epoch=stone.facts["epoch"])
    return mine.update(closed_at=now) > 0


def _detach(stone: Tombstone, now: datetime) -> bool:
    """Whoever took a means of payment away must not be charged by it; its provider was told."""
    attached = StripeMethod.objects.filter(id=stone.target_id, detached_at=None)
    return attached.update(detached_at=now) > 0


def _revoke_voucher(stone: Tombstone, now: datetime) -> bool:
    usable = Voucher.objects.filter(id=stone.target_id, revoked_at=None, redeemed_at=None)
    return usable.update(revoked_at=now) > 0


def _leave_series_off(stone: Tombstone, now: datetime) -> bool:
    """Somebody has a document of that number, which this database does not know any more."""
    numbering.leave_off(stone.facts["number"])
    return True


def _revoke_mandate(stone: Tombstone, now: datetime) -> bool:
    mandate = DebitMandate.objects.filter(id=stone.target_id, revoked_on=None).first()
    if mandate is None:
        return False
    debits.revoke_mandate(mandate, actor=audit.SYSTEM, now=now)
    return True


def _call_debits_off(stone: Tombstone, now: datetime) -> bool:
    """The bank has a file that this database does not know, with some of what is announced here.

    None of that is sent: it is announced anew, and until its new day the bank's statements have
    settled what the file collected.
    """
    announced = Debit.objects.filter(state=DebitState.ANNOUNCED, notified_on__lte=stone.at.date())
    why = "a file that was made after the last backup may hold it: it is announced again"
    return announced.update(state=DebitState.CANCELLED, because=why) > 0


def _hold_collection(stone: Tombstone, now: datetime) -> bool:
    """The provider was asked to charge this invoice, and would be asked again, as for another
    payment. Nothing is collected of the account by itself until a person has looked."""
    invoice = Invoice.objects.filter(id=stone.facts["invoice"]).first()
    if invoice is None:
        return False
    collected = Customer.objects.filter(account=invoice.account_id, collection="stripe")
    return collected.update(collection="transfer") > 0
