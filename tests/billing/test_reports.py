"""A month that was invoiced: the operator's margin and FOCUS come to what the invoices say."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from billing import services
from billing.credit import credits
from billing.einvoice import validate
from billing.invoices import crediting, month_end
from billing.meters import usage
from billing.models import Account, Invoice
from billing.pricing import agreements
from billing.pricing.terms import Allowance, Commitment, Tier
from billing.reports import cost_export, focus, sales
from compliance import audit
from tests.billing import invoices
from tests.billing.events import MONTH, NOW, seconds
from tests.billing.invoices import END, NEXT, answers

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]
NAMES = focus.Names({}, {}, {})
TERMS: tuple[tuple[Allowance | Commitment | Tier, ...], ...] = (
    (),
    (Allowance("", MONTH, "device_seconds", "cpu", 7201),),
    (Commitment("", MONTH, Decimal("9.99")),),
    (Tier("", MONTH, "device_seconds", 3600, 125), Allowance("", MONTH, amount=Decimal("0.10"))),
)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> list[Account]:
    """One without terms, one of each kind of term, and one with credit given as well; each used
    10 hours and a second of two projects and some tokens, of which a minute was given back."""
    monkeypatch.setattr(validate, "schematron", lambda xml: [])
    entity, made = invoices.entity(), []
    for number, terms in enumerate((*TERMS, ())):
        account = services.open_account(name=f"a{number}", now=MONTH)
        invoices.customer(account, entity)
        for term in terms:
            agreements.agree(actor=audit.SYSTEM, account_id=account.id, term=term, now=MONTH)
        use(account, number)
        made.append(account)
    credits.give(made[-1].id, 33, key="g", actor=audit.SYSTEM, now=MONTH)
    return made


def use(account: Account, number: int) -> None:
    tokens = {"meter": "output_tokens", "device_kind": ""}
    usage.record(
        [
            seconds(account, NOW, 36_001, id=f"u{number}"),
            seconds(account, NOW, 1777, id=f"v{number}", project_id="prj_2"),
            seconds(account, NOW, 60, id=f"c{number}", basis="credit"),
            seconds(account, NOW, 1_234_567, id=f"t{number}", **tokens),
        ]
    )
    invoices.accrue(account, NOW)


def revenue() -> Fraction:
    return sum((one.revenue for one in sales.of(MONTH, END)), Fraction(0))


def net() -> Fraction:
    final = Invoice.objects.filter(kind="invoice", period_start=MONTH)
    return Fraction(sum(final.exclude(state="credited").values_list("net", flat=True)), 100)


def test_the_revenue_of_a_closed_month_is_what_was_invoiced_net(accounts: list[Account]) -> None:
    before = revenue()
    closed = month_end.close_month(MONTH, NEXT, ask=answers())
    assert closed.outcomes == {"final": len(accounts)}
    assert revenue() == net() > 0
    # Drawn as an invoice would be; those without terms are not rounded to lines yet.
    assert abs(before - net() - Fraction(33, 100)) < Fraction(3, 100)
    by_kind = {one.device_kind: one for one in sales.of(MONTH, END)}
    assert by_kind["cpu"].seconds == len(accounts) * (36_001 + 1777 - 60)
    assert by_kind["cpu"].given_back == Fraction(12, 100) / 60 * len(accounts)
    crediting.credit(Invoice.objects.filter(kind="invoice")[0].id, "wrong", audit.SYSTEM, NEXT)
    assert revenue() == net()


def test_late_usage_counts_in_the_month_in_which_it_was_used(accounts: list[Account]) -> None:
    month_end.close_month(MONTH, NEXT, ask=answers())
    was = revenue()
    usage.record([seconds(accounts[0], NOW + timedelta(hours=1), 3600, id="late")])
    invoices.accrue(accounts[0], NOW + timedelta(hours=1))
    following = NEXT + timedelta(days=31)
    month_end.close_month(END, following, ask=answers(checked_at=following))
    (late,) = Invoice.objects.filter(kind="invoice", period_start=END, account=accounts[0])
    assert late.net == 12
    assert revenue() - was == Fraction(12, 100)


def test_focus_of_an_invoiced_month_sums_to_its_invoice(accounts: list[Account]) -> None:
    month_end.close_month(MONTH, NEXT, ask=answers())
    for account in accounts:
        (invoice,) = Invoice.objects.filter(account=account, kind="invoice")
        rows = [
            dict(zip(focus.COLUMNS, row, strict=True))
            for row in cost_export.focus_rows(account, MONTH, END, NAMES)
        ]
        assert {row["InvoiceId"] for row in rows} == {invoice.label}
        taxed = [row for row in rows if row["ChargeCategory"] == "Tax"]
        assert billed(taxed) * 100 == invoice.vat
        # Each row is given to twelve places.
        assert round(billed(rows), 9) * 100 == invoice.due
        assert round(billed(rows) - billed(taxed), 9) * 100 == invoice.net


def billed(rows: list[dict[str, focus.Value]]) -> Decimal:
    return sum((Decimal(row["BilledCost"] or "0") for row in rows), Decimal(0))
