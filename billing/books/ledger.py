"""Double entry: what is posted balances, is sealed with its database transaction, and stays.

Amounts are integers in units of 10^-scale of a currency: scale 2 (cents) for what is invoiced,
scale 9 for usage that is not invoiced yet, where a cent would be too coarse for an hour. Debit
is positive, credit negative. A mistake is corrected by its reversal, never by an edit.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import psycopg
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum

from billing import errors
from billing.models import LedgerAccount, LedgerEntry, LedgerTransaction
from compliance import audit, ids

_OPEN_BOOKS = "ledgertransaction_open_books"  # as the trigger of migration 0015 says


@dataclass(frozen=True)
class Entry:
    """One side: `amount` units of 10^-`scale` `currency` on the account `code`; debit positive."""

    code: str
    amount: int
    currency: str = "EUR"
    scale: int = 2


@dataclass(frozen=True)
class Posting:
    """What `post` is given."""

    idempotency_key: str
    kind: str
    effective_at: datetime
    entries: Sequence[Entry]


def post(
    *, idempotency_key: str, kind: str, effective_at: datetime, entries: Sequence[Entry]
) -> LedgerTransaction:
    """Writes a balanced transaction, once for each `idempotency_key`; opens accounts as needed.

    A replay returns the transaction of the first call, also once its month is closed. Raises
    `errors.Unbalanced`, `errors.IdempotencyConflict` when the key was used for something else,
    and `errors.BooksRefused` for a month whose books are closed.
    """
    posted, _ = _post(idempotency_key, kind, effective_at, entries, None)
    return posted


def post_new(postings: Sequence[Posting]) -> list[LedgerTransaction]:
    """Writes many at once, of keys that nobody has used; all or none.

    Raises `errors.Unbalanced`, `errors.BooksRefused` as `post`, and IntegrityError for a key that
    is taken.
    """
    for posting in postings:
        _check(posting.entries)
    with transaction.atomic(), _closed_books():
        accounts = _accounts([entry for posting in postings for entry in posting.entries])
        made = LedgerTransaction.objects.bulk_create(
            LedgerTransaction(
                idempotency_key=posting.idempotency_key,
                kind=posting.kind,
                effective_at=posting.effective_at,
            )
            for posting in postings
        )
        LedgerEntry.objects.bulk_create(
            LedgerEntry(transaction=one, account=accounts[e.code], amount=e.amount)
            for one, posting in zip(made, postings, strict=True)
            for e in posting.entries
        )
    return made


def reverse(
    original: LedgerTransaction, *, actor: audit.Actor, effective_at: datetime, now: datetime
) -> LedgerTransaction:
    """Undoes `original` by its mirror image; a replay returns the same reversal.

    Raises `errors.LedgerRefused` for the reversal of a reversal: post anew instead.
    """
    if original.reverses_id is not None:
        raise errors.LedgerRefused(f"{original.id} is itself a reversal")
    mirror = [
        Entry(e.account.code, -e.amount, e.account.currency, e.account.scale)
        for e in original.entries.select_related("account").order_by("id")
    ]
    key = f"reversal:{original.id}"
    with transaction.atomic():
        reversal, new = _post(key, "reversal", effective_at, mirror, original)
        if new:
            audit.record(
                actor=actor,
                action="ledger.reverse",
                target=audit.Target("ledger_transaction", original.id),
                log=audit.PLATFORM,
                now=now,
                change=[audit.Change("reversed_by", None, reversal.id)],
            )
    return reversal


def balance(code: str) -> Decimal:
    """Debits less credits of an account, in its currency, recomputed from its entries.

    An account that nothing was posted to does not exist yet and stands at zero.
    """
    account = LedgerAccount.objects.filter(code=code).first()
    if account is None:
        return Decimal(0)
    total = account.entries.aggregate(total=Sum("amount"))["total"] or 0
    return Decimal(int(total)).scaleb(-account.scale)


def _post(
    key: str,
    kind: str,
    effective_at: datetime,
    entries: Sequence[Entry],
    reverses: LedgerTransaction | None,
) -> tuple[LedgerTransaction, bool]:
    """The transaction of this key, and whether this call made it."""
    _check(entries)
    with transaction.atomic():
        accounts = _accounts(entries)
        found = _insert(key, kind, effective_at, reverses)
        if found is None:
            return _replayed(key, kind, effective_at, entries, accounts), False
        LedgerEntry.objects.bulk_create(
            LedgerEntry(transaction=found, account=accounts[e.code], amount=e.amount)
            for e in entries
        )
        return found, True


def _check(entries: Sequence[Entry]) -> None:
    sums: defaultdict[tuple[str, int], int] = defaultdict(int)
    for entry in entries:
        if type(entry.amount) is not int or entry.amount == 0:
            raise errors.Unbalanced(f"{entry.code}: {entry.amount!r} moves nothing")
        sums[entry.currency, entry.scale] += entry.amount
    if len(entries) < 2 or any(sums.values()):
        raise errors.Unbalanced(f"entries do not balance: {dict(sums)}")


def _accounts(entries: Iterable[Entry]) -> dict[str, LedgerAccount]:
    wanted = {entry.code: entry for entry in entries}
    found = {a.code: a for a in LedgerAccount.objects.filter(code__in=wanted)}
    if missing := sorted(wanted.keys() - found.keys()):
        # In the order of their codes, so that two posts cannot wait for each other.
        LedgerAccount.objects.bulk_create(
            (
                LedgerAccount(code=code, currency=wanted[code].currency, scale=wanted[code].scale)
                for code in missing
            ),
            ignore_conflicts=True,
        )
        found = {a.code: a for a in LedgerAccount.objects.filter(code__in=wanted)}
    for entry in entries:
        account = found[entry.code]
        if (account.currency, account.scale) != (entry.currency, entry.scale):
            raise errors.LedgerRefused(
                f"{entry.code} is kept in {account.currency} at scale {account.scale}"
            )
    return found


def _insert(
    key: str, kind: str, effective_at: datetime, reverses: LedgerTransaction | None
) -> LedgerTransaction | None:
    """The new transaction, or None where the key is taken (after waiting for who takes it)."""
    new_id = ids.new("ltx")
    with connection.cursor() as cursor, _closed_books():
        cursor.execute(
            "INSERT INTO billing_ledgertransaction"
            " (id, idempotency_key, kind, effective_at, reverses_id)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (idempotency_key) DO NOTHING",
            [new_id, key, kind, effective_at, reverses.id if reverses else None],
        )
        if cursor.rowcount == 0:
            return None
    return LedgerTransaction.objects.get(pk=new_id)


@contextmanager
def _closed_books() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and cause.diag.constraint_name == _OPEN_BOOKS:
            raise errors.BooksRefused(str(cause.diag.message_primary), code="closed") from error
        raise


def _replayed(
    key: str,
    kind: str,
    effective_at: datetime,
    entries: Sequence[Entry],
    accounts: dict[str, LedgerAccount],
) -> LedgerTransaction:
    found = LedgerTransaction.objects.get(idempotency_key=key)
    kept = sorted(found.entries.values_list("account_id", "amount"))
    asked = sorted((accounts[e.code].id, e.amount) for e in entries)
    if (found.kind, found.effective_at, kept) != (kind, effective_at, asked):
        raise errors.IdempotencyConflict(f"{key} was posted with other content ({found.id})")
    return found
