"""Article 226 by field, the sums by EN 16931, and the shapes that no document may have."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.einvoice import cii, credit, rules, ubl, validate
from billing.einvoice.document import Address, Allowance, Category, Invoice, Line, Party, Period
from billing.einvoice.rules import ZERO
from tests.billing.einvoice import samples

GOOD = samples.two_rates()
REVERSE = samples.reverse_charge()
CREDIT = samples.credit_note()
AWAY = Address("", "", "", "")


def without_reason(document: Invoice) -> Invoice:
    groups = tuple(replace(group, reason="", code="") for group in document.vat)
    return replace(document, vat=groups)


def nameless(document: Invoice) -> Invoice:
    return replace(document, lines=(replace(document.lines[0], name=" "), *document.lines[1:]))


def homeless(party: Party) -> Party:
    return replace(party, address=AWAY)


# Article 226 (and 219): the document that lacks a field, and the field's name.
LACKING: list[tuple[Invoice, str, str]] = [
    (replace(GOOD, issued=None), "issued", "226(1)"),
    (replace(GOOD, number=""), "number", "226(2)"),
    (replace(GOOD, supplier=replace(GOOD.supplier, vat_id="")), "supplier.vat_id", "226(3)"),
    (replace(REVERSE, customer=replace(REVERSE.customer, vat_id="")), "customer.vat_id", "226(4)"),
    (replace(GOOD, supplier=replace(GOOD.supplier, name="")), "supplier.name", "226(5)"),
    (replace(GOOD, customer=replace(GOOD.customer, name="")), "customer.name", "226(5)"),
    (replace(GOOD, supplier=homeless(GOOD.supplier)), "supplier.address.street", "226(5)"),
    (replace(GOOD, supplier=homeless(GOOD.supplier)), "supplier.address.city", "226(5)"),
    (replace(GOOD, customer=homeless(GOOD.customer)), "customer.address.street", "226(5)"),
    (replace(GOOD, customer=homeless(GOOD.customer)), "customer.address.country", "226(5)"),
    (replace(GOOD, lines=()), "lines", "226(6)"),
    (nameless(GOOD), "lines[0].name", "226(6)"),
    (replace(GOOD, period=None), "period", "226(7)"),
    (replace(GOOD, vat=()), "vat", "226(8)"),
    (without_reason(samples.outside_scope()), "vat[0].reason", "226(11)"),
    (without_reason(REVERSE), "vat[0].reason", "226(11a)"),
    (replace(GOOD, currency=""), "currency", "230"),
    (replace(CREDIT, preceding=()), "preceding", "219"),
    (replace(CREDIT, reason=""), "reason", "219"),
    (replace(GOOD, due=None, payment=replace(GOOD.payment, terms="")), "due", "BR-CO-25"),
]


@pytest.mark.parametrize(("document", "field", "source"), LACKING, ids=[n for _, n, _ in LACKING])
def test_each_missing_field_is_named(document: Invoice, field: str, source: str) -> None:
    found = {missing.field: missing.source for missing in rules.missing(document)}
    assert source in found[field]
    with pytest.raises(rules.Incomplete) as caught:
        rules.check(document)
    assert f"{field} (" in str(caught.value)


def test_a_complete_document_lacks_nothing() -> None:
    assert rules.missing(GOOD) == rules.missing(REVERSE) == rules.missing(CREDIT) == []


def off(field: str) -> Invoice:
    value = getattr(GOOD.totals, field) + Decimal("0.01")
    return replace(GOOD, totals=replace(GOOD.totals, **{field: value}))


def wrong_line() -> Invoice:
    line = replace(GOOD.lines[0], amount=Decimal("14349.31"))
    return replace(GOOD, lines=(line, *GOOD.lines[1:]))


def abroad(country: str) -> Invoice:
    where = replace(GOOD.customer.address, country=country)
    return replace(GOOD, customer=replace(GOOD.customer, address=where))


BACKWARDS = Period(date(2026, 11, 30), date(2026, 11, 1))
MIXED = samples.invoice(samples.hours(1, 60, "1"), samples.egress(2, "0", "O"))
WRONG: list[tuple[Invoice, str]] = [
    (wrong_line(), "line 1 is 14342.40, not 14349.31"),
    (replace(GOOD, lines=(GOOD.lines[0], *GOOD.lines)), "line id 1 is there twice"),
    (off("lines"), "BR-CO-10"),
    (off("allowances"), "BR-CO-11"),
    (off("net"), "BR-CO-13"),
    (off("vat"), "BR-CO-14"),
    (off("gross"), "BR-CO-15"),
    (off("due"), "BR-CO-16"),
    (replace(GOOD, vat=GOOD.vat[:1]), "BR-CO-17"),
    (
        samples.invoice(samples.hours(1, 60, "1", "0", "S")),
        "category S does not go with a rate of 0",
    ),
    (samples.invoice(samples.hours(1, 60, "1", "7", "AE")), "category AE does not go with a rate"),
    (MIXED, "BR-O-11"),
    (samples.invoice(samples.hours(1, -3600, "1")), "credit instead"),
    (replace(GOOD, period=BACKWARDS), "BR-29"),
    (replace(GOOD, due=date(2026, 11, 30)), "due before it is issued"),
    (replace(GOOD, currency="eur"), "currency 'eur' does not look like one"),
    (abroad("Greece"), "customer.address.country 'Greece'"),
    (replace(GOOD, supplier=replace(GOOD.supplier, vat_id="129273398")), "BR-CO-09"),
    (replace(GOOD, payment=replace(GOOD.payment, iban="DE03120300000000202051")), "is no IBAN"),
    (samples.invoice(replace(samples.egress(1), unit="seconds")), "lines[0].unit 'seconds'"),
    (replace(GOOD, number="2026\x0b1"), "number has a control character"),
    (replace(samples.foreign_currency(), currency="EUR"), "BR-53"),
]


@pytest.mark.parametrize(("document", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_contradicts_itself_is_said(document: Invoice, said: str) -> None:
    assert said in "; ".join(rules.discrepancies(document))
    with pytest.raises(rules.Incomplete):
        rules.check(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price": 2.49}, "price"),
        ({"price": Decimal("NaN")}, "price"),
        ({"price": Decimal("-1")}, "price"),
        ({"price": Decimal("1E+2")}, "without an exponent"),
        ({"quantity": 1.5}, "whole number"),
        ({"quantity": True}, "whole number"),
        ({"quantity": 2**53}, "whole number"),
        ({"base_quantity": 0}, "above 0"),
        ({"amount": Decimal("1.005")}, "two decimals"),
        ({"rate": Decimal("-19")}, "rate"),
    ],
)
def test_no_line_holds_an_absurd_number(change: dict[str, object], said: str) -> None:
    fields = {name: getattr(GOOD.lines[0], name) for name in GOOD.lines[0].__dataclass_fields__}
    with pytest.raises(TypeError, match=said):
        Line(**(fields | change))


def test_a_line_is_rounded_once_and_half_away_from_zero() -> None:
    assert rules.line_amount(8 * 30 * 86400, Decimal("2.49"), 3600) == Decimal("14342.40")
    assert rules.line_amount(1, Decimal("0.005"), 1) == Decimal("0.01")
    assert rules.line_amount(-1, Decimal("0.005"), 1) == Decimal("-0.01")
    assert rules.line_amount(2**53 - 1, Decimal("999999999999.999999999999"), 1) > 10**27


def test_a_whole_credit_nets_to_zero_with_its_vat() -> None:
    for make in (samples.two_rates, samples.reverse_charge, samples.prepaid, samples.exempt):
        document = make()
        back = credit.whole(document, "2026-C000009", date(2026, 12, 3), "Billed twice")
        rules.check(back)
        assert (
            back.totals.due
            == document.totals.gross
            == document.totals.due + (document.totals.prepaid)
        )
        assert [group.tax for group in back.vat] == [group.tax for group in document.vat]
        assert back.preceding[0].number == document.number
        with pytest.raises(ValueError, match="issued invoice"):
            credit.whole(back, "2026-C000010", date(2026, 12, 3), "Again")


# --- any lines -----------------------------------------------------------------
prices = st.decimals(min_value=0, max_value=10_000, places=6, allow_nan=False)
units = st.sampled_from([("SEC", 3600), ("C62", 1_000_000), ("C62", 1)])


@st.composite
def documents(draw: st.DrawFn) -> Invoice:
    taxed: list[tuple[Category, str]] = [("S", "19"), ("S", "7"), ("S", "5.5"), ("AE", "0")]
    outside: list[tuple[Category, str]] = [("O", "0")]
    kinds = draw(st.sampled_from([taxed, outside]))
    lines = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        (unit, base), (category, rate) = draw(units), draw(st.sampled_from(kinds))
        quantity, price = draw(st.integers(-1000, 10**10)), draw(prices)
        name = draw(st.sampled_from(["Serving", "A & B <1>", "Łódź, 日本 🦙"]))
        sum_ = rules.line_amount(quantity, price, base)
        fields = (
            f"{number}",
            name,
            quantity,
            unit,
            price,
            base,
            sum_,
            category,
            Decimal(rate),
        )
        lines.append(Line(*fields))
    allowances = []
    if draw(st.booleans()):
        line = draw(st.sampled_from(lines))
        size = draw(st.decimals(min_value=0, max_value=100, places=2))
        allowances.append(Allowance(size, "Commitment", line.category, line.rate))
    prepaid = draw(st.sampled_from(["0.00", "12.34"]))
    customer = samples.SWISS if kinds == outside else samples.POLISH
    document = samples.invoice(
        *lines, allowances=tuple(allowances), prepaid=prepaid, customer=customer
    )
    if draw(st.booleans()):
        return document
    return credit.whole(document, "2026-C000001", date(2026, 12, 2), "Fault")


@settings(max_examples=30, deadline=None)
@given(document=documents())
def test_any_lines_add_up_and_pass_the_schematron(document: Invoice) -> None:
    totals, groups = document.totals, document.vat
    assert totals.lines == sum((line.amount for line in document.lines), ZERO)  # BR-CO-10
    assert totals.allowances == sum((one.amount for one in document.allowances), ZERO)  # 11
    assert totals.net == totals.lines - totals.allowances  # 13
    assert totals.vat == sum((group.tax for group in groups), ZERO)  # 14
    assert totals.gross == totals.net + totals.vat  # 15
    assert totals.due == totals.gross - totals.prepaid  # 16
    for group in groups:  # 17: exact to half a cent, on the group's total
        assert abs(group.tax * 100 - group.taxable * group.rate) <= Decimal("0.5")
    assert totals.net == sum((group.taxable for group in groups), ZERO)
    wrong = rules.discrepancies(document)
    # Only what is to be credited instead may be refused.
    assert all("credit instead" in one for one in wrong)
    assert bool(wrong) == (totals.gross < 0)
    for xml in (cii.write(document), ubl.write(document)):
        assert validate.schema(xml) == []
        assert validate.schematron(xml) == []
