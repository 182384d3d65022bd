"""One month of many companies, from what nodes signed and gateways counted to invoices that hold.

    make demo-month ARGS="--companies 200 --without-stripe"

October 2026, in which clocks go back. All of it is real but engines, VIES and Stripe: nodes'
journals sign what they served, reports move replicas, metering bills the less of both witnesses,
whatever is lost, told twice, out of time or moved; usage is rated and posted; invoices are decided,
numbered and frozen; then each is read as its customer would: the XML by the official rules, the PDF
by a reader, sums and nodes' signatures by `recompute` from the export alone. Some pay by card or
debit, at a Stripe of our own; without it all of them by transfer.
Exit code 1 if anything is off.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import django
from rich.console import Console
from rich.progress import track

from tests.benchmarks.books.stand import standing
from tests.benchmarks.peers.arithmetic import number, table

if TYPE_CHECKING:
    from billing.models import Invoice
    from tests.month.collected import Stripe

BORN = datetime(2026, 9, 20, 8, tzinfo=UTC)
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
CLOSED = datetime(2026, 11, 4, 6, tzinfo=UTC)  # the grace time is over
PAID = datetime(2026, 11, 26, 18, tzinfo=UTC)
SEED = 7
ALONE = 3  # evidences that a process of its own computes again, in an empty directory
_T = TypeVar("_T")


class NoStripe(MetaPathFinder):
    """As if the package were not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        if name.split(".")[0] == "stripe":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@dataclass
