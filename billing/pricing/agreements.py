"""What is agreed with one account: its free allowances, its monthly minimum, its tiers."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from django.db import transaction

from billing import errors, months
from billing.models import Account, Term, TermKind
from billing.pricing.terms import Allowance, Commitment, Terms, Tier
from compliance import audit, locks


def agree(
    *,
    actor: audit.Actor,
    account_id: str,
    term: Allowance | Commitment | Tier,
    now: datetime,
    log: str = audit.PLATFORM,
) -> Term:
    """Keep `term` (its id is drawn here) for the account, from the start of a month (UTC) on.

    That month is one to come; the present one only where the account has been opened in it. What
    regulates the same is superseded from then on, and ended by a term of nothing. `log`: the
    organization's. Agreeing the same again returns the row. Raises `errors.TermRefused`,
    `errors.UnknownAccount`.
    """
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    row = _row(account, term)
    _check_time(row, account, now)
    row.created_at = now
    with transaction.atomic():
        locks.hold(f"terms:{account_id}")
        same = Term.objects.filter(
            account=account,
            kind=row.kind,
            meter=row.meter,
            device_kind=row.device_kind,
            valid_from=row.valid_from,
        )
        if row.kind == TermKind.TIER:  # one for each threshold
            same = same.filter(quantity=row.quantity)
        known = same.first()
        if known is not None:
            if _says(known) != _says(row):
                raise errors.TermRefused(f"something else is agreed from {row.valid_from} on")
            return known
        row.save(force_insert=True)
        audit.record(
            actor=actor,
            action="term.create",
            target=audit.Target("term", row.id),
            log=log,
            now=now,
            change=[audit.Change(name, None, value) for name, value in _says(row).items() if value],
        )
    return row


def of(account_id: str) -> Terms:
    """All rows of the account, as the pure functions want them."""
    return as_terms(Term.objects.filter(account_id=account_id).order_by("id"))


def as_terms(rows: Iterable[Term]) -> Terms:
    allowances, commitments, tiers = [], [], []
    for row in rows:
        amount = Decimal(row.amount).scaleb(-2)
        if row.kind == TermKind.ALLOWANCE:
            allowances.append(
                Allowance(
                    row.id, row.valid_from, row.meter, row.device_kind, row.quantity, amount,
                    row.currency, row.note,
                )
            )  # fmt: skip
        elif row.kind == TermKind.COMMITMENT:
            commitments.append(Commitment(row.id, row.valid_from, amount, row.currency, row.note))
        else:
            tiers.append(
                Tier(
                    row.id, row.valid_from, row.meter, row.quantity, row.discount,
                    row.device_kind, row.note,
                )
            )  # fmt: skip
    return Terms(tuple(allowances), tuple(commitments), tuple(tiers))


def _row(account: Account, term: Allowance | Commitment | Tier) -> Term:
    row = Term(
        account=account, valid_from=term.valid_from, note=term.note, currency=account.currency
    )
    if isinstance(term, Tier):
        row.kind, row.quantity, row.discount = TermKind.TIER, term.over, term.discount
    else:
        row.amount = int(term.amount * 100)
        if row.amount and term.currency != account.currency:
            raise errors.TermRefused(f"the account is in {account.currency}, not {term.currency}")
        row.kind = TermKind.COMMITMENT
    if isinstance(term, Allowance):
        row.kind, row.quantity = TermKind.ALLOWANCE, term.quantity
    if not isinstance(term, Commitment):
        row.meter, row.device_kind = term.meter, term.device_kind
    if max(row.quantity, row.amount) >= 2**63 or len(row.note) > 100 or len(row.device_kind) > 64:
        raise errors.TermRefused("a quantity, an amount or a text is too long to keep")
    return row


def _check_time(row: Term, account: Account, now: datetime) -> None:
    at = row.valid_from
    if at.tzinfo is None or at != months.start_of(at):
        raise errors.TermRefused(f"terms hold for whole months (UTC), not from {at} on")
    opened = account.created_at >= months.start_of(now)
    if at < now and not (opened and at == months.start_of(now)):
        raise errors.TermRefused("terms are agreed for months to come only")


def _says(row: Term) -> dict[str, str | int]:
    return {
        "account": row.account_id,
        "kind": str(row.kind),
        "meter": row.meter,
        "device_kind": row.device_kind,
        "quantity": row.quantity,
        "discount": row.discount,
        "amount": row.amount,
        "currency": row.currency,
        "valid_from": row.valid_from.isoformat(),
    }
