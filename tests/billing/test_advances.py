"""Top-ups: decided once, with an advance invoice where all is known; held where it is not."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import errors
from billing.books import chart, ledger, reconciliation
from billing.credit import advances, credits
from billing.einvoice import canonical, rules, validate
from billing.einvoice import credit as einvoice_credit
from billing.invoices import archive, crediting, invoicing
from billing.invoices import datasets as invoice_datasets
from billing.models import (
    Account,
    CreditGrant,
    CreditUse,
    Entity,
    Invoice,
    InvoiceFile,
    Payment,
    TopUpDecision,
)
from billing.payments import receipts
from compliance import audit
from compliance.models import AuditEvent
from tests.billing import invoices
from tests.billing.dying import Killed, dying
from tests.billing.einvoice import samples
from tests.billing.events import MONTH, NOW
from tests.billing.invoices import END, NEXT, answers, served
from tests.billing.test_invoicing import AUSTRIAN, GERMAN, OPS, SWISS

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
LATER = NOW + timedelta(hours=2)


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Schematron compiles for a second in each process; it judges in one test here."""
    monkeypatch.setattr(validate, "schematron", lambda xml: [])
    yield


def top_up(account: Account, entity: Entity, cents: int = 10_000, key: str = "k") -> Payment:
    return receipts.receive(
        key=key, entity_id=entity.id, account_id=account.id, amount=cents, currency="EUR",
        method="transfer", received_at=NOW, now=NOW, actor=OPS,
    )  # fmt: skip


def back(payment: Payment, cents: int, reason: str = "refund") -> None:
    receipts.give_back(
        key=f"back:{payment.id}:{cents}", payment_id=payment.id, amount=cents, reason=reason,
        now=LATER, actor=OPS,
    )  # fmt: skip


def cents(code: str) -> int:
    return int(ledger.balance(code) * 100)


def agree() -> None:
    """Credit, receivables and VAT of the books are those of the documents."""
    made = reconciliation.run(NEXT)
    found = [one for one in made.findings if one["check"] not in ("bank", "accruals")]
    assert found == []
    told = sum(
        -one.vat if one.kind == "credit_note" else one.vat
        for one in Invoice.objects.exclude(state="draft")
    )
    deducted = sum(use.tax for grant in CreditGrant.objects.all() for use in grant.uses.filter(
        kind="apply"))  # fmt: skip
    assert -cents("vat:DE:19") == told - deducted


@pytest.mark.parametrize(
    ("where", "category", "net", "vat"),
    [(GERMAN, "S", 8403, 1597), (AUSTRIAN, "AE", 10_000, 0), (SWISS, "O", 10_000, 0)],
)
def test_a_top_up_has_its_advance_invoice_and_the_month_deducts_it(
    account: Account, entity: Entity, where: dict[str, Any], category: str, net: int, vat: int
) -> None:
    invoices.customer(account, entity, **where)
    top_up(account, entity)
    assert advances.tend(NOW, ask=answers(checked_at=NOW)) == {"advance_invoice": 1}
    assert advances.tend(LATER, ask=answers()) == {}
    row, made = TopUpDecision.objects.get(), Invoice.objects.get()
    assert (row.treatment, row.due_on) == ("advance_invoice", date(2026, 4, 15))
    assert row.decision["decision"]["category"] == category
    assert (made.kind, made.state, made.label) == ("advance", "paid", "ADV-2026-000001")
    assert (made.net, made.vat, made.prepaid, made.due) == (net, vat, net + vat, 0)
    files = {one.form: bytes(one.content) for one in InvoiceFile.objects.filter(invoice=made)}
    assert set(files) == {"json", "cii", "pdf", "decision"}
    assert [one.name for one in canonical.loads(files["json"]).lines] == [
        "Payment on account for computing services",
        "Egress traffic",
    ]
    event = AuditEvent.objects.get(action="invoice.advance")
    assert made.pdf_sha256 in bytes(event.body).decode()
    assert cents(chart.prepaid(account.id)) == -net and -cents("vat:DE:19") == vat

    served(account, seconds_=3_600_000)  # 120.00 net
    drafted = invoicing.draft(account.id, MONTH, NEXT, ask=answers())
    assert drafted is not None
    month = invoicing.finalise(drafted.id, OPS, NEXT, ask=answers())
    assert month is not None and month.advances == [made.id]
    assert (month.prepaid, month.due) == (10_000, month.gross - 10_000)
    document = canonical.loads(bytes(InvoiceFile.objects.get(invoice=month, form="json").content))
    assert [one.number for one in document.preceding] == [made.label]
    agree()
    listed = invoice_datasets.statement(account.id, MONTH, END + timedelta(days=9))
    values = [Decimal("100.00"), Decimal("20.00")] if category == "AE" else []
    assert [one[3] for one in listed] == values