class Told:
    """What is said in the end: each step with its seconds, and what was found wrong."""

    console: Console
    rows: list[list[str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def step(self, name: str, outcome: str) -> None:
        """`name` is over since the step before."""
        now = time.monotonic()
        self.rows.append([name, outcome, number(now - self.since)])
        self.since = now

    def must(self, held: bool, what: str) -> None:
        if not held:
            self.wrong.append(what)

    def each(self, items: Sequence[_T], name: str) -> Iterable[_T]:
        return track(items, name, console=self.console)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--companies", type=int, default=200)
    parser.add_argument("--without-stripe", action="store_true")
    asked = parser.parse_args()
    if asked.without_stripe:
        sys.meta_path.insert(0, NoStripe())
    with standing():
        django.setup()
        logging.getLogger("httpx").setLevel(logging.WARNING)
        told = Told(Console(stderr=True))
        live(asked.companies, told, with_stripe=not asked.without_stripe)
    told.must(not asked.without_stripe or "stripe" not in sys.modules, "stripe was imported")
    print(table(["step", "outcome", "s"], told.rows))
    for problem in told.wrong:
        print(f"WRONG: {problem}")
    print("Something does not hold." if told.wrong else "Everything holds, to the cent.")
    return 1 if told.wrong else 0


def live(count: int, told: Told, *, with_stripe: bool) -> None:
    """The month of `count` companies, and all that is checked of it."""
    from tests.billing.vat.fake_vies import State, serving
    from tests.month import customers, happening, proofs, traffic

    vies = State()
    with serving(vies) as url, payment_provider(with_stripe) as stripe:
        companies = customers.found(count, BORN, SEED, vies)
        countries = Counter(one.country for one in companies)
        told.step("companies", " ".join(f"{c} {n}" for c, n in sorted(countries.items())))
        if stripe:
            told.step("means of payment", f"{stripe.enlist(companies, BORN)} at Stripe")
        sessions = traffic.sessions(companies, START, END, SEED)
        played = happening.live(companies, sessions, BORN, told)
        told.step("served", happening.told(played))
        told.step("requests", f"{happening.requests(played, END, SEED, told):,} events")
        told.step("proved", proofs.hold(played, told))
        told.step("digests", proofs.digest(companies, START, CLOSED, told))
        told.step("ledger", f"{accrue():,} hours of accounts posted")
        told.step("month end", close(url, told))
        invoices = final()
        if stripe:
            words, wrong = stripe.collect(invoices, PAID - timedelta(hours=3))
            told.wrong += wrong
            told.step("collected", words)
    read_documents(invoices, told)
    told.step("documents", f"{len(invoices)} XML by the official rules, PDF by a reader")
    recompute(invoices, told)
    told.step("recomputed", f"{len(invoices)} from their exports alone, {ALONE} in a process")
    told.step("paid", pay(invoices, told))
    told.step("reconciled", reconcile(told))


def payment_provider(wanted: bool) -> "AbstractContextManager[Stripe | None]":
    if not wanted:
        return nullcontext()
    from tests.month import collected

    return collected.standing()


def accrue() -> int:
    from workers import metering

    return metering.accrue_hours(CLOSED)


def close(vies_url: str, told: Told) -> str:
    """What no record proves keeps invoices back, until an operator has said why."""
    import httpx

    from billing.invoices import month_end
    from billing.vat.vies import ViesClient
    from tests.month import proofs

    with httpx.Client(trust_env=False) as http:
        ask = ViesClient(http, lambda: CLOSED, vies_url).check
        first = month_end.close_month(START, CLOSED, ask=ask)
        kept_back = first.held.pop("metering_unexplained", 0)
        told.must(kept_back == proofs.explain(CLOSED), f"{kept_back} kept back by their metering")
        second = month_end.close_month(START, CLOSED, ask=ask)
        again = month_end.close_month(START, CLOSED, ask=ask)
    for one in (first, second):
        told.must(one.held.total() == 0 and not one.outcomes["failed"], f"held: {one.held}")
    told.must(again.outcomes["final"] == 0, "a run more issued something")
    final = first.outcomes["final"] + second.outcomes["final"]
    nothing = second.outcomes["nothing"]
    return f"{final} final, {kept_back} of them held until explained, {nothing} nothing"


def final() -> "list[Invoice]":
    from billing.models import Invoice

    return list(Invoice.objects.filter(period_start=START, kind="invoice").order_by("number"))


def read_documents(invoices: "Sequence[Invoice]", told: Told) -> None:
    """Gapless numbers; XML and PDF as whoever gets them reads them."""
    from io import BytesIO

    import pypdf

    from billing.einvoice import validate
    from billing.models import InvoiceFile

    numbers = [one.number for one in invoices]
    told.must(numbers == list(range(1, len(invoices) + 1)), "the numbers have a gap")
    for one in told.each(invoices, "documents"):
        files = dict(InvoiceFile.objects.filter(invoice=one).values_list("form", "content"))
        xml, pdf = bytes(files["cii"]), bytes(files["pdf"])
        found = [*validate.schema(xml), *validate.schematron(xml)]
        told.must(not found, f"{one.label}: {found[:1]}")
        paper = pypdf.PdfReader(BytesIO(pdf))
        words = "".join(page.extract_text() for page in paper.pages)
        told.must(one.label in words, f"{one.label}: its PDF does not say its number")
        told.must(
            next(iter(paper.attachments.values())) == [xml], f"{one.label}: PDF and XML differ"
        )
        told.must("Egress" in words or "egress" in words, f"{one.label}: no egress line")


def recompute(invoices: "Sequence[Invoice]", told: Told) -> None:
    """From the export alone: what was billed, to the cent, and what nodes signed of it."""
    from billing.invoices import bundle, evidence
    from billing.invoices import recompute as again
    from billing.meters import proving

    with tempfile.TemporaryDirectory(prefix="stoa-evidence-") as folder:
        for nth, one in enumerate(told.each(invoices, "recomputed")):
            path = Path(folder, f"{one.label}.zip")
            with path.open("xb") as file:
                bundle.write(evidence.Stored(one), file)
            report = again.recompute(bundle.Bundle(path))
            told.must(report.agrees, f"{one.label}: {report.billed} or {report.recomputed}")
            seen = report.metering
            proved = seen.verdict == proving.PROVED and seen.signatures == proving.CHECKED
            told.must(proved, f"{one.label}: {seen.verdict}, {seen.signatures} {seen.problems}")
            if nth < ALONE:
                command = [str(Path(sys.executable).with_name("stoa")), "billing", "recompute"]
                command += [one.label, "--export", str(path)]
                done = subprocess.run(
                    command, cwd=folder, env={}, capture_output=True, text=True, check=False
                )
                told.must(done.returncode == 0, f"{one.label}: {done.stdout}{done.stderr}")
            path.unlink()


def pay(invoices: "Sequence[Invoice]", told: Told) -> str:
    """What is open yet is transferred, and the bank's statement finds each invoice."""
    from billing.models import Invoice
    from billing.payments import statements
    from compliance import audit
    from tests.billing.sepa.bank import Movement, document
    from tests.billing.sepa.bank import Payment as Paid

    moves = [
        Movement(money, [Paid(money, f"Invoice {one.label}")], f"B{one.number}")
        for one in Invoice.objects.filter(id__in=[one.id for one in invoices], state="final")
        if one.due and (money := f"{one.due // 100}.{one.due % 100:02}")
    ]
    statements.read(document(moves), actor=audit.SYSTEM, now=PAID)
    unpaid = Invoice.objects.filter(period_start=START, state="final", due__gt=0).count()
    told.must(unpaid == 0, f"{unpaid} invoices are not paid")
    total = sum(Decimal(one.amount) for one in moves)
    return f"{len(moves)} transfers of {total:,.2f} EUR matched"


def reconcile(told: Told) -> str:
    from django.db import connection

    from billing.books import reconciliation

    made = reconciliation.run(PAID + timedelta(hours=1), since=START - timedelta(days=30))
    told.must(not made.findings, f"the books differ: {made.findings[:2]}")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.currency, a.scale, sum(e.amount) FROM billing_ledgerentry e"
            " JOIN billing_ledgeraccount a ON a.id = e.account_id GROUP BY 1, 2"
        )
        told.must(all(total == 0 for *_, total in cursor.fetchall()), "the ledger has a side more")
    return ", ".join(f"{name} {count}" for name, count in made.checked.items())


if __name__ == "__main__":
    sys.exit(main())
