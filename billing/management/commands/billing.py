"""manage.py billing: a month closed; an invoice computed again from raw usage, and its evidence.

    billing close 2026-10 [--show] [--json]               drafts, and invoices after the grace time
    billing advances [--show]                             decide top-ups, and say which wait
    billing archive --due [--destroy] [--json]            files whose retention is over
    billing sums 2026-10 [--rebuild]                      the sums of usage beside its events

    billing recompute INVOICE [--json]                    from the database
    billing recompute INVOICE --export FILE.zip [--json]  from its evidence alone, anywhere
        [--authority FILE.pem]                            … and whom alone you trust for nodes
    billing evidence INVOICE FILE.zip                     write that evidence
    billing import-statement FILE, collect, reconcile, …  a bank alone (docs/ledger.md)
    billing journal 2026-10 FILE [--datev]                the ledger's journal of a month
    billing put-back NUMBER.json [NUMBER.pdf …]           an invoice that a backup did not know
    billing reopen-books 2026-10 --ask REASON | --agree   closed books, by two people

INVOICE is an id or a number as printed. Exit code 1: it differs by a cent or more.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from billing import errors
from billing.invoices import bundle, evidence, recompute
from billing.management import archiving, books, closing, paying, summing
from billing.models import Invoice
from compliance.log import signing


class Command(BaseCommand):
    help = "Compute an invoice again from raw usage, or write its evidence."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        close = verbs.add_parser("close", help="draft a month, and finalise it when its time came")
        close.add_argument("month", metavar="YYYY-MM")
        close.add_argument("--show", action="store_true", help="only say how far it is")
        close.add_argument("--json", action="store_true")
        top_ups = verbs.add_parser("advances", help="decide top-ups, with their advance invoices")
        top_ups.add_argument("--show", action="store_true", help="only say which wait, and why")
        kept = verbs.add_parser("archive", help="files of invoices whose retention is over")
        kept.add_argument("--due", action="store_true", required=True, help="those that are")
        kept.add_argument("--destroy", action="store_true", help="delete them; an event tells it")
        kept.add_argument("--json", action="store_true")
        sums = verbs.add_parser("sums", help="the sums of a month's usage are those of its events")
        sums.add_argument("month", metavar="YYYY-MM")
        sums.add_argument("--rebuild", action="store_true", help="make them anew first")
        again = verbs.add_parser("recompute", help="to the cent, or exit code 1")
        again.add_argument("invoice")
        again.add_argument("--export", metavar="FILE.zip", help="from this file alone")
        again.add_argument("--vkey", action="append", default=[], help="with --export: who signed")
        again.add_argument("--authority", metavar="FILE.pem", help="whom alone you trust")
        again.add_argument("--json", action="store_true")
        write = verbs.add_parser("evidence", help="for its customer, to compute it again alone")
        write.add_argument("invoice")
        write.add_argument("file", type=Path)
        paying.add(verbs)
        books.add(verbs)

    def handle(self, *, verb: str, invoice: str = "", **options: Any) -> None:
        if verb == "close":
            closing.close(self, options["month"], show=options["show"], as_json=options["json"])
            return
        if verb == "advances":
            archiving.advanced(self, show=options["show"])
            return
        if verb == "archive":
            archiving.archived(self, destroy=options["destroy"], as_json=options["json"])
            return
        if verb == "sums":
            month = closing.month_of(options["month"])
            summing.compare(self, month, rebuild=options["rebuild"])
            return
        if paying.run(self, verb, options | {"invoice": invoice}):
            return
        if options.get("export"):
            given = [invoice, "--export", options["export"], *["--json"] * options["json"]]
            given += [f"--vkey={key}" for key in options["vkey"]]
            if options["authority"]:
                given += ["--authority", options["authority"]]
            sys.exit(recompute.main(given))
        try:
            source = evidence.Stored(_invoice(invoice))
            if verb == "recompute":
                code = recompute.show(recompute.recompute(source), as_text=not options["json"])
                if code:
                    sys.exit(code)
            else:
                sign = evidence.signature(_invoice(invoice))
                with options["file"].open("xb") as file:
                    try:
                        bundle.write(source, file, sign)
                    except BaseException:  # half of it is none
                        options["file"].unlink()
                        raise
                self.stdout.write(f"wrote {options['file']}")
        except (errors.BillingError, signing.SignerAway, OSError) as error:
            raise CommandError(str(error)) from error


def _invoice(name: str) -> Invoice:
    found = Invoice.objects.filter(Q(id=name) | (Q(label=name) & ~Q(label=""))).first()
    if found is None:
        raise errors.NoEvidence(f"there is no invoice {name}")
    return found
