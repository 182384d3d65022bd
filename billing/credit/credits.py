"""Credit of an account: given or bought, used in a fixed order, ended, paid back. In cents.

Free credit is used first, then bought; of each the soonest to end, then the oldest. Free credit is
a discount before VAT, bought credit pays after it. All that changes an account's credit holds its
lock, and the database keeps each grant between zero and its amount. Each use has a key that says
what it is for, so that a repetition takes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from fractions import Fraction

from django.db import transaction

from billing import errors, tenants
from billing.books import chart, ledger
from billing.credit.models import CreditKind, Treatment, UseKind
from billing.models import Account, CreditGrant, CreditUse
from compliance import audit, locks

MOST = 10**12  # cents; beyond it somebody mistyped
_GIVEN = (CreditKind.FREE, CreditKind.VOUCHER)


@dataclass(frozen=True)
class Balance:
    """What is left, in cents; `ends_at`: when the first of it ends."""

    free: int
    bought: int
    currency: str
    ends_at: datetime | None

    @property
    def total(self) -> int:
        return self.free + self.bought


@dataclass(frozen=True)
class Used:
    """Bought credit that paid for an invoice, or goes back; `vat` is the part taxed by advance
    invoices. `uses`: of a refund, what it took of each grant."""

    amount: int
    vat: tuple[chart.Vat, ...] = ()
    advances: tuple[str, ...] = ()  # ids of those invoices
    uses: tuple[CreditUse, ...] = field(default=(), compare=False)


def give(
    account_id: str,
    amount: int,
    *,
    key: str,
    actor: audit.Actor,
    now: datetime,
    expires_at: datetime | None = None,
    note: str = "",
) -> CreditGrant:
    """Free credit, once for each `key`. Raises errors.CreditRefused, errors.UnknownAccount."""
    return _grant(
        account_id,
        CreditGrant(kind=CreditKind.FREE, amount=amount, key=key, expires_at=expires_at, note=note),
        action="credit.grant",
        actor=actor,
        now=now,
    )


def buy(
    account_id: str,
    amount: int,
    *,
    key: str,
    payment_id: str,
    actor: audit.Actor,
    now: datetime,
    treatment: str = Treatment.MULTI_PURPOSE_CREDIT,
    expires_at: datetime | None = None,
) -> CreditGrant:
    """What was paid and is for no invoice. Whoever received it posts it; here it is only counted.

    `treatment`: as `vat.advance` says; credit that is taxed when it is paid waits for its advance
    invoice (`taxed`).
    """
    made = CreditGrant(
        kind=CreditKind.BOUGHT,
        amount=amount,
        key=key,
        expires_at=expires_at,
        payment_id=payment_id,
        treatment=treatment,
    )
    return _grant(account_id, made, action="credit.buy", actor=actor, now=now)


def taxed(grant_id: str, *, invoice_id: str, vat: chart.Vat, at: datetime) -> CreditGrant:
    """An advance invoice states the VAT of a payment: its tax is owed from now on.

    Dr prepaid / Cr VAT. Raises errors.CreditRefused where a part of it was used untaxed before.
    """
    account_id = CreditGrant.objects.values_list("account_id", flat=True).get(pk=grant_id)
    with alone(account_id):
        grant = CreditGrant.objects.get(pk=grant_id)
        if grant.invoice_id == invoice_id:
            return grant
        if grant.invoice_id or grant.kind != CreditKind.BOUGHT or grant.left != grant.amount:
            raise errors.CreditRefused(f"{grant.id} cannot be taxed any more", code="credit_used")
        grant.invoice_id, grant.treatment = invoice_id, Treatment.ADVANCE_INVOICE
        grant.tax, grant.tax_country, grant.tax_rate = vat.amount, vat.country, vat.rate
        grant.save(update_fields=["invoice_id", "treatment", "tax", "tax_country", "tax_rate"])
        _post(
            f"credit:{grant.id}:taxed",
            "advance",
            [(chart.prepaid(account_id), vat.amount), (vat.code, -vat.amount)],
            at,
        )
    return grant


def use_free(account_id: str, *, invoice_id: str, net: int, now: datetime) -> int:
    """Given credit for an invoice of `net` cents, before its VAT; the same again when repeated.

    What has ended since is taken from nobody's invoice: `expire` runs first, and leaves what the
    usage before the end needs.
    """
    with alone(account_id):
        expire_account(account_id, now=now)
        return sum(each.amount for each in _use(account_id, _GIVEN, invoice_id, net, now))


def use_bought(
    account_id: str, *, invoice_id: str, gross: int, at: datetime, now: datetime
) -> Used:
    """Bought credit for what an invoice comes to after VAT; posts Dr prepaid, VAT / Cr receivable.

    After `use_free`, in the same transaction. The same again when repeated.
    """
    with alone(account_id):
        uses = _use(account_id, (CreditKind.BOUGHT,), invoice_id, gross, now)
        used = Used(
            sum(each.amount for each in uses),
            _taxes(uses),
            tuple(dict.fromkeys(each.grant.invoice_id for each in uses if each.grant.invoice_id)),
        )
        if used.amount:
            chart.post_apply_credit(
                invoice_id=invoice_id,
                account_id=account_id,
                amount=used.amount,
                vat=used.vat,
                at=at,
            )
    return used


def balance(account_id: str, now: datetime) -> Balance:
    """What can still be used; credit whose end has come does not count, swept or not."""
    grants = [one for one in _left(account_id) if not _over(one, now)]
    account = Account.objects.filter(pk=account_id).first()
    return Balance(
        sum(one.left for one in grants if one.kind in _GIVEN),
        sum(one.left for one in grants if one.kind == CreditKind.BOUGHT),
        account.currency if account else "EUR",
        min((one.expires_at for one in grants if one.expires_at), default=None),
    )


def granted(account_id: str, now: datetime) -> Balance:
    """What the grants that still have something had at first: how far they are used."""
    grants = [one for one in _left(account_id) if not _over(one, now)]
    return Balance(
        sum(one.amount for one in grants if one.kind in _GIVEN),
        sum(one.amount for one in grants if one.kind == CreditKind.BOUGHT),
        "EUR",
        None,
    )


def expire(now: datetime) -> int:
    """Nightly: end what has passed its day, of every account; returns the cents that ended."""
    accounts = (
        CreditGrant.objects.filter(left__gt=0, expires_at__lte=now)
        .order_by("account_id")
        .values_list("account_id", flat=True)
        .distinct()
    )
    return sum(expire_account(account_id, now=now) for account_id in list(accounts))


def expire_account(account_id: str, *, now: datetime) -> int:
    """What usage before a grant's end needs, and is on no invoice yet, stays for that invoice."""
    ended = 0
    with alone(account_id):
        grants = _left(account_id)
        for grant in grants:
            if not _over(grant, now):
                continue
            lost = grant.left - _needed(grant, grants)
            if lost <= 0:
                continue
            use = _take(grant, UseKind.EXPIRE, lost, now, f"expire:{grant.id}:{grant.left}")
            if grant.kind == CreditKind.BOUGHT:
                entries = chart.expired_entries(account_id, lost - use.tax)
                _ledger(f"credit:{use.id}", "expire", entries, now)
            _tell("credit.expire", account_id, grant, lost, audit.SYSTEM, now)
            ended += lost
    return ended


