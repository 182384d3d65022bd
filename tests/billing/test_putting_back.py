"""A drill: invoices that a restored backup does not know are put back, as they were issued."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from billing import errors
from billing.books import chart, ledger, reconciliation
from billing.credit import credits
from billing.einvoice import canonical, cii, facturx, validate
from billing.invoices import bundle, evidence, invoicing, numbering, putting_back
from billing.invoices.putting_back import Archived
from billing.models import Account, Entity, Invoice, InvoiceFile, NumberSeries
from billing.payments import receipts
from compliance import tombstones
from compliance.models import AuditEvent, Tombstone
from tests.billing import invoices
from tests.billing.events import MONTH, NOW
from tests.billing.invoices import END, NEXT, served
from tests.billing.test_invoicing import GERMAN, OPS

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
LATER = NEXT + timedelta(days=2)


@pytest.fixture(autouse=True)
def unjudged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Schematron compiles for a second in each process; it judges in other tests."""
    monkeypatch.setattr(validate, "schematron", lambda xml: [])
    yield


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@dataclass
class Issued:
    """What is left of an invoice outside of the database that lost it."""

    row: Invoice
    files: dict[str, bytes]
    evidence: bytes
    stone: Tombstone


def issue_and_lose(account: Account, *, lost_seconds: int = 0) -> Issued:
    """Issues the month's invoice after a backup, and restores that."""
    backup = transaction.savepoint()
    if lost_seconds:
        served(account, seconds_=lost_seconds, id="lost")
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    made = invoicing.finalise(drafted.id, OPS, NEXT)
    assert made is not None and made.state != "draft", made
    files = {one.form: bytes(one.content) for one in InvoiceFile.objects.filter(invoice=made)}
    bundle.write(evidence.Stored(made), (file := BytesIO()))
    issued = Issued(made, files, file.getvalue(), Tombstone.objects.get(target_id=made.id))
    transaction.savepoint_rollback(backup)
    assert not Invoice.objects.filter(pk=made.pk).exclude(state="draft").exists()
    tombstones.replay([issued.stone], LATER)
    return issued


def agree() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")
    found = reconciliation.run(LATER).findings
    assert [one for one in found if one["check"] not in ("bank", "accruals")] == []


def given_credit(account: Account, entity: Entity) -> None:
    credits.give(account.id, 500, key="gift", actor=OPS, now=NOW)
    receipts.receive(
        key="k", entity_id=entity.id, account_id=account.id, amount=1000, currency="EUR",
        method="transfer", received_at=NOW, now=NOW, actor=OPS,
    )  # fmt: skip


def back(kept: Archived, account_id: str = "") -> Invoice:
    return putting_back.put_back(kept, actor=OPS, now=LATER, account_id=account_id)


def test_the_frozen_json_alone_puts_it_back_as_it_was(
    account: Account, entity: Entity, tmp_path: Path
) -> None:
    invoices.customer(account, entity, **GERMAN)
    given_credit(account, entity)
    served(account, seconds_=3_600_000)  # 120.00 net
    issued = issue_and_lose(account)
    (path := tmp_path / "INV-2026-000001.json").write_bytes(issued.files["json"])
    call_command("billing", "put-back", str(path), stdout=(out := StringIO()))
    assert "INV-2026-000001: final, 136.85 EUR" in out.getvalue()
    made = Invoice.objects.get(pk=issued.row.pk)
    kept = ("label", "number", "net", "vat", "gross", "prepaid", "due", "issued_on", "due_on")
    more = ("json_sha256", "xml_sha256", "pdf_sha256", "period_start", "accrued", "final_at")
    for name in (*kept, *more):
        assert getattr(made, name) == getattr(issued.row, name), name
    stored = {one.form: bytes(one.content) for one in InvoiceFile.objects.filter(invoice=made)}
    assert [stored[form] for form in ("json", "cii", "pdf")] == [
        issued.files[form] for form in ("json", "cii", "pdf")
    ]
    assert ledger.balance(chart.receivable(account.id)) * 100 == made.due
    assert ledger.balance(chart.unbilled(account.id)) == 0
    assert credits.balance(account.id, LATER).total == 0
    assert AuditEvent.objects.filter(action="invoice.put_back").count() == 1
    agree()
    # Again changes nothing; no number is drawn twice, and the next one is of the next series.
    assert back(Archived(issued.files["json"])) == made
    assert Invoice.objects.exclude(state="draft").count() == 1
    assert numbering.current(entity.id, "INV", 2026) == "INVA"
    assert NumberSeries.objects.get(series="INV").last == 1
    assert invoicing.draft(account.id, MONTH, LATER) == made  # the month is not billed again


