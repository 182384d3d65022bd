"""Bank statements: read whole or not at all, each movement booked once, the rest for a person.

A statement goes on where the account stood, or one between is missing and it is refused. What
matching can tell is booked as payment or return; what it cannot stands in `unmatched` (came in) or
`transfers` (went out) until somebody decides, so that the bank's balance is the ledger's.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal

from django.db import transaction
from django.db.models import Sum

from billing import errors
from billing.books import chart, closing, ledger
from billing.invoices.models import Customer, Entity, Invoice, InvoiceKind, InvoiceState
from billing.payments import receipts
from billing.payments.models import (
    BankEntry,
    BankStatement,
    Debit,
    DebitMandate,
    DebitState,
    Method,
    Payment,
)
from billing.payments.stripe import bookings
from billing.sepa import camt053, matching, reference
from billing.sepa.matching import Match, Matcher, Outcome
from billing.sepa.statements import Entry, Statement, StatementRefused
from compliance import audit, locks

_CENT = Decimal("0.01")
_INCOMING = frozenset({Outcome.EXACT, Outcome.PARTIAL, Outcome.OVER})


@dataclass
class Imported:
    """What one statement brought. `open` are movements that somebody must decide."""

    statement: BankStatement
    booked: int = 0
    duplicates: int = 0
    open: list[BankEntry] = field(default_factory=list)


def read(data: bytes, *, actor: audit.Actor, now: datetime) -> list[Imported]:
    """Book a camt.053 file, all of its statements or none. Raises StatementRefused."""
    statements = camt053.read(data)
    digest = hashlib.sha256(data).hexdigest()
    with transaction.atomic():
        return [_read(each, digest, actor, now) for each in statements]


def undecided(entity_id: str | None = None) -> list[BankEntry]:
    """Movements with a rest that nobody has decided, the oldest first."""
    found = BankEntry.objects.exclude(rest=0).select_related("statement", "payment")
    if entity_id:
        found = found.filter(statement__entity_id=entity_id)
    return list(found.order_by("booked_on", "id"))


def assign(
    entry_id: str,
    account_id: str,
    *,
    actor: audit.Actor,
    now: datetime,
    invoice_ids: Iterable[str] = (),
) -> BankEntry:
    """It was this customer's payment. Raises errors.PaymentRefused."""
    with transaction.atomic():
        entry = _undecided(entry_id)
        if entry.payment_id is None or entry.rest <= 0:
            raise errors.PaymentRefused("it is no payment to us", code="not_incoming")
        receipts.assign(
            entry.payment_id, account_id, invoice_ids=tuple(invoice_ids), actor=actor, now=now
        )
        return _decide(entry, "assigned", actor, now)


def explain(entry_id: str, what: str, *, actor: audit.Actor, now: datetime) -> BankEntry:
    """It was of no customer: a bank's `fee`, a provider's `payout`, or our `own` transfer."""
    with transaction.atomic():
        entry = _undecided(entry_id)
        entity_id = entry.statement.entity_id
        places = {
            "fee": chart.fees("bank"),
            "own": "own_transfers",
            "payout": chart.transfers(entity_id),
        }
        if what not in places or (entry.rest < 0 and what == "payout"):
            raise errors.PaymentRefused(f"{what!r} is no explanation of it", code="bad_reason")
        held = chart.unmatched(entity_id) if entry.rest > 0 else chart.transfers(entity_id)
        _post(f"entry:{entry.key}", what, [(held, entry.rest), (places[what], -entry.rest)], now)
        if entry.payment_id is not None:
            _no_payment(entry.payment_id, now)
        return _decide(entry, what, actor, now)


def refunded(entry_id: str, payment_id: str, *, actor: audit.Actor, now: datetime) -> BankEntry:
    """It was our refund of a payment, or a return that named nothing. Raises PaymentRefused."""
    with transaction.atomic():
        entry = _undecided(entry_id)
        if entry.rest >= 0:
            raise errors.PaymentRefused("nothing went out", code="not_outgoing")
        receipts.give_back(
            key=f"camt:{entry.key}",
            payment_id=payment_id,
            amount=-entry.rest,
            reason="refund",
            now=now,
            actor=actor,
        )
        return _decide(entry, "refund", actor, now)


def balance(entity_id: str) -> int | None:
    """Cents on the bank account by its statements: the first one's opening and all movements."""
    first = BankStatement.objects.filter(entity_id=entity_id).order_by("id").first()
    if first is None:
        return None
    moved = BankEntry.objects.filter(statement__entity_id=entity_id).aggregate(all=Sum("amount"))
    return (first.opening or 0) + int(moved["all"] or 0)