def refund(
    account_id: str, amount: int, *, key: str, actor: audit.Actor, now: datetime, payment_id: str
) -> Used:
    """Takes `amount` cents of credit that `payment_id` bought, to be paid back; whoever pays
    posts it, and credits what an advance invoice has stated of it (`crediting.credit_advance`).
    Raises errors.CreditRefused where less is left; a repetition takes nothing more."""
    _check(amount)
    with alone(account_id):
        done = list(CreditUse.objects.filter(key__startswith=f"refund:{key}:"))
        if not done:
            if left_of(payment_id) < amount:
                raise errors.CreditRefused("so much is not left of it", code="credit_used")
            for grant, part in _returned(payment_id, amount):
                use = _take(grant, UseKind.REFUND, part, now, f"refund:{key}:{grant.id}")
                _tell("credit.refund", account_id, grant, part, actor, now)
                done.append(use)
    advances = [each.grant.invoice_id for each in done if each.grant.invoice_id]
    return Used(sum(each.amount for each in done), _taxes(done), tuple(advances), tuple(done))


def left_of(payment_id: str) -> int:
    """What is left of the credit that a payment bought, in cents."""
    grants = CreditGrant.objects.filter(payment_id=payment_id, left__gt=0)
    return sum(grants.values_list("left", flat=True))


def _returned(payment_id: str, amount: int) -> Iterator[tuple[CreditGrant, int]]:
    grants = CreditGrant.objects.filter(payment_id=payment_id, left__gt=0)
    for grant in sorted(grants, key=_turn):
        part = min(grant.left, amount)
        if part > 0:
            amount -= part
            yield grant, part


@contextmanager
def alone(account_id: str) -> Iterator[None]:
    """One at a time for each account; inside another transaction it holds until that one ends."""
    with transaction.atomic():
        locks.hold(f"credits:{account_id}")
        yield


def _grant(
    account_id: str, made: CreditGrant, *, action: str, actor: audit.Actor, now: datetime
) -> CreditGrant:
    _check(made.amount)
    if made.expires_at is not None and made.expires_at <= now:
        raise errors.CreditRefused("credit ends in the future", code="bad_expiry")
    with alone(account_id):
        account = Account.objects.filter(pk=account_id).first()
        if account is None:
            raise errors.UnknownAccount(account_id)
        if (found := CreditGrant.objects.filter(key=made.key).first()) is not None:
            return _same(found, account_id, made)
        made.account, made.currency, made.granted_at = account, account.currency, now
        made.left = made.amount
        made.save(force_insert=True)
        _tell(action, account_id, made, made.amount, actor, now)
    return made


def _same(found: CreditGrant, account_id: str, made: CreditGrant) -> CreditGrant:
    kept = (found.account_id, found.kind, found.amount, found.payment_id)
    if kept != (account_id, made.kind, made.amount, made.payment_id):
        raise errors.IdempotencyConflict(f"{made.key} gave other credit ({found.id})")
    return found