def test_usage_that_was_lost_takes_the_evidence(
    account: Account, entity: Entity, tmp_path: Path
) -> None:
    invoices.customer(account, entity, **GERMAN)
    served(account, seconds_=3_600_000)
    issued = issue_and_lose(account, lost_seconds=36_000)
    with pytest.raises(errors.InvoiceRefused, match="evidence"):
        back(Archived(issued.files["json"]))
    assert not Invoice.objects.exclude(state="draft").exists()
    (path := tmp_path / "evidence.zip").write_bytes(issued.evidence)
    call_command("billing", "put-back", str(path), stdout=StringIO())
    made = Invoice.objects.get()
    assert (made.id, made.net, made.state) == (issued.row.id, 12_120, "final")
    assert ledger.balance("revenue:corrections") * 100 == -120
    agree()
    # The usage comes after all: it was billed, and is billed to nobody again.
    served(account, seconds_=36_000, id="lost")
    drafted = invoicing.draft(account.id, END, END + timedelta(days=40))
    assert drafted is None or drafted.net == 0


def test_what_is_not_what_was_issued_is_refused(account: Account, entity: Entity) -> None:
    invoices.customer(account, entity, **GERMAN)
    given_credit(account, entity)
    served(account, seconds_=3_600_000)
    issued = issue_and_lose(account)
    files = issued.files
    document = canonical.loads(files["json"])
    other = replace(document, notes=("changed",))
    attacks = [
        (Archived(b"{}"), "no frozen document"),
        (Archived(canonical.dumps(other)), "another SHA-256"),
        (Archived(files["json"], cii=b"<x/>"), "XML does not say"),
        (Archived(files["json"], pdf=b"%PDF-1.7"), "PDF cannot be read|another invoice"),
        (Archived(files["json"], pdf=facturx.render(document, cii.write(document), NOW)),
         "pdf is not what was issued"),
        (Archived(files["json"], account_id="acc_x"), "say whose"),
        (Archived(canonical.dumps(replace(document, number="CRN-2026-000001"))), "of a month"),
        (Archived(canonical.dumps(replace(document, number="INV-2026-000002"))), "PDF is needed"),
    ]  # fmt: skip
    for kept, words in attacks:
        with pytest.raises(errors.InvoiceRefused, match=words):
            back(kept)
    second = replace(document, number="INV-2026-000002")
    pdf = facturx.render(second, cii.write(second), NOW)
    with pytest.raises(errors.InvoiceRefused, match="INV-2026-000001 comes before it"):
        back(Archived(canonical.dumps(second), pdf=pdf))
    gone = transaction.savepoint()
    credits.use_bought(account.id, invoice_id="inv_1", gross=1, at=NOW, now=NOW)
    with pytest.raises(errors.InvoiceRefused, match="book the payments first"):
        back(Archived(files["json"]))
    transaction.savepoint_rollback(gone)
    assert not Invoice.objects.exclude(state="draft").exists()
    assert ledger.balance(chart.receivable(account.id)) == 0
    assert back(Archived(files["json"], decision=files["decision"])).label == "INV-2026-000001"
    agree()
