"""An invoice computed again, to the cent, from raw usage, prices and terms. Pure: no Django.

`stoa billing recompute INVOICE --export FILE.zip` needs that file and nothing else: no account
with us, no network, no database, no settings. The customer runs the very code that billed.
"""

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from billing import months
from billing.einvoice import canonical
from billing.invoices.bundle import Bundle, Event, Source, Unreadable
from billing.meters import proving
from billing.pricing import charges
from billing.pricing.charges import CHARGE, CREDIT, Charge, Month, Used
from billing.pricing.terms import CurrencyMismatch, Terms
from billing.rating import PriceVersion, Unpriced
from compliance.bundles.stoa_verify import Usage, Vkey

AGREES, DIFFERS, UNREADABLE = 0, 1, 2
# No usage stands behind them: what they give is taken as stated, and neither may cost anything.
STATED = ("egress", "free_credit")


@dataclass(frozen=True)
class Compared:
    """One line: as it was billed, and as it comes out. None: only the other one has it."""

    billed: Charge | None
    recomputed: Charge | None

    @property
    def line(self) -> Charge:
        found = self.billed or self.recomputed
        assert found is not None
        return found

    @property
    def agrees(self) -> bool:
        one, other = self.billed, self.recomputed
        if one is None or other is None:
            return False
        return (one.quantity, one.amount) == (other.quantity, other.amount)


@dataclass
class Report:
    """`problems`: what else is wrong, in words."""

    source: Source
    lines: list[Compared] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    events: int = 0
    tally: proving.Tally = field(default_factory=proving.Tally)
    metering: proving.Metered = field(default_factory=proving.Metered)

    @property
    def billed(self) -> Decimal:
        return charges.total(one.billed for one in self.lines if one.billed)

    @property
    def recomputed(self) -> Decimal:
        return charges.total(one.recomputed for one in self.lines if one.recomputed)

    @property
    def agrees(self) -> bool:
        """To the cent, and nothing is billed that its nodes' records contradict."""
        fits = not self.problems and not self.metering.problems
        return fits and all(one.agrees for one in self.lines)


def recompute(source: Source, authorities: Sequence[proving.Authority] = ()) -> Report:
    """`authorities`: those that the customer trusts, instead of those that the evidence names.

    Raises `Unreadable` for evidence that is damaged.
    """
    report = Report(source)
    billed, prices, terms = list(source.billed()), list(source.prices()), source.terms()
    head = source.head
    try:
        expected = _month(report, head.start, prices, terms)
        for month in source.adjusted():
            now = _month(report, month, prices, terms)
            was = list(source.earlier(month))
            end = months.after(month)
            expected += charges.adjustments(was, now, start=month, end=end)
    except (Unpriced, CurrencyMismatch) as error:
        report.problems.append(str(error))
        expected = []
    report.lines = list(_pairs(billed, expected))
    _stated(report, billed)
    _document(report, billed)
    spans = {start: months.after(start) for start in (head.start, *source.adjusted())}
    trusted = list(authorities or source.authorities())
    report.metering = proving.check(
        report.tally, spans, source.batches(), source.certificates(), trusted
    )
    return report


def _month(
    report: Report, start: datetime, prices: Iterable[PriceVersion], terms: Terms
) -> list[Charge]:
    head = report.source.head
    month = Month(
        prices,
        account_id=head.account_id,
        currency=head.currency,
        start=start,
        end=months.after(start),
    )
    before = (datetime.min.replace(tzinfo=UTC), "")
    for event in report.source.events(start):
        place = (event.at, event.id)
        if place <= before:
            raise Unreadable(f"event {event.id} is there twice, or not in its place")
        before = place
        report.events += 1
        report.tally.add(start, event)
        if event.basis in (CHARGE, CREDIT):
            month.add(used(event))
    return month.lines(terms)


def used(event: Event) -> Used:
    return Used(
        event.project_id, event.endpoint_id, event.meter, event.device_kind, event.share,
        event.basis, event.at, event.quantity,
    )  # fmt: skip


def _pairs(billed: Iterable[Charge], expected: Iterable[Charge]) -> Iterator[Compared]:
    """In the order of the invoice; what only comes out of the computation is last."""
    found: defaultdict[tuple[Any, ...], list[Charge]] = defaultdict(list)
    for line in expected:
        found[_key(line)].append(line)
    for line in billed:
        if line.kind in STATED:
            yield Compared(line, line)
        else:
            same = found[_key(line)]
            yield Compared(line, same.pop(0) if same else None)
    for rest in found.values():
        yield from (Compared(None, line) for line in rest)


def _key(line: Charge) -> tuple[Any, ...]:
    place = line.kind, line.project_id, line.endpoint_id, line.meter, line.device_kind, line.share
    # A fixed line is of its amount; usage of so many units at one price.
    unit = line.unit_amount if line.meter else None
    return *place, line.price_id, unit, f"{line.start:%Y-%m}"