def _check(amount: int) -> None:
    if type(amount) is not int or not 0 < amount <= MOST:
        raise errors.CreditRefused(f"{amount!r} cents is no amount of credit", code="bad_amount")


def _left(account_id: str, kinds: Iterable[str] = CreditKind.values) -> list[CreditGrant]:
    """In the order of use."""
    found = CreditGrant.objects.filter(account_id=account_id, left__gt=0, kind__in=list(kinds))
    return sorted(found, key=_turn)


def _turn(grant: CreditGrant) -> tuple[bool, bool, float, str]:
    ends = grant.expires_at
    bought = grant.kind == CreditKind.BOUGHT
    return bought, ends is None, ends.timestamp() if ends else 0.0, grant.id


def _over(grant: CreditGrant, now: datetime) -> bool:
    return grant.expires_at is not None and grant.expires_at <= now


def _use(
    account_id: str, kinds: Sequence[str], invoice_id: str, wanted: int, now: datetime
) -> list[CreditUse]:
    if wanted < 0:
        raise errors.CreditRefused(f"{wanted} cents cannot be paid", code="bad_amount")
    done = list(
        CreditUse.objects.filter(
            invoice_id=invoice_id, kind=UseKind.APPLY, grant__kind__in=kinds
        ).select_related("grant")
    )
    if done:
        return done
    grants = _left(account_id, kinds)
    most = min(wanted, sum(one.left for one in grants))
    return list(_spread(grants, most, UseKind.APPLY, now, f"apply:{invoice_id}", invoice_id))


def _spread(
    grants: Iterable[CreditGrant],
    amount: int,
    kind: UseKind,
    now: datetime,
    key: str,
    invoice_id: str = "",
) -> Iterator[CreditUse]:
    for grant in grants:
        if amount <= 0:
            return
        part = min(grant.left, amount)
        amount -= part
        yield _take(grant, kind, part, now, f"{key}:{grant.id}", invoice_id)


def _take(
    grant: CreditGrant, kind: UseKind, amount: int, now: datetime, key: str, invoice_id: str = ""
) -> CreditUse:
    """The tax of all uses together is exactly the grant's when it is used up."""
    before = grant.amount - grant.left
    tax = share(grant, before + amount) - share(grant, before)
    use = CreditUse.objects.create(
        grant=grant, kind=kind, amount=amount, tax=tax, invoice_id=invoice_id, key=key, at=now
    )
    grant.left -= amount  # as the trigger did
    return use


def share(grant: CreditGrant, used: int) -> int:
    """The tax in the first `used` cents of a grant."""
    exact = Fraction(grant.tax * used, grant.amount)
    return int((Decimal(exact.numerator) / exact.denominator).quantize(Decimal(1), ROUND_HALF_UP))


def _taxes(uses: Iterable[CreditUse]) -> tuple[chart.Vat, ...]:
    sums: dict[tuple[str, Decimal], int] = {}
    for use in uses:
        if use.tax:
            rate = (use.grant.tax_country, (use.grant.tax_rate or Decimal(0)).normalize())
            sums[rate] = sums.get(rate, 0) + use.tax
    return tuple(chart.Vat(*rate, tax) for rate, tax in sorted(sums.items()))


def _needed(grant: CreditGrant, grants: Iterable[CreditGrant]) -> int:
    """Cents of it that unbilled usage before its end takes, after those that are used before it.

    Of bought credit as much as the whole usage with the highest rate of VAT there is: what was
    kept too much ends when the invoice is final.
    """
    assert grant.expires_at is not None
    units = max(0, chart.accrued_until(grant.account_id, grant.expires_at))
    rest = -(-units // chart.NANO_PER_CENT)
    for each in grants:
        if each.kind == CreditKind.BOUGHT:
            highest = Decimal(rest) * Decimal("1.27")
            rest = int(highest.quantize(Decimal(1), ROUND_CEILING))
            if grant.kind == CreditKind.BOUGHT:
                ahead = sum(
                    one.left
                    for one in grants
                    if one.kind == CreditKind.BOUGHT and _turn(one) < _turn(grant)
                )
                return min(grant.left, max(0, rest - ahead))
        if each.id == grant.id:
            return min(grant.left, rest)
        rest = max(0, rest - each.left)
    return 0


def _post(key: str, kind: str, sides: list[tuple[str, int]], at: datetime) -> None:
    _ledger(key, kind, chart.cents(sides), at)


def _ledger(key: str, kind: str, entries: list[ledger.Entry], at: datetime) -> None:
    if entries:
        ledger.post(idempotency_key=key, kind=kind, effective_at=at, entries=entries)


def _tell(
    action: str,
    account_id: str,
    grant: CreditGrant,
    amount: int,
    actor: audit.Actor,
    now: datetime,
) -> None:
    where = tenants.home(account_id)
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("credit_grant", grant.id),
        log=where.log,
        region=where.region,
        now=now,
        change=[
            audit.Change("account", None, account_id),
            audit.Change("cents", None, amount),
        ],
    )