@pytest.mark.usefixtures("unjudged")
def test_what_is_not_proved_waits_and_keeps_no_other(
    account: Account, entity: Entity, monkeypatch: pytest.MonkeyPatch
) -> None:
    top_up(account, entity)
    other = Account.objects.create(name="Other", currency="EUR", created_at=MONTH)
    invoices.customer(other, entity)
    top_up(other, entity, key="other")
    credits.give(account.id, 500, key="gift", actor=OPS, now=NOW)
    assert advances.tend(NOW) == {"held": 1, "advance_invoice": 1}
    row = TopUpDecision.objects.get(grant__account=account)
    assert (row.held_reason, row.treatment) == ("profile_missing", "")
    invoices.customer(account, entity, **AUSTRIAN)
    down = answers("unavailable")
    assert advances.tend(NOW + timedelta(minutes=5), ask=down) == {}  # not yet again
    assert advances.tend(LATER, ask=down) == {"held": 1}

    def broken(*asked: object) -> Any:
        raise RuntimeError("a bug")

    assert advances.tend(LATER + timedelta(hours=1), ask=broken) == {"failed": 1}
    row.refresh_from_db()
    assert row.held_reason.startswith("vies_") and Invoice.objects.count() == 1
    late = LATER + timedelta(hours=2)
    assert advances.tend(late, ask=answers(checked_at=late)) == {"advance_invoice": 1}
    assert AuditEvent.objects.filter(action="credit.hold").count() == 2
    assert AuditEvent.objects.filter(action="credit.decide").count() == 2
    with pytest.raises(errors.CreditRefused, match="bought"):
        advances.decide(CreditGrant.objects.get(key="gift").id, NOW)
    for attack in ("UPDATE billing_topupdecision SET because = 'x'",
                   "DELETE FROM billing_topupdecision"):  # fmt: skip
        with pytest.raises(DatabaseError, match="refused"), transaction.atomic():
            connection.cursor().execute(attack)


@pytest.mark.usefixtures("unjudged")
def test_what_was_used_before_stays_taxed_when_used(account: Account, entity: Entity) -> None:
    invoices.customer(account, entity)
    top_up(account, entity)
    credits.use_bought(account.id, invoice_id="inv_1", gross=5, at=NOW, now=NOW)
    assert advances.tend(NOW) == {"multi_purpose_credit": 1}
    assert not Invoice.objects.exists()


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("reason", ["refund", "return"])
def test_taxed_credit_goes_back_whole_with_a_credit_note(
    account: Account, entity: Entity, reason: str
) -> None:
    invoices.customer(account, entity)
    payment = top_up(account, entity)
    advances.tend(NOW)
    made = Invoice.objects.get()
    with pytest.raises(errors.InvoiceRefused, match="given back"):
        crediting.credit(made.id, "why", OPS, NOW)
    back(payment, 10_000, reason)
    note = Invoice.objects.get(kind="credit_note")
    assert (note.corrects_id, note.gross, note.label) == (made.id, 10_000, "CRN-2026-000001")
    made.refresh_from_db()
    assert (made.state, note.state) == ("credited", "paid")
    assert cents("vat:DE:19") == cents(chart.prepaid(account.id)) == 0
    agree()


@pytest.mark.parametrize(("where", "rate"), [(GERMAN, 19), (AUSTRIAN, 0)])
def test_taxed_credit_goes_back_in_parts_each_with_a_credit_note(
    account: Account, entity: Entity, where: dict[str, Any], rate: int
) -> None:
    """Refunds, a bank's return and a month's use together take back what the invoice stated."""
    invoices.customer(account, entity, **where)
    payment = top_up(account, entity, 9_999)
    advances.tend(NOW, ask=answers(checked_at=NOW))
    made = Invoice.objects.get()
    for _ in range(2):
        back(payment, 3333)
    served(account, seconds_=60_000)  # 2.00 net
    drafted = invoicing.draft(account.id, MONTH, NEXT, ask=answers())
    assert drafted is not None
    month = invoicing.finalise(drafted.id, OPS, NEXT, ask=answers())
    assert month is not None and month.advances == [made.id]
    with pytest.raises(errors.PaymentRefused, match="used"):  # and nothing is numbered for it
        back(payment, 9_999 - 3333)
    rest = 9_999 - 3333 - month.prepaid
    back(payment, 1, "return")
    made.refresh_from_db()
    assert made.state == "paid"
    back(payment, rest - 1)
    notes = list(Invoice.objects.filter(kind="credit_note").order_by("number"))
    assert [one.number for one in notes] == list(range(1, len(notes) + 1))
    assert {one.corrects_id for one in notes} == {made.id} and len(
        {one.source for one in notes}
    ) == 3
    tax = sum(use.tax for use in CreditUse.objects.filter(kind="apply"))
    assert sum(one.vat for one in notes) == made.vat - tax
    assert sum(one.gross for one in notes) + month.prepaid == made.gross
    assert notes[0].gross == 3333 and abs(notes[0].vat - round(3333 * rate / (100 + rate))) <= 1
    for note in notes:
        files = {one.form: bytes(one.content) for one in note.files.all()}
        assert set(files) == {"json", "cii", "pdf", "decision"}
        document = canonical.loads(files["json"])
        assert [one.number for one in document.preceding] == [made.label]
        assert (document.totals.gross, document.reason) == (
            Decimal(note.gross).scaleb(-2),
            "The payment on account was given back in part",
        )
    assert AuditEvent.objects.filter(action="invoice.credit").count() == 3
    assert cents(chart.prepaid(account.id)) == 0
    agree()


