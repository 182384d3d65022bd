"""The books of a month, closed: the database refuses what is effective in it from then on.

Months are closed in their order, each when it is over and the night's reconciliation found
nothing. To open the newest again takes two people: one asks and says why, another one agrees.
What comes late is posted in the first month that is open (`open_at`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction

from billing import errors, months
from billing.models import BooksClosing, LedgerTransaction, Reconciliation
from compliance import audit, locks

FRESH = timedelta(hours=36)  # a reconciliation older than this says nothing about now
AGREED_WITHIN = timedelta(days=1)


def close(month: date, *, actor: audit.Actor, now: datetime) -> BooksClosing:
    """Close the books of the month that begins on `month`; closing it again changes nothing.

    Raises errors.BooksRefused: the month is not over, an earlier one is open, or the newest
    reconciliation is too old or found something.
    """
    start, end = bounds(month)
    with _alone(month):
        if (found := closed(month)) is not None:
            return found
        if end > now:
            raise errors.BooksRefused(f"{month:%Y-%m} is not over", code="month_not_over")
        _check_order(start)
        _check_reconciled(end, now)
        made = BooksClosing.objects.create(
            month=month, closed_at=now, closed_by=actor.id, balances=balances(end)
        )
        _tell(made, "books.close", actor, now)
    return made


def ask_reopen(month: date, reason: str, *, actor: audit.Actor, now: datetime) -> BooksClosing:
    """The first of two: say why. Raises errors.BooksRefused where the month is not the newest
    closed one."""
    with _alone(month):
        found = _newest(month)
        if not reason.strip():
            raise errors.BooksRefused("say why the books are opened again", code="no_reason")
        found.asked_at, found.asked_by, found.reason = now, actor.id, reason.strip()[:200]
        found.save(update_fields=["asked_at", "asked_by", "reason"])
        _tell(found, "books.ask_reopen", actor, now, {"/reason": found.reason})
    return found


def reopen(month: date, *, actor: audit.Actor, now: datetime) -> BooksClosing:
    """The second one agrees, within a day. Raises errors.BooksRefused."""
    with _alone(month):
        found = _newest(month)
        if found.asked_at is None or now - found.asked_at > AGREED_WITHIN:
            raise errors.BooksRefused("nobody has asked for it today", code="not_asked")
        if found.asked_by == actor.id:
            raise errors.BooksRefused("another person must agree", code="second_person")
        found.reopened_at, found.reopened_by = now, actor.id
        found.save(update_fields=["reopened_at", "reopened_by"])
        _tell(found, "books.reopen", actor, now)
    return found


def closed(month: date) -> BooksClosing | None:
    return BooksClosing.objects.filter(month=month, reopened_at=None).first()


def open_at(moment: datetime) -> datetime:
    """`moment`, or the start of the first open month after it."""
    shut = set(
        BooksClosing.objects.filter(
            month__gte=moment.astimezone(UTC).date().replace(day=1), reopened_at=None
        ).values_list("month", flat=True)
    )
    while (month := moment.astimezone(UTC).date().replace(day=1)) in shut:
        moment = bounds(month)[1]
    return moment


def balances(end: datetime) -> dict[str, str]:
    """Of every account, all that is effective before `end`, in its currency, as text.

    The newest closing before gives what went before; `recomputed` sums from the beginning.
    """
    last = (
        BooksClosing.objects.filter(month__lt=end.date(), reopened_at=None)
        .order_by("-month")
        .first()
    )
    if last is None:
        return recomputed(end)
    sums = {code: Decimal(text) for code, text in last.balances.items()}
    for code, amount in _moved(bounds(last.month)[1], end).items():
        sums[code] = sums.get(code, Decimal(0)) + amount
    return {code: format(amount, "f") for code, amount in sorted(sums.items()) if amount}


def recomputed(end: datetime) -> dict[str, str]:
    found = _moved(None, end)
    return {code: format(amount, "f") for code, amount in sorted(found.items()) if amount}


_MOVED = """
SELECT a.code, a.scale, sum(e.amount)
FROM billing_ledgertransaction t
JOIN billing_ledgerentry e ON e.transaction_id = t.id
JOIN billing_ledgeraccount a ON a.id = e.account_id
WHERE (%(start)s::timestamptz IS NULL OR t.effective_at >= %(start)s) AND t.effective_at < %(end)s
GROUP BY 1, 2
"""


def _moved(start: datetime | None, end: datetime) -> dict[str, Decimal]:
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, {"start": start, "end": end})
        return {code: Decimal(int(units)).scaleb(-scale) for code, scale, units in cursor}


def _check_order(start: datetime) -> None:
    closings = BooksClosing.objects.filter(reopened_at=None, month__lt=start.date())
    newest = closings.order_by("-month").values_list("month", flat=True).first()
    since = bounds(newest)[1] if newest else datetime.min.replace(tzinfo=UTC)
    earlier = LedgerTransaction.objects.filter(effective_at__gte=since, effective_at__lt=start)
    first = earlier.order_by("effective_at").first()
    if first is not None:
        raise errors.BooksRefused(
            f"{first.effective_at:%Y-%m} is still open: close it first", code="earlier_open"
        )


def _check_reconciled(end: datetime, now: datetime) -> None:
    last = Reconciliation.objects.order_by("-at", "-id").first()
    if last is None or last.at < end or now - last.at > FRESH:
        raise errors.BooksRefused(
            "the books were not reconciled since the month ended", code="not_reconciled"
        )
    if last.findings:
        raise errors.BooksRefused(
            f"the reconciliation of {last.at:%Y-%m-%d %H:%M} found {len(last.findings)}"
            f" differences, first: {last.findings[0]['text']}",
            code="differences",
        )


def _newest(month: date) -> BooksClosing:
    found = closed(month)
    if found is None:
        raise errors.BooksRefused(f"{month:%Y-%m} is not closed", code="not_closed")
    if BooksClosing.objects.filter(month__gt=month, reopened_at=None).exists():
        raise errors.BooksRefused("a later month is closed: open that one first", code="later")
    return found


def _tell(
    found: BooksClosing,
    action: str,
    actor: audit.Actor,
    now: datetime,
    personal: dict[str, str] | None = None,
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("books_closing", found.id),
        log=audit.PLATFORM,
        now=now,
        change=[audit.Change("month", None, f"{found.month:%Y-%m}")],
        personal=personal,
    )


@contextmanager
def _alone(month: date) -> Iterator[None]:
    """Nobody posts in the month meanwhile: each post holds the same lock, shared."""
    with transaction.atomic():
        locks.hold(f"books:{month}")
        yield


def bounds(month: date) -> tuple[datetime, datetime]:
    """The first moment of a month, in UTC, and the first after it."""
    if month.day != 1:
        raise ValueError(f"{month} is not the first of a month")
    start = datetime(month.year, month.month, 1, tzinfo=UTC)
    return start, months.after(start)