def _stated(report: Report, billed: Iterable[Charge]) -> None:
    for line in billed:
        if line.kind in STATED and line.amount > 0:
            report.problems.append(f"a line of {line.kind} costs {line.amount}")
        if line.kind == "egress" and line.amount:
            report.problems.append("traffic has a price")


def _document(report: Report, billed: Sequence[Charge]) -> None:
    """That the document which was issued says what was charged."""
    head, frozen = report.source.head, report.source.document()
    if not frozen:
        return
    if hashlib.sha256(frozen).hexdigest() != head.json_sha256:
        report.problems.append("the document is not the one whose SHA-256 was recorded")
    try:
        document = canonical.loads(frozen)
    except canonical.Unreadable as error:
        raise Unreadable(f"invoice.json: {error}") from error
    said = [(x.quantity, x.price, x.base_quantity, x.amount) for x in document.lines]
    meant = [(x.quantity, x.unit_amount, x.unit_size, x.amount) for x in billed]
    if said != meant:
        report.problems.append("the document's lines are not those that were charged")
    if document.totals.lines != charges.total(billed):
        report.problems.append(f"the document adds its lines up to {document.totals.lines}")
    if (document.number, document.currency) != (head.label, head.currency):
        report.problems.append(f"the document is {document.number} in {document.currency}")


# --- shown ------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Money is text; the exact amounts are fractions."""

    def shown(line: Charge | None) -> dict[str, Any] | None:
        if line is None:
            return None
        return {
            "quantity": line.quantity,
            "unit_amount": str(line.unit_amount),
            "unit_size": line.unit_size,
            "exact": str(Fraction(line.exact)),
            "amount": str(line.amount),
        }

    head = report.source.head
    return {
        "invoice": head.id,
        "label": head.label,
        "currency": head.currency,
        "events": report.events,
        "billed": str(report.billed),
        "recomputed": str(report.recomputed),
        "agrees": report.agrees,
        "problems": report.problems,
        "metering": proving.as_json(report.metering),
        "lines": [
            {
                "kind": one.line.kind,
                "project_id": one.line.project_id,
                "endpoint_id": one.line.endpoint_id,
                "meter": one.line.meter,
                "device_kind": one.line.device_kind,
                "share": one.line.share,
                "price_id": one.line.price_id,
                "billed": shown(one.billed),
                "recomputed": shown(one.recomputed),
                "agrees": one.agrees,
            }
            for one in report.lines
        ],
    }


def text(report: Report) -> str:
    head = report.source.head
    rows = [("line", "billed", "recomputed", "")]
    for one in report.lines:
        billed, again = (str(x.amount) if x else "-" for x in (one.billed, one.recomputed))
        rows.append((_named(one.line), billed, again, "" if one.agrees else "DIFFERS"))
    rows.append(("total", str(report.billed), str(report.recomputed), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{head.label or head.id}, {head.currency}, of {report.events:,} events"]
    for name, billed, again, verdict in rows:
        shown = f"{name:{widths[0]}}  {billed:>{widths[1]}}  {again:>{widths[2]}}  {verdict}"
        lines.append(shown.rstrip())
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    lines += proving.lines(report.metering)
    lines.append("It agrees, to the cent." if report.agrees else "It does NOT agree.")
    return "\n".join(lines)


def _named(line: Charge) -> str:
    share = "" if line.share == 1000 else f"{line.share}/1000"
    what = (line.kind, f"{line.start:%Y-%m}", line.endpoint_id, line.meter, line.device_kind, share)
    size = f"{line.quantity} x {line.unit_amount:f} / {line.unit_size}"
    return " ".join(filter(None, (*what, size)))


def show(report: Report, *, as_text: bool) -> int:
    """Print it; returns the exit code."""
    print(text(report) if as_text else json.dumps(as_json(report), indent=1))
    return AGREES if report.agrees else DIFFERS


def main(argv: Sequence[str]) -> int:
    """Offline: from a file alone."""
    parser = argparse.ArgumentParser(
        prog="stoa billing recompute", description="Compute an invoice again, from its evidence."
    )
    parser.add_argument("invoice", nargs="?", default="", help="its id or number, to be sure")
    parser.add_argument("--export", required=True, type=Path, metavar="FILE.zip")
    parser.add_argument("--vkey", action="append", default=[], help="the log's public key")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--authority", type=Path, metavar="FILE.pem", help="whom alone you trust to certify nodes"
    )
    asked = parser.parse_args(argv)
    try:
        trusted = (
            [proving.Authority("given", asked.authority.read_text())] if asked.authority else []
        )
        bundle = Bundle(asked.export, [Vkey.parse(key) for key in asked.vkey])
        if asked.invoice not in ("", bundle.head.id, bundle.head.label):
            raise Unreadable(f"this is the evidence of {bundle.head.label or bundle.head.id}")
        return show(recompute(bundle, trusted), as_text=not asked.json)
    except (Unreadable, Usage, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
