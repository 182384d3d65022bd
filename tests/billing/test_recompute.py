"""Invoices computed again: out of the database, and from their evidence alone, by anybody."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction

from billing.einvoice import canonical, document
from billing.invoices import bundle, evidence, numbering, recompute
from billing.invoices.bundle import Bundle, Unreadable
from billing.invoices.evidence import Stored
from billing.meters import cutoff, usage
from billing.models import Account, Invoice, InvoiceFile, InvoiceLine
from billing.pricing import agreements, charges, prices
from billing.pricing.charges import Charge
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit
from compliance.log import signing
from tests.billing import invoices
from tests.billing.einvoice import samples
from tests.billing.events import MONTH, NOW, minutes, publish, seconds, tokens
from tests.signers import running

APRIL = invoices.END
MAY = datetime(2026, 5, 1, tzinfo=MONTH.tzinfo)
HOUR = timedelta(hours=1)
STOA = Path(sys.executable).with_name("stoa")
_SAME = (
    *("kind", "project_id", "endpoint_id", "meter", "device_kind", "share", "price_id"),
    *("unit_amount", "unit_size", "quantity", "start", "end", "note"),
)


def month(account: Account, start: datetime, end: datetime) -> list[Charge]:
    """What it comes to now."""
    draft = Stored(Invoice(account=account, kind="invoice", period_start=start, period_end=end))
    found = charges.Month(
        prices.versions("EUR", account.id),
        account_id=account.id,
        currency="EUR",
        start=start,
        end=end,
    )
    for event in draft.events(start):
        found.add(recompute.used(event))
    return found.lines(agreements.of(account.id))


def egress(start: datetime, end: datetime) -> Charge:
    nothing = Decimal("0.00")
    zero = Fraction(0)
    return Charge("egress", "", "", "", "", 1000, "", nothing, 1, 0, zero, nothing, start, end)


def issue(
    account: Account,
    start: datetime,
    end: datetime,
    late: Callable[[], list[Charge]] = list,
) -> Invoice:
    """Drawn from what is known, and final. Its document is a real one, its PDF and XML not."""
    known = account.invoices.first()
    entity = known.entity if known else invoices.entity()
    with transaction.atomic():
        with cutoff.taken() as upto:
            lines = [*month(account, start, end), *late(), egress(start, end)]
        net = int(charges.total(lines) * 100)
        made = Invoice.objects.create(
            account=account, entity=entity, kind="invoice", series="INV", currency="EUR",
            period_start=start, period_end=end, drafted_at=end, usage_upto=upto,
            net=net, gross=net, due=net,
        )  # fmt: skip
        for position, line in enumerate(lines, 1):
            InvoiceLine.objects.create(
                invoice=made,
                position=position,
                exact=str(line.exact),
                amount=int(line.amount * 100),
                **{name: getattr(line, name) for name in _SAME},
            )
        made.number = numbering.draw(entity.id, "INV", end.year)
        made.label = numbering.label("INV", end.year, made.number)
        contents = {"json": said(lines, made.label), "cii": b"xml", "pdf": b"pdf"}
        sums = {form: hashlib.sha256(content).hexdigest() for form, content in contents.items()}
        made.year, made.issued_on, made.due_on = end.year, end.date(), end.date()
        made.state, made.final_at = "final", end
        made.json_sha256, made.xml_sha256, made.pdf_sha256 = sums.values()
        made.save()
        for form, content in contents.items():
            InvoiceFile.objects.create(
                invoice=made, form=form, content=content, sha256=sums[form],
                keep_until=date(2036, 12, 31), created_at=end,
            )  # fmt: skip
    return made


def said(lines: list[Charge], label: str) -> bytes:
    written = samples.invoice(
        *(
            document.Line(
                str(number), line.kind, line.quantity, "SEC", line.unit_amount, line.unit_size,
                line.amount, "S", Decimal(19),
            )
            for number, line in enumerate(lines, 1)
        )
    )  # fmt: skip
    return canonical.dumps(replace(written, number=label))


@pytest.fixture
def march(account: Account) -> Invoice:
    """Its own price from mid-hour on, a free quarter of an hour, a tier, a credit, a minimum."""
    publish("2.4901", MONTH)
    publish("1.07", NOW + HOUR / 2, NOW, account_id=account.id)
    for term in (
        Allowance("", MONTH, "device_seconds", "cpu", 900, note="free"),
        Commitment("", MONTH, Decimal("12.50")),
        Tier("", MONTH, "device_seconds", 3600, 125),
    ):
        agreements.agree(actor=audit.SYSTEM, account_id=account.id, term=term, now=MONTH)
    usage.record(
        [
            *minutes(account, NOW, 180),
            *(seconds(account, NOW, 59, id=f"of {n}", share=n) for n in (333, 667)),
            seconds(account, NOW + HOUR, 61, id="given back", basis="credit"),
            seconds(account, NOW, 7, id="another", endpoint_id="ep_2"),
            tokens(account, "req_1"),
        ]
    )
    return issue(account, MONTH, APRIL)


@pytest.fixture
def april(march: Invoice) -> Invoice:
    """With what came late for March."""
    account = march.account
    usage.record(
        [
            seconds(account, NOW + 4 * HOUR, 3601, id="late"),
            seconds(account, APRIL, 30, id="in April"),
        ]
    )
    was = [line for line in Stored(march).billed() if line.kind != "egress"]

    def late() -> list[Charge]:
        return charges.adjustments(was, month(account, MONTH, APRIL), start=MONTH, end=APRIL)

    return issue(account, APRIL, MAY, late)


def test_it_comes_out_of_raw_usage_to_the_cent_and_knows_no_later_usage(april: Invoice) -> None:
    march = Invoice.objects.get(period_start=MONTH)
    found = recompute.recompute(Stored(march))
    assert found.agrees, recompute.text(found)
    assert {one.line.kind for one in found.lines} == {
        *("usage", "credit", "allowance", "tier", "commitment", "egress")
    }
    assert (found.events, found.billed) == (184, Decimal("12.50"))
    later = recompute.recompute(Stored(april))
    assert later.agrees, recompute.text(later)
    # The minimum of March was not reached before: late usage costs what it exceeds it by.
    late = [one.line for one in later.lines if one.line.kind == "adjustment"]
    whole = charges.total(month(march.account, MONTH, APRIL))
    assert len(late) >= 3
    assert charges.total(late) == whole - Decimal("12.50")


def test_what_an_invoice_did_not_know_is_what_it_differs_by(april: Invoice) -> None:
    """Without the number up to which usage counted, late usage shows."""
    march = Invoice.objects.get(period_start=MONTH)
    march.usage_upto = None
    found = recompute.recompute(Stored(march))
    assert not found.agrees
    assert found.recomputed - found.billed == charges.total(
        one for one in Stored(april).billed() if one.kind == "adjustment"
    )
    assert "does NOT agree" in recompute.text(found)


def test_commands_compute_write_and_refuse(march: Invoice, tmp_path: Path) -> None:
    file = tmp_path / "evidence.zip"
    out = StringIO()
    with pytest.raises(CommandError, match="no signer answers"):
        call_command("billing", "evidence", march.label, str(tmp_path / "unsigned.zip"))
    with running():
        call_command("billing", "evidence", march.label, str(file), stdout=out)
    assert str(file) in out.getvalue()
    with pytest.raises(CommandError, match="exists"):
        call_command("billing", "evidence", march.id, str(file))
    call_command("billing", "recompute", march.id, "--json")
    with pytest.raises(CommandError, match="no invoice"):
        call_command("billing", "recompute", "inv_nobody")


def alone(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As its customer: an empty directory, no settings, no database."""
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [STOA, "billing", "recompute", *arguments],
        cwd=folder,
        env={**bare, "DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_customer_computes_it_from_its_evidence_alone(april: Invoice, tmp_path: Path) -> None:
    with running(), (tmp_path / "evidence.zip").open("wb") as file:
        bundle.write(Stored(april), file, evidence.signature(april))
        key = signing.vkey()
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.move(tmp_path / "evidence.zip", empty)
    done = alone(empty, april.label, "--export", "evidence.zip", "--json")
    assert done.returncode == recompute.AGREES, done.stderr + done.stdout
    shown = json.loads(done.stdout)
    assert shown == recompute.as_json(recompute.recompute(Stored(april)))
    assert [path.name for path in empty.iterdir()] == ["evidence.zip"]
    assert alone(empty, "--export", "evidence.zip", "--vkey", key).returncode == recompute.AGREES
    # A cent more on one line, and honest sums around it.
    edit(empty / "evidence.zip", "billed.jsonl", cent, honest=True)
    done = alone(empty, "--export", "evidence.zip")
    assert done.returncode == recompute.DIFFERS
    assert done.stdout.count("DIFFERS") == 1
    assert "the document's lines are not those that were charged" in done.stdout
    assert "Traceback" not in done.stderr
    done = alone(empty, "--export", "evidence.zip", "--vkey", key)
    assert done.returncode == recompute.UNREADABLE
    assert "manifest.sig is no signature of this manifest" in done.stderr


def edit(path: Path, name: str, change: Callable[[bytes], bytes], *, honest: bool = False) -> None:
    """Another content of one file within; with `honest`, its sum is made to fit."""
    with zipfile.ZipFile(path) as archive:
        contents = {each: archive.read(each) for each in archive.namelist()}
    contents[name] = change(contents[name])
    if honest:
        manifest = json.loads(contents["manifest.json"])
        manifest["files"][name] = hashlib.sha256(contents[name]).hexdigest()
        contents["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in contents.items():
            archive.writestr(each, content)


def cent(lines: bytes) -> bytes:
    first, rest = lines.split(b"\n", 1)
    line = json.loads(first)
    line["amount"] = str(Decimal(line["amount"]) + Decimal("0.01"))
    return json.dumps(line).encode() + b"\n" + rest


def twice(lines: bytes) -> bytes:
    first, rest = lines.split(b"\n", 1)
    return first + b"\n" + first + b"\n" + rest


DAMAGE: tuple[tuple[str, Callable[[bytes], bytes], bool, str], ...] = (
    ("events/2026-03.jsonl", twice, True, "twice"),
    ("events/2026-03.jsonl", lambda old: old[:-40], True, "line 184"),
    ("events/2026-03.jsonl", lambda old: b"x" + old, True, "line 1"),
    ("events/2026-03.jsonl", lambda old: old + b"\n", False, "events/2026-03.jsonl"),
    ("prices.jsonl", lambda old: old.replace(b"2.49", b"2.48"), False, "SHA-256 differs"),
    ("terms.json", lambda old: b"{", True, "terms.json"),
    ("terms.json", lambda old: old + b" ", False, "SHA-256 differs"),
    ("invoice.json", lambda old: old + b" ", False, "SHA-256 differs"),
    ("manifest.json", lambda old: old.replace(b"evidence-1", b"evidence-9"), False, "format"),
    ("manifest.json", lambda old: old.replace(b"terms.json", b"termz.json"), False, "missing"),
    ("manifest.json", lambda old: b"[]", False, "no evidence"),
)


def test_damaged_evidence_is_said_and_never_agreed_with(
    march: Invoice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, path = tmp_path / "whole.zip", tmp_path / "evidence.zip"
    with whole.open("wb") as file:
        bundle.write(Stored(march), file)
    for name, change, honest, why in DAMAGE:
        shutil.copy(whole, path)
        edit(path, name, change, honest=honest)
        assert recompute.main(["--export", str(path)]) == recompute.UNREADABLE, why
        shown = capsys.readouterr()
        assert why in shown.err
        assert shown.out == ""


def test_what_is_no_evidence_is_refused(march: Invoice, tmp_path: Path) -> None:
    path = tmp_path / "notes.zip"
    path.write_bytes(b"PK no zip")
    with pytest.raises(Unreadable, match="no evidence"):
        Bundle(path)
    assert recompute.main(["--export", str(tmp_path / "nothing.zip")]) == recompute.UNREADABLE
    good = tmp_path / "good.zip"
    with good.open("wb") as file:
        bundle.write(Stored(march), file)
    assert recompute.main(["INV-2026-999", "--export", str(good)]) == recompute.UNREADABLE
    assert recompute.main([march.label, "--export", str(good)]) == recompute.AGREES