def _read(statement: Statement, digest: str, actor: audit.Actor, now: datetime) -> Imported:
    entity = _entity(statement)
    locks.hold(f"statement:{entity.id}")
    seen = set(
        BankEntry.objects.filter(key__in=[one.key for one in statement.entries]).values_list(
            "key", flat=True
        )
    )
    fresh = [one for one in statement.entries if one.key not in seen]
    before = balance(entity.id)
    _check_goes_on(statement, before, fresh)
    row, _ = BankStatement.objects.get_or_create(
        iban=statement.account,
        name=statement.id[:100],
        sha256=digest,
        defaults={
            "entity": entity,
            "sequence": statement.sequence[:40],
            "opening": _cents(statement.opening),
            "closing": _cents(statement.closing),
            "entries": len(statement.entries),
            "read_at": now,
            "read_by": actor.id,
        },
    )
    done = Imported(row, duplicates=len(seen))
    if before is None and row.opening:
        sides = [(chart.bank(entity.id), row.opening), (chart.opening(entity.id), -row.opening)]
        _post(f"opening:{entity.id}", "opening", sides, now)
    matcher = _matcher(entity)
    for entry in fresh:
        kept = _book(row, matcher.match(entry), entity, actor, now)
        done.booked += 1
        if kept.rest:
            done.open.append(kept)
    if fresh or not seen:
        _tell(row, "statement.import", "bank_statement", row.id, done.booked, actor, now)
    return done


def _entity(statement: Statement) -> Entity:
    found = Entity.objects.filter(iban=statement.account).first()
    if found is None:
        raise StatementRefused("foreign_account", f"{statement.account} is no account of ours")
    return found


def _check_goes_on(statement: Statement, before: int | None, fresh: list[Entry]) -> None:
    """Overlaps are fine, holes are not."""
    closing_at = _cents(statement.closing)
    if before is None or closing_at is None or not fresh:
        return
    after = before + sum(_exact(one.amount) for one in fresh)
    if after != closing_at:
        raise StatementRefused(
            "hole",
            f"{statement.id} ends at {closing_at / 100:.2f} EUR; the account stood at"
            f" {before / 100:.2f} and its new movements lead to {after / 100:.2f}:"
            " a statement before it is missing",
        )


def _matcher(entity: Entity) -> Matcher:
    """Every invoice of the entity that is final: the paid ones may be paid twice, or returned."""
    debits = list(
        Debit.objects.filter(invoice__entity=entity)
        .exclude(state__in=(DebitState.ANNOUNCED, DebitState.CANCELLED))
        .values_list("end_to_end", "invoice_id", "amount", "state")
    )
    payers = _payers(entity)
    rows = Invoice.objects.filter(entity=entity).exclude(state=InvoiceState.DRAFT)
    invoices = [
        matching.Invoice(
            one.id,
            one.label,
            reference.make(one.label),
            one.account_id,
            euro(one.due if one.state in ("final", "paid") else one.settled),
            euro(one.settled),
            payers.get(one.account_id, frozenset()),
        )
        for one in rows.exclude(kind=InvoiceKind.CREDIT_NOTE)
        .only("label", "account_id", "due", "settled", "state")
        .iterator(chunk_size=2000)
    ]
    sent = [
        matching.Debit(name, invoice, euro(amount), state == DebitState.RETURNED)
        for name, invoice, amount, state in debits
    ]
    return Matcher(invoices, sent)


def _payers(entity: Entity) -> dict[str, frozenset[str]]:
    known: dict[str, set[str]] = {}
    paid = Payment.objects.filter(entity=entity, account__isnull=False).exclude(payer_iban="")
    mandates = DebitMandate.objects.filter(account__in=Customer.objects.values("account_id"))
    for rows in (
        paid.values_list("account_id", "payer_iban").distinct(),
        mandates.values_list("account_id", "debtor_iban"),
    ):
        for account_id, iban in rows:
            known.setdefault(str(account_id), set()).add(iban)
    return {account_id: frozenset(ibans) for account_id, ibans in known.items()}


def _book(
    row: BankStatement, found: Match, entity: Entity, actor: audit.Actor, now: datetime
) -> BankEntry:
    entry = found.entry
    kept = BankEntry(
        statement=row,
        key=entry.key,
        booked_on=entry.booked_on,
        amount=_exact(entry.amount),
        charges=_exact(entry.charges),
        party=entry.party_name[:140],
        party_iban=entry.party_iban,
        remittance=f"{entry.reference} {entry.remittance}".strip()[:500],
        end_to_end=entry.end_to_end[:35],
        outcome=found.outcome.value,
        because=found.because[:300],
        candidates=list(found.candidates),
    )
    gross = _exact(entry.gross)
    if gross > 0 and _payout(kept, found, gross):
        kept.outcome, kept.because = "payout", "Stripe sent it"
    elif gross > 0:
        kept.payment = _incoming(found, entity, gross, actor, now)
        kept.rest = 0 if kept.payment.account_id else gross
    elif (payment := _returned(found)) is not None:
        _take_back(found, payment, -gross, actor, now)
        kept.payment = payment
    elif gross < 0:
        sides = [(chart.transfers(entity.id), -gross), (chart.bank(entity.id), gross)]
        _post(f"out:{entry.key}", "outgoing", sides, _noon(entry))
        kept.rest = gross
    if kept.charges:
        sides = [(chart.fees("bank"), kept.charges), (chart.bank(entity.id), -kept.charges)]
        _post(f"charges:{entry.key}", "fee", sides, _noon(entry))
    kept.save(force_insert=True)
    return kept


