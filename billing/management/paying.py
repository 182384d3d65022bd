"""`stoa billing import-statement FILE`, `collect`, and what else a bank alone needs."""

import json
from argparse import ArgumentParser
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import errors
from billing.books import closing, reconciliation
from billing.credit import vouchers
from billing.invoices.bundle import Unreadable
from billing.management import books
from billing.models import BankEntry
from billing.payments import debits, statements
from billing.payments.overdue import overdue
from billing.sepa.statements import StatementRefused
from compliance import audit


def add(verbs: Any) -> None:
    """Its verbs, to those of `stoa billing`."""
    file: ArgumentParser = verbs.add_parser("import-statement", help="book a camt.053 file, whole")
    file.add_argument("file", type=Path)
    verbs.add_parser("undecided", help="movements on the bank account that nobody has explained")
    decide = verbs.add_parser("decide", help="say what such a movement was")
    decide.add_argument("entry")
    what = decide.add_mutually_exclusive_group(required=True)
    what.add_argument("--account", help="a payment of this customer")
    what.add_argument("--payment", help="the refund of this payment")
    what.add_argument("--as", dest="what", choices=("fee", "own", "payout"))
    decide.add_argument(
        "--invoice", action="append", dest="of", default=[], help="of the customer; its id"
    )
    collect = verbs.add_parser("collect", help="write the files of direct debits that are due")
    collect.add_argument("folder", type=Path, nargs="?", default=Path("."))
    mandate = verbs.add_parser("mandate", help="enter what a customer signed for direct debits")
    for name in ("account", "reference", "signed_on", "name", "iban"):
        mandate.add_argument(name)
    mandate.add_argument("--scheme", choices=("CORE", "B2B"), default="CORE")
    verbs.add_parser("overdue", help="invoices that are due and open, the oldest first")
    again = verbs.add_parser("reconcile", help="compare the books with all that they must agree to")
    again.add_argument("--since", metavar="YYYY-MM-DD", help="usage and accruals from then on")
    books = verbs.add_parser("close-books", help="nothing is posted in that month from then on")
    books.add_argument("month", metavar="YYYY-MM")
    voucher = verbs.add_parser("voucher", help="make a code that gives credit once")
    voucher.add_argument("euro")
    voucher.add_argument("--valid-days", type=int, help="how long its credit lasts")


def run(command: BaseCommand, verb: str, options: dict[str, Any]) -> bool:
    """Whether the verb is one of these; it is done then."""
    if verb not in _VERBS:
        return False
    try:
        _VERBS[verb](command, options, timezone.now())
    except (errors.BillingError, StatementRefused, Unreadable, OSError) as error:
        raise CommandError(f"{getattr(error, 'code', 'error')}: {error}") from error
    return True


def _import(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    for each in statements.read(options["file"].read_bytes(), actor=audit.SYSTEM, now=now):
        command.stdout.write(
            f"{each.statement.name}: {each.booked} movements booked, {each.duplicates} known,"
            f" {len(each.open)} to decide"
        )
        for entry in each.open:
            command.stdout.write(_line(entry))


def _undecided(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    for entry in statements.undecided():
        command.stdout.write(_line(entry))


def _line(entry: BankEntry) -> str:
    return (
        f"{entry.id}  {entry.booked_on}  {entry.rest / 100:>12.2f}  {entry.party or '-'}"
        f"  {entry.remittance or '-'}  ({entry.because})"
    )


def _decide(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    who: dict[str, Any] = {"actor": audit.SYSTEM, "now": now}
    if options["account"]:
        entry = statements.assign(
            options["entry"], options["account"], invoice_ids=options["of"], **who
        )
    elif options["payment"]:
        entry = statements.refunded(options["entry"], options["payment"], **who)
    else:
        entry = statements.explain(options["entry"], options["what"], **who)
    command.stdout.write(f"{entry.id}: {entry.outcome}")


def _collect(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    for file in debits.collect(actor=audit.SYSTEM, now=now):
        path = options["folder"] / f"{file.message}.xml"
        path.write_bytes(bytes(file.content))
        command.stdout.write(f"{path}: {file.debits} debits, {file.amount / 100:.2f} EUR")


def _mandate(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    made = debits.create_mandate(
        options["account"],
        reference=options["reference"],
        signed_on=_day(options["signed_on"]),
        debtor_name=options["name"],
        debtor_iban=options["iban"],
        scheme=options["scheme"],
        actor=audit.SYSTEM,
        now=now,
    )
    command.stdout.write(f"{made.id}: {made.reference}")


def _overdue(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    for one in overdue(now):
        command.stdout.write(
            f"{one.label}  {one.due_on}  {one.days:>4} days  {one.open / 100:>12.2f}"
            f"  {one.customer}"
        )


def _reconcile(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    since = options["since"]
    start = datetime.combine(_day(since), datetime.min.time(), UTC) if since else None
    found = reconciliation.run(now, since=start)
    for one in found.findings:
        command.stdout.write(one["text"])
    command.stdout.write(json.dumps(found.checked))
    if found.findings:
        raise CommandError(f"{len(found.findings)} differences")


def _close(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    made = closing.close(_day(f"{options['month']}-01"), actor=audit.SYSTEM, now=now)
    command.stdout.write(f"{made} is closed, with {len(made.balances)} balances")


def _voucher(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    try:
        cents = Decimal(options["euro"]).scaleb(2)
    except InvalidOperation as error:
        raise CommandError(f"{options['euro']!r} is no amount") from error
    if cents != cents.to_integral_value():
        raise CommandError("a voucher is of whole cents")
    made, code = vouchers.create(
        int(cents), actor=audit.SYSTEM, now=now, valid_days=options["valid_days"]
    )
    command.stdout.write(f"{made.id}: {code} (shown this once)")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{text!r} is no day") from error


_VERBS = {
    "import-statement": _import,
    "undecided": _undecided,
    "decide": _decide,
    "collect": _collect,
    "mandate": _mandate,
    "overdue": _overdue,
    "reconcile": _reconcile,
    "close-books": _close,
    "voucher": _voucher,
    **books.VERBS,
}
