"""Codes that give credit once each. Who makes one sees its code; here only a keyed hash stays."""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from billing import errors, tenants
from billing.credit import credits
from billing.credit.models import CreditGrant, CreditKind, Voucher
from billing.models import Account
from compliance import audit

_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no 0, 1, I, O
_GROUPS, _GROUP = 5, 5  # 125 bits
_OURS = tenants.Home(audit.PLATFORM, "")


def create(
    amount: int,
    *,
    actor: audit.Actor,
    now: datetime,
    valid_days: int | None = None,
    expires_at: datetime | None = None,
    note: str = "",
) -> tuple[Voucher, str]:
    """A voucher for `amount` cents and its code, which is shown this once.

    `valid_days`: how long the credit lasts once it is used. Raises errors.CreditRefused.
    """
    if type(amount) is not int or not 0 < amount <= credits.MOST:
        raise errors.CreditRefused(f"{amount!r} cents is no amount of credit", code="bad_amount")
    if valid_days is not None and not 0 < valid_days <= 36_500:
        raise errors.CreditRefused("credit lasts from a day to a century", code="bad_expiry")
    if expires_at is not None and expires_at <= now:
        raise errors.CreditRefused("a voucher ends in the future", code="bad_expiry")
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    code = "-".join(groups)
    with transaction.atomic():
        made = Voucher.objects.create(
            code_hash=_hash(code),
            amount=amount,
            note=note[:200],
            valid_days=valid_days,
            expires_at=expires_at,
            created_at=now,
        )
        _tell(made, "voucher.create", actor, now, audit.Change("cents", None, amount))
    return made, code


def revoke(voucher: Voucher, *, actor: audit.Actor, now: datetime) -> Voucher:
    """It may not be used any more. Raises errors.CreditRefused where it was."""
    with transaction.atomic():
        voucher = Voucher.objects.select_for_update().get(pk=voucher.pk)
        if voucher.redeemed_at is not None:
            raise errors.CreditRefused("it was used already", code="voucher_used")
        if voucher.revoked_at is None:
            voucher.revoked_at = now
            voucher.save(update_fields=["revoked_at"])
            _tell(voucher, "voucher.revoke", actor, now, audit.Change("revoked", False, True))
    return voucher


def redeem(account_id: str, code: str, *, actor: audit.Actor, now: datetime) -> CreditGrant:
    """Its credit is the account's; again by the same account, the same credit.

    An unknown, a used and an ended code are told alike: codes cannot be tried out. Raises
    errors.CreditRefused, errors.UnknownAccount.
    """
    with transaction.atomic():
        voucher = Voucher.objects.select_for_update().filter(code_hash=_hash(code)).first()
        if voucher is None:
            raise _refused()
        given = CreditGrant.objects.filter(voucher=voucher).first()
        if given is not None and given.account_id == account_id:
            return given
        ended = voucher.expires_at is not None and voucher.expires_at <= now
        if given is not None or voucher.revoked_at is not None or ended:
            raise _refused()
        account = Account.objects.filter(pk=account_id).first()
        if account is None:
            raise errors.UnknownAccount(account_id)
        if account.currency != voucher.currency:
            raise errors.CreditRefused(
                f"the voucher is in {voucher.currency}, the account in {account.currency}",
                code="currency_mismatch",
            )
        days = voucher.valid_days
        made = CreditGrant.objects.create(
            account=account,
            kind=CreditKind.VOUCHER,
            amount=voucher.amount,
            left=voucher.amount,
            currency=account.currency,
            key=f"voucher:{voucher.id}",
            granted_at=now,
            expires_at=now + timedelta(days=days) if days else None,
            note=voucher.note,
            voucher=voucher,
        )
        voucher.redeemed_at = now
        voucher.save(update_fields=["redeemed_at"])
        change = audit.Change("grant", None, made.id)
        _tell(voucher, "voucher.redeem", actor, now, change, where=tenants.home(account_id))
    return made


def _refused() -> errors.CreditRefused:
    return errors.CreditRefused("this code gives no credit (any more)", code="voucher_refused")


def _hash(code: str) -> str:
    """However it was typed: case, spaces and hyphens do not count."""
    plain = "".join(sign for sign in code.upper() if sign.isalnum())
    key = hashlib.sha256(b"voucher" + settings.KEY_PEPPER).digest()
    return hmac.new(key, plain.encode(), hashlib.sha256).hexdigest()


def _tell(
    voucher: Voucher,
    action: str,
    actor: audit.Actor,
    now: datetime,
    *change: audit.Change,
    where: tenants.Home = _OURS,
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("voucher", voucher.id),
        log=where.log,
        region=where.region,
        now=now,
        change=change,
    )
