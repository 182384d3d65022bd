"""`stoa billing journal`, `datev-accounts`, `reopen-books`, `put-back`: the books, by hand."""

from argparse import ArgumentParser
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from billing import months
from billing.books import closing, datev, journal
from billing.invoices import putting_back
from billing.invoices.bundle import Bundle
from billing.invoices.putting_back import Archived
from billing.management.closing import month_of
from compliance import audit


def add(verbs: Any) -> None:
    """Its verbs, to those of `stoa billing`."""
    made: ArgumentParser = verbs.add_parser("journal", help="the ledger's journal of a month")
    made.add_argument("month", metavar="YYYY-MM")
    made.add_argument("file", type=Path, help="JSON lines, complete; with --datev a CSV")
    made.add_argument("--datev", action="store_true", help="EXTF, Buchungsstapel")
    numbers = verbs.add_parser("datev-accounts", help="the account numbers of DATEV files")
    numbers.add_argument("--set", action="append", default=[], metavar="ACCOUNT=NUMBER")
    for name in ("consultant", "client", "year-begins", "digits"):
        numbers.add_argument(f"--{name}", type=int)
    numbers.add_argument("--chart", help="03 or 04")
    again = verbs.add_parser("reopen-books", help="open a closed month: two people, within a day")
    again.add_argument("month", metavar="YYYY-MM")
    what = again.add_mutually_exclusive_group(required=True)
    what.add_argument("--ask", metavar="REASON", help="the first says why")
    what.add_argument("--agree", action="store_true", help="the second agrees")
    back = verbs.add_parser("put-back", help="invoices that a restored backup does not know")
    back.add_argument("files", type=Path, nargs="+", help="NUMBER.json, .xml, .pdf, evidence.zip")
    back.add_argument("--account", default="", help="whose they are, where the name is not enough")


def journaled(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    start = month_of(options["month"])
    if options["datev"]:
        content = datev.write(start.date(), now)
        with options["file"].open("xb") as file:
            file.write(content)
        count = content.count(b"\r\n") - 2
        command.stdout.write(f"{options['file']}: {count} lines, not tried with DATEV's software")
        return
    with options["file"].open("xb") as file:
        count = journal.write(file, start, months.after(start))
    command.stdout.write(f"{options['file']}: {count} transactions")


def numbered(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    """Show the numbers; set those that are given."""
    given = {
        name: options[name]
        for name in ("consultant", "client", "year_begins", "digits", "chart")
        if options[name] is not None
    }
    pairs = dict(one.partition("=")[::2] for one in options["set"])
    kept = datev.setting()
    if given or pairs:
        wanted = replace(kept, **given, accounts={**kept.accounts, **pairs})
        kept = datev.configure(wanted, actor=audit.SYSTEM, now=now)
    command.stdout.write(
        f"consultant {kept.consultant}, client {kept.client}, year from month {kept.year_begins},"
        f" {kept.digits} digits, SKR {kept.chart}"
    )
    for code, number in sorted({**datev.PROPOSED, **kept.accounts}.items()):
        own = "" if code in kept.accounts else "  (proposed)"
        command.stdout.write(f"{code:<24} {number}{own}")


def reopened(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    """This host is one of the two people, whoever sits at it: the other one is an operator."""
    month: date = month_of(options["month"]).date()
    who: dict[str, Any] = {"actor": audit.SYSTEM, "now": now}
    if options["agree"]:
        closing.reopen(month, **who)
        command.stdout.write(f"{options['month']} is open again")
        return
    closing.ask_reopen(month, options["ask"], **who)
    command.stdout.write(
        f"asked to open {options['month']}: an operator agrees within a day, on the page Bank or by"
        f" POST /api/v1/books/{options['month']}/reopen"
    )


def put_back(command: BaseCommand, options: dict[str, Any], now: datetime) -> None:
    """In the order of their numbers; what does not fit stops it, and what went before stays."""
    for kept in archived(options["files"]):
        made = putting_back.put_back(
            kept, actor=audit.SYSTEM, now=now, account_id=options["account"]
        )
        command.stdout.write(f"{made.label}: {made.state}, {made.gross / 100:.2f} {made.currency}")


def archived(paths: list[Path]) -> list[Archived]:
    """Files of the same number together. Raises errors.InvoiceRefused for what is none."""
    documents: dict[str, Archived] = {}
    for path in paths:
        if path.suffix == ".json" and not path.name.endswith("-decision.json"):
            content = path.read_bytes()
            documents[putting_back.number(content)] = Archived(content)
        elif path.suffix == ".zip":
            known = _evidence(path)
            documents.setdefault(putting_back.number(known.json), known)
    by_name = {path.name: path for path in paths}
    for label, kept in documents.items():
        documents[label] = replace(
            kept,
            cii=_content(by_name.get(f"{label}.xml")),
            pdf=_content(by_name.get(f"{label}.pdf")),
            decision=_content(by_name.get(f"{label}-decision.json")),
        )
    for path in paths:
        if path.suffix == ".zip":
            known = _evidence(path)
            label = putting_back.number(known.json)
            documents[label] = replace(
                documents[label], billed=known.billed, account_id=known.account_id
            )
    return [documents[label] for label in sorted(documents)]


def _content(path: Path | None) -> bytes:
    return path.read_bytes() if path else b""


def _evidence(path: Path) -> Archived:
    source = Bundle(path)
    try:
        return Archived(
            source.document(), billed=tuple(source.billed()), account_id=source.head.account_id
        )
    finally:
        source.close()


VERBS = {
    "journal": journaled,
    "datev-accounts": numbered,
    "reopen-books": reopened,
    "put-back": put_back,
}