@given(
    st.integers(2, 10**7),
    st.sampled_from(["0", "17", "19", "25.5", "27"]),
    st.sets(st.integers(1, 10**5), max_size=6),
)
def test_parts_come_to_the_whole_and_each_is_a_document(
    amount: int, rate: str, cuts: set[int]
) -> None:
    percent = Decimal(rate)
    net = advances.net_of(amount, percent)
    line = samples.hours(1, 3600, str(Decimal(net).scaleb(-2)), rate, "S" if percent else "E")
    invoice = samples.invoice(line, samples.egress(2, rate, line.category))
    gross, vat = int(invoice.totals.gross * 100), int(invoice.totals.vat * 100)
    grant = CreditGrant(amount=amount, tax=vat)
    whole = einvoice_credit.whole(invoice, "CRN-1", date(2026, 4, 1), "why")
    before, sums = 0, [0, 0]
    for cut in sorted({*cuts, amount}):
        if cut > amount:
            break
        tax = credits.share(grant, cut) - credits.share(grant, before)
        stated = min(cut, gross) - min(before, gross)
        assert 0 <= tax <= stated <= cut - before
        assert abs(tax - Decimal(vat * (cut - before)) / amount) < 1
        note = einvoice_credit.part(
            whole, *(Decimal(one).scaleb(-2) for one in (stated - tax, tax))
        )
        assert rules.discrepancies(note) == []
        before, sums = cut, [sums[0] + stated - tax, sums[1] + tax]
    assert sums == [net, vat]


@pytest.mark.usefixtures("unjudged")
@pytest.mark.django_db(transaction=True)
def test_killed_anywhere_it_waits_or_is_done(account: Account, entity: Entity) -> None:
    invoices.customer(account, entity)
    top_up(account, entity)
    deaths, moment = 0, NOW
    while True:
        try:
            with dying(2 * deaths + 1):
                advances.tend(moment)
        except Killed:
            deaths += 1
            assert connection.connection is not None
            connection.connection.close()  # not back to the pool: it died
            connection.close()
            rows = TopUpDecision.objects.filter(decided_at__isnull=False)
            assert not rows.exists() and not Invoice.objects.exists()
            assert cents("vat:DE:19") == 0
        else:
            break
    assert deaths > 15
    made = Invoice.objects.get()
    assert (made.number, made.state, cents("vat:DE:19")) == (1, "paid", -1597)
    assert AuditEvent.objects.filter(action="invoice.advance").count() == 1


@given(st.integers(1, 10**8), st.sampled_from(["0", "17", "19", "21", "25.5", "27"]))
def test_a_net_amount_comes_to_what_was_paid_to_the_cent(gross: int, rate: str) -> None:
    net = advances.net_of(gross, Decimal(rate))
    tax = (net * Decimal(rate) / 100).quantize(Decimal(1), ROUND_HALF_UP)
    assert gross - 1 <= net + tax <= gross


def test_files_are_destroyed_when_their_time_is_over(account: Account, entity: Entity) -> None:
    old = invoices.freeze(invoices.draft(account, entity))
    day = datetime(2037, 1, 1, tzinfo=UTC)
    assert archive.due(day - timedelta(days=1)) == []
    (one,) = archive.due(day)
    assert (one.invoice_id, one.forms) == (old.id, ("cii", "json", "pdf"))
    # The database looks at its own clock: whatever ours says, it is too early.
    with pytest.raises(DatabaseError, match="kept until"), transaction.atomic():
        archive.destroy(old.id, actor=audit.SYSTEM, now=day)
    content = b"of 2010"
    digest = hashlib.sha256(content).hexdigest()
    InvoiceFile.objects.create(
        invoice=old, form="ubl", content=content, sha256=digest,
        keep_until=date(2020, 12, 31), created_at=MONTH,
    )  # fmt: skip
    call_command("billing", "archive", "--due", stdout=(out := StringIO()))
    assert f"2020-12-31  {old.label}  ubl  7 bytes" in out.getvalue()
    assert InvoiceFile.objects.count() == 4
    call_command("billing", "archive", "--due", "--destroy", stdout=StringIO())
    assert archive.destroy(old.id, actor=audit.SYSTEM, now=NOW) == 0
    assert archive.due(NOW) == [] and InvoiceFile.objects.count() == 3
    event = AuditEvent.objects.get(action="archive.destroy")
    assert digest in bytes(event.body).decode()