def _payout(kept: BankEntry, found: Match, gross: int) -> bool:
    """Whether it is what Stripe collected for us, which is posted then."""
    return found.outcome not in _INCOMING and bookings.claims(
        amount=gross,
        currency="EUR",
        booked_on=kept.booked_on,
        text=f"{kept.party} {kept.remittance}",
    )


def _incoming(
    found: Match, entity: Entity, gross: int, actor: audit.Actor, now: datetime
) -> Payment:
    entry = found.entry
    debit = Debit.objects.filter(end_to_end=entry.end_to_end).select_related("mandate").first()
    parts = {one.invoice: _exact(one.amount) for one in found.allocations}
    account_id = _whose(parts or found.candidates) if found.outcome in _INCOMING else None
    payment = receipts.receive(
        key=f"camt:{entry.key}",
        entity_id=entity.id,
        account_id=account_id,
        amount=gross,
        currency="EUR",
        method=Method.DEBIT if debit else Method.TRANSFER,
        received_at=_noon(entry),
        now=now,
        actor=actor,
        reference=f"{entry.reference} {entry.remittance}".strip(),
        payer_iban=entry.party_iban,
        parts=parts if account_id else None,
    )
    if debit is not None and account_id:
        debit.state = DebitState.PAID
        debit.save(update_fields=["state"])
        debit.mandate.last_collected = debit.collect_on
        debit.mandate.account_changed = False
        debit.mandate.save(update_fields=["last_collected", "account_changed"])
    return payment


def _whose(invoice_ids: Iterable[str]) -> str | None:
    """The one account that all of them are of; money for several customers a person divides."""
    found = Invoice.objects.filter(id__in=list(invoice_ids))
    accounts = set(found.values_list("account_id", flat=True))
    return accounts.pop() if len(accounts) == 1 else None


def _returned(found: Match) -> Payment | None:
    """The payment that the bank takes back."""
    if found.outcome is not Outcome.RETURNED:
        return None
    amount = -_exact(found.entry.gross)
    booked = Payment.objects.filter(allocations__invoice__in=[a.invoice for a in found.allocations])
    if found.entry.end_to_end:
        named = booked.filter(bankentry__end_to_end=found.entry.end_to_end)
        booked = named if named.exists() else booked
    rows = booked.order_by("-received_at", "-id").distinct()
    return next((one for one in rows if one.amount - one.back >= amount), None)


def _take_back(
    found: Match, payment: Payment, amount: int, actor: audit.Actor, now: datetime
) -> None:
    entry = found.entry
    receipts.give_back(
        key=f"camt:{entry.key}",
        payment_id=payment.id,
        amount=amount,
        reason="return",
        now=now,
        actor=actor,
        at=_noon(entry),
    )
    Debit.objects.filter(end_to_end=entry.end_to_end, end_to_end__gt="").update(
        state=DebitState.RETURNED, because=found.because[:200]
    )


def _undecided(entry_id: str) -> BankEntry:
    found = (
        BankEntry.objects.select_for_update(of=("self",))
        .select_related("statement")
        .filter(pk=entry_id)
        .first()
    )
    if found is None:
        raise errors.PaymentRefused(f"no movement {entry_id}", code="unknown_entry")
    if found.rest == 0:
        raise errors.PaymentRefused("it is decided", code="decided")
    return found


def _decide(entry: BankEntry, outcome: str, actor: audit.Actor, now: datetime) -> BankEntry:
    rest, entry.rest, entry.outcome = entry.rest, 0, outcome
    entry.decided_at, entry.decided_by = now, actor.id
    entry.save(update_fields=["rest", "outcome", "decided_at", "decided_by"])
    _tell(entry.statement, "bank_entry.decide", "bank_entry", entry.id, rest, actor, now)
    return entry


def _no_payment(payment_id: str, now: datetime) -> None:
    """What was kept as a payment of nobody was none."""
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    receipts.unmake(payment, now)


def _tell(
    row: BankStatement,
    action: str,
    kind: str,
    id: str,
    amount: int,
    actor: audit.Actor,
    now: datetime,
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target(kind, id),
        log=audit.PLATFORM,
        now=now,
        change=[audit.Change("statement", None, row.sha256), audit.Change("of", None, amount)],
    )


def _post(key: str, kind: str, sides: list[tuple[str, int]], at: datetime) -> None:
    if entries := chart.cents(sides):
        ledger.post(
            idempotency_key=key, kind=kind, effective_at=closing.open_at(at), entries=entries
        )


def _noon(entry: Entry) -> datetime:
    """Within the bank's day, wherever that is."""
    return datetime.combine(entry.booked_on, time(12), UTC)


def _exact(amount: Decimal) -> int:
    cents = amount.scaleb(2)
    if cents != cents.to_integral_value():
        raise StatementRefused("bad_amount", f"{amount} EUR is no number of cents")
    return int(cents)


def _cents(amount: Decimal | None) -> int | None:
    return None if amount is None else _exact(amount)


def euro(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2).quantize(_CENT)
