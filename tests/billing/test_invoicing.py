"""From usage to an invoice that is numbered, frozen, posted and recorded, or held and says why."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.db import connection, transaction

from billing import errors
from billing.books import chart, ledger
from billing.einvoice import canonical, validate
from billing.invoices import (
    crediting,
    freezing,
    invoicing,
    numbering,
    profiles,
    recompute,
    treatment,
)
from billing.invoices.evidence import Stored
from billing.invoices.models import Form
from billing.meters import metering, usage
from billing.meters.models import FindingKind
from billing.models import Account, Customer, Entity, Invoice, InvoiceFile, LedgerEntry
from billing.vat.vies import ViesClient
from compliance import audit
from compliance.models import AuditEvent
from tests.billing import invoices
from tests.billing.events import MONTH, publish, seconds
from tests.billing.invoices import END, NEXT, answers, served
from tests.billing.vat import fake_vies

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
OPS = audit.Actor("user", "usr_ops")
GERMAN: dict[str, Any] = {}
AUSTRIAN = {"country": "AT", "city": "Wien", "postcode": "1010", "vat_id": "ATU13585627"}
SWISS = {
    "country": "CH",
    "city": "Zürich",
    "postcode": "8001",
    "proof": {"kind": "registry_extract", "reference": "CHE-1", "seen_on": "2026-01-01"},
}


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@pytest.fixture
def customer(account: Account, entity: Entity) -> Customer:
    return invoices.customer(account, entity)


def final(account: Account, now: datetime = NEXT, ask: treatment.Ask | None = None) -> Invoice:
    ask = ask or answers(checked_at=now)
    drafted = invoicing.draft(account.id, now - timedelta(days=28), now, ask=ask)
    assert drafted is not None
    made = invoicing.finalise(drafted.id, OPS, now, ask=ask)
    assert made is not None
    return made


def balances() -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in LedgerEntry.objects.select_related("account"):
        code = re.sub("acc_.*", "acc_X", entry.account.code)
        found[code] = found.get(code, 0) + entry.amount
    return {code: amount for code, amount in found.items() if amount}


@pytest.mark.parametrize(
    ("where", "category", "vat"), [(GERMAN, "S", 23), (AUSTRIAN, "AE", 0), (SWISS, "O", 0)]
)
def test_a_month_becomes_a_final_invoice(
    account: Account, entity: Entity, where: dict[str, Any], category: str, vat: int
) -> None:
    invoices.customer(account, entity, **where)
    served(account, seconds_=36_000)
    made = final(account)
    assert (made.state, made.label) == ("final", "INV-2026-000001")
    assert (made.net, made.vat, made.gross, made.due) == (120, vat, 120 + vat, 120 + vat)
    assert made.held_reason == "" and made.decision["category"] == category

    files = {one.form: bytes(one.content) for one in InvoiceFile.objects.filter(invoice=made)}
    assert set(files) == {"json", "cii", "pdf", "decision"}
    assert made.pdf_sha256 == hashlib.sha256(files["pdf"]).hexdigest()
    assert validate.schema(files["cii"]) == [] and files["pdf"].startswith(b"%PDF-1.7")
    document = canonical.loads(files["json"])
    assert [(line.quantity, line.price, line.base_quantity) for line in document.lines] == [
        (36_000, Decimal("0.12"), 3600),
        (0, Decimal("0.00"), 1),
    ]
    assert document.lines[-1].name == "Egress traffic"
    assert document.vat[0].category == category
    if category == "AE":
        assert b"WAPIAAAA1" in files["decision"]
        assert "Reverse charge" in document.vat[0].reason
        assert document.customer.vat_id == "ATU13585627"

    event = AuditEvent.objects.get(action="invoice.finalise")
    assert all(made_hash in bytes(event.body).decode() for made_hash in (
        made.json_sha256, made.xml_sha256, made.pdf_sha256
    ))  # fmt: skip
    assert balances() == {
        "receivable:acc_X": 120 + vat,
        "bridge:s2": -120,
        "bridge:s9": 120 * 10**7,
        "revenue:device_seconds": -120 * 10**7,
        **({"vat:DE:19": -vat} if vat else {}),
    }
    assert InvoiceFile.objects.get(invoice=made, form="pdf").keep_until.year == 2034


def test_it_is_made_once_however_often_it_is_asked_for(
    account: Account, customer: Customer
) -> None:
    served(account)
    made = final(account)
    before = balances()
    assert final(account).pk == made.pk
    assert invoicing.draft(account.id, MONTH, NEXT, ask=answers()) == made
    assert balances() == before and Invoice.objects.count() == 1


def test_a_month_without_usage_has_no_invoice(account: Account, customer: Customer) -> None:
    assert invoicing.draft(account.id, MONTH, NEXT) is None
    assert not Invoice.objects.exists()
    with pytest.raises(ValueError, match="is not over"):
        invoicing.draft(account.id, MONTH, END - timedelta(seconds=1))


def test_a_draft_follows_its_usage_until_the_grace_time_is_over(
    account: Account, customer: Customer
) -> None:
    served(account, seconds_=3600)
    early = END + timedelta(hours=1)
    drafted = invoicing.draft(account.id, MONTH, early)
    assert drafted is not None and (drafted.net, drafted.vat) == (12, 2)
    served(account, MONTH + timedelta(hours=5), 36_000)
    again = invoicing.draft(account.id, MONTH, early)
    assert again is not None and (again.pk, again.net) == (drafted.pk, 132)
    with pytest.raises(errors.InvoiceRefused, match="until 04 Apr 2026 00:00 UTC"):
        invoicing.finalise(drafted.id, OPS, early)


@pytest.mark.parametrize(
    ("where", "ask", "reason"),
    [
        (AUSTRIAN, answers("unavailable"), "vies_unavailable"),
        (AUSTRIAN, answers("rejected"), "vies_rejected"),
        (AUSTRIAN, answers("invalid"), "number_invalid"),
        (AUSTRIAN, answers(consultation_number=""), "consultation_missing"),
        ({**AUSTRIAN, "vat_id": ""}, answers(), "number_missing"),
        ({**SWISS, "proof": {}}, answers(), "business_status_unproven"),
    ],
)
def test_what_is_not_proved_is_held_and_not_guessed(
    account: Account, entity: Entity, where: dict[str, Any], ask: treatment.Ask, reason: str
) -> None:
    invoices.customer(account, entity, **where)
    served(account)
    held = final(account, ask=ask)
    assert (held.state, held.number) == ("draft", None)
    assert held.held_reason and held.held_because
    assert not InvoiceFile.objects.exists()
    assert "receivable:acc_X" not in balances()
    final(account, ask=ask)
    assert AuditEvent.objects.filter(action="invoice.hold").count() == 1


def test_vies_that_is_down_holds_it_and_its_return_cures_it(
    account: Account, entity: Entity
) -> None:
    invoices.customer(account, entity, **AUSTRIAN)
    served(account)
    state = fake_vies.State(down={"AT"})
    state.traders["ATU13585627"] = fake_vies.Trader("Ada's agents GmbH", "Wien")
    state.traders["DE136695976"] = fake_vies.Trader("Stoa", "Berlin")
    with fake_vies.serving(state) as url, httpx.Client(trust_env=False) as http:

        def ask(*question: Any) -> Any:
            return ViesClient(http, lambda: NEXT, url).check(*question)

        assert final(account, ask=ask).state == "draft"
        state.down.clear()
        made = final(account, ask=ask)
    assert made.state == "final" and made.held_reason == ""
    assert made.decision["inputs"]["evidence"]["vies"]["consultation_number"]


def test_a_number_that_stops_being_valid_between_draft_and_final_holds_it(
    account: Account, entity: Entity
) -> None:
    invoices.customer(account, entity, **AUSTRIAN)
    served(account)
    early = END + timedelta(hours=1)
    drafted = invoicing.draft(account.id, MONTH, early, ask=answers(checked_at=early))
    assert drafted is not None and drafted.decision["outcome"] == "decided"
    held = invoicing.finalise(drafted.id, OPS, NEXT, ask=answers("invalid"))
    assert held is not None
    assert (held.state, held.held_reason) == ("draft", "vat_number_no_longer_valid")

    # The cure: another number in the profile, for which the draft is decided anew.
    profiles.set_profile(account.id, {"vat_id": "ATU46983509"}, actor=OPS, now=NEXT)
    made = final(account)
    assert (made.state, made.decision["customer_number"]) == ("final", "ATU46983509")


def test_who_issues_and_who_owes_must_be_known(account: Account) -> None:
    served(account)
    with pytest.raises(errors.NotIssuable, match="nobody is set up"):
        invoicing.draft(account.id, MONTH, NEXT)
    profiles.entity(MONTH)
    assert final(account).held_reason == "entity_not_set"
    profiles.set_entity(
        {"name": "Stoa Compute GmbH", "vat_id": "DE136695976", "iban": "DE89370400440532013000"},
        actor=OPS,
        now=NEXT,
    )
    assert final(account).held_reason == "profile_missing"
    profiles.set_profile(
        account.id,
        {"legal_name": "Ada", "street": "Weg 1", "city": "Berlin", "country": "de"},
        actor=OPS,
        now=NEXT,
    )
    assert final(account).state == "final"


def test_one_issuer_of_record(account: Account, customer: Customer, entity: Entity) -> None:
    served(account)
    Entity.objects.update(invoice_issuer="stripe")
    assert final(account).held_reason == "other_issuer"


def test_another_currency_is_not_converted(account: Account, customer: Customer) -> None:
    Account.objects.update(currency="USD")
    account.refresh_from_db()
    publish("0.12", MONTH, currency="USD")
    usage.record([seconds(account, MONTH, 3600)])
    held = final(account)
    assert held.held_reason == "currency_mismatch" and "USD" in held.held_because


def test_usage_without_a_price_holds_it(account: Account, customer: Customer) -> None:
    served(account)
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    usage.record([seconds(account, MONTH, 60, id="x", device_kind="h100")])
    held = invoicing.finalise(drafted.id, OPS, NEXT)
    assert held is not None and held.held_reason == "unpriced"


def test_metering_that_nobody_can_explain_holds_it(account: Account, customer: Customer) -> None:
    served(account)
    whose = metering.Whose(account.id)
    hole = metering.Found(
        "unproved:1", FindingKind.UNPROVED, MONTH, "90 s", whose=whose, seconds=90, blocks=True
    )
    [found] = metering.find([hole], NEXT)
    held = final(account)
    assert (held.state, held.held_reason) == ("draft", "metering_unexplained")
    metering.explain(
        found.id, actor=OPS, reason="a disk was replaced", log=audit.PLATFORM, region="", now=NEXT
    )
    assert final(account).state == "final"


@pytest.mark.parametrize(
    ("month", "hours"),
    [
        (datetime(2026, 3, 1, tzinfo=UTC), 744),  # Berlin's clocks lose an hour in it
        (datetime(2026, 10, 1, tzinfo=UTC), 744),  # and win it back
    ],
)
def test_daylight_saving_neither_loses_nor_doubles_an_hour(
    account: Account, customer: Customer, month: datetime, hours: int
) -> None:
    start, end = invoicing.period(month + timedelta(days=20))
    usage.record(
        [
            seconds(account, start + timedelta(hours=hour), 3600, id=f"h{hour}")
            for hour in range(-2, hours + 2)
        ]
    )
    drafted = invoicing.draft(account.id, month, end + timedelta(hours=3))
    assert drafted is not None
    assert drafted.lines.get(kind="usage").quantity == hours * 3600


def test_late_usage_is_a_dated_adjustment_of_the_next_invoice(
    account: Account, customer: Customer
) -> None:
    served(account, seconds_=3600)
    first = final(account)
    served(account, MONTH + timedelta(days=3), 7200, id="late")
    april = END + timedelta(days=1)
    served(account, april, 36_000)
    may = NEXT + timedelta(days=30)
    second = final(account, now=may)
    lines = [(line.kind, line.quantity, line.amount, line.start.month, line.note)
             for line in second.lines.order_by("position")]  # fmt: skip
    assert lines == [
        ("usage", 36_000, 120, 4, ""),
        ("adjustment", 7200, 24, 3, "late usage of March 2026"),
        ("egress", 0, 0, 4, "Traffic is not charged for, whatever its volume"),
    ]
    first.refresh_from_db()
    assert first.net == 12 and second.net == 144
    found = balances()
    assert "unbilled:acc_X" not in found and "accrual_difference" not in found
    # Each comes out of what it knew when it was drawn.
    for invoice in (first, second):
        again = recompute.recompute(Stored(invoice))
        assert again.agrees, recompute.text(again)
    # Once: the month after has nothing of it.
    served(account, may, 36_000)
    assert final(account, now=may + timedelta(days=31)).net == 120


def test_a_month_that_is_held_is_drawn_anew_and_adjusts_nothing(
    account: Account, entity: Entity
) -> None:
    invoices.customer(account, entity, **AUSTRIAN)
    served(account)
    assert final(account, ask=answers("unavailable")).state == "draft"
    served(account, END + timedelta(days=1), 36_000)
    may = NEXT + timedelta(days=30)
    april = final(account, now=may)
    assert (april.net, april.label) == (120, "INV-2026-000001")
    march = invoicing.finalise(
        Invoice.objects.get(period_start=MONTH).id, OPS, may, ask=answers(checked_at=may)
    )
    assert march is not None and (march.state, march.net) == ("final", 12)
    found = balances()
    assert "unbilled:acc_X" not in found and "accrual_difference" not in found


def test_a_credit_note_nets_it_to_zero(account: Account, customer: Customer) -> None:
    served(account, seconds_=36_000)
    made = final(account)
    note = crediting.credit(made.id, "Billed to the wrong company", OPS, NEXT)
    assert crediting.credit(made.id, "Billed to the wrong company", OPS, NEXT) == note
    made.refresh_from_db()
    assert (made.state, note.label, note.state) == ("credited", "CRN-2026-000001", "paid")
    assert (note.gross, note.settled) == (143, 143)
    document = canonical.loads(freezing.content(note, Form.JSON))
    assert document.preceding[0].number == "INV-2026-000001"
    assert document.kind == "credit_note" and document.totals.vat == Decimal("0.23")
    assert balances() == {}

    # The month is not billed again by itself, and once more when asked for.
    assert invoicing.draft(account.id, MONTH, NEXT) == made
    again = invoicing.draft(account.id, MONTH, NEXT, again=True)
    assert again is not None and again.net == 120
    replacement = invoicing.finalise(again.id, OPS, NEXT)
    assert replacement is not None and replacement.label == "INV-2026-000002"
    found = balances()
    assert found["receivable:acc_X"] == 143 and "accrual_difference" not in found


def test_what_was_credited_comes_back_on_no_later_invoice(
    account: Account, customer: Customer
) -> None:
    served(account, seconds_=36_000)
    crediting.credit(final(account).id, "A gift", OPS, NEXT)
    served(account, END, 3600)
    assert final(account, now=NEXT + timedelta(days=30)).net == 12


def test_a_write_off_is_a_bad_debt_and_its_vat_is_owed_no_more(
    account: Account, customer: Customer
) -> None:
    served(account, seconds_=36_000)
    made = final(account)
    gone = crediting.write_off(made.id, "Insolvent", OPS, NEXT)
    assert gone.state == "written_off"
    crediting.write_off(made.id, "Insolvent", OPS, NEXT)
    found = balances()
    assert found["bad_debt"] == 120
    assert not {"receivable:acc_X", "vat:DE:19"} & set(found)
    with pytest.raises(errors.InvoiceRefused, match="cannot be credited"):
        crediting.credit(made.id, "x", OPS, NEXT)


@pytest.mark.parametrize("reason", ["", "  ", "a\x00b", "x" * 501])
def test_a_credit_note_says_why(account: Account, customer: Customer, reason: str) -> None:
    served(account)
    with pytest.raises(errors.InvoiceRefused, match="say why"):
        crediting.credit(final(account).id, reason, OPS, NEXT)


@pytest.mark.django_db(transaction=True)
def test_killed_between_any_two_statements_there_is_a_draft_or_the_whole_invoice(
    account: Account, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dies after each statement in turn; the next try finishes, without a hole."""
    served(account, seconds_=36_000)
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    monkeypatch.setattr(validate, "schematron", lambda xml: [])  # a second each time, else

    class Killed(BaseException):
        pass

    deaths = 0
    while True:
        left = deaths + 1

        def dying(execute: Callable[..., Any], *rest: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return execute(*rest)

        try:
            with connection.execute_wrapper(dying):
                invoicing.finalise(drafted.id, OPS, NEXT)
        except Killed:
            deaths += 1
            assert connection.connection is not None
            connection.connection.close()  # not back to the pool: it died
            connection.close()
            seen = Invoice.objects.get(pk=drafted.pk)
            assert (seen.state, seen.number) == ("draft", None)
            assert not InvoiceFile.objects.exists()
            assert ledger.balance(chart.receivable(account.id)) == 0
        else:
            break
    assert deaths > 15
    made = Invoice.objects.get(pk=drafted.pk)
    assert (made.state, made.number) == ("final", 1)
    assert ledger.balance(chart.receivable(account.id)) == Decimal("1.43")
    assert AuditEvent.objects.filter(action="invoice.finalise").count() == 1


def test_a_profile_that_changes_meanwhile_is_decided_again(
    account: Account, customer: Customer
) -> None:
    served(account)
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    profiles.set_profile(account.id, AUSTRIAN, actor=OPS, now=NEXT)
    asked: list[Any] = []

    def ask(*question: Any) -> Any:
        if not asked:
            Customer.objects.update(updated_at=NEXT + timedelta(seconds=1))
        asked.append(question)
        return answers()(*question)

    made = invoicing.finalise(drafted.id, OPS, NEXT, ask=ask)
    assert made is not None and made.state == "final" and len(asked) == 2


def test_a_number_that_another_took_is_set_anew(account: Account, customer: Customer) -> None:
    served(account)
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    with transaction.atomic():
        other = invoices.draft(account, customer.entity, period_start=END, period_end=NEXT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numbering, "expected", lambda *series: 1)
            invoices.freeze(other)
            made = invoicing.finalise(drafted.id, OPS, NEXT)
    assert made is not None and made.label == "INV-2026-000002"
    document = canonical.loads(freezing.content(made, Form.JSON))
    assert document.number == "INV-2026-000002"


def test_a_number_that_was_issued_and_lost_is_nobody_elses(
    account: Account, customer: Customer
) -> None:
    """As after a restore from a backup that is older than the last invoice."""
    served(account)
    lost = numbering.label("INV", NEXT.year, 2)
    for _ in range(2):
        numbering.leave_off(lost)
    made = final(account)
    assert made.label == f"INVA-{NEXT.year}-000001"
    assert numbering.current(customer.entity_id, "INV", NEXT.year) == "INVA"
    assert numbering.current(customer.entity_id, "INV", NEXT.year + 1) == "INV"
    assert numbering.current(customer.entity_id, "CRN", NEXT.year) == "CRN"
    numbering.leave_off(made.label)
    assert numbering.current(customer.entity_id, "INV", NEXT.year) == "INVB"
