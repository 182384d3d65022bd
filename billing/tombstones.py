"""What of this room no backup may bring back, and how it is ended again.

Leases: a backup made before they ended would hold for ever what nobody gives back any more.
Gateways end them by `billing_close_leases`, which runs in the database, so a trigger leaves their
tombstones (migration 0018): one for each holder and epoch, as they end together.
"""

from datetime import datetime

from billing import leases
from billing.credit_models import Voucher
from billing.payments.stripe.models import StripeMethod
from compliance import tombstones
from compliance.models import Tombstone

CLOSED = "lease.close"


def register() -> None:
    tombstones.register(CLOSED, _close)
    tombstones.register("payment_method.delete", _detach)
    tombstones.register("voucher.revoke", _revoke_voucher)


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
