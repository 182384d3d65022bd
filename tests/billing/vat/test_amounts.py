"""Days, statements, advances and national amounts that follow from decisions."""

import json
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.vat.advance import TopUp, Treatment, advance
from billing.vat.currency import EuroRate, RateRefused, national_vat
from billing.vat.dates import invoice_due, quarter
from billing.vat.decide import decide
from billing.vat.decision import Decision
from billing.vat.parties import Evidence
from billing.vat.statement import Row, Supply, rows
from tests.billing.vat.parties import GERMAN, NOW, PROOF, TODAY, business, proved

FRENCH = decide(GERMAN, business("FR"), proved(business("FR")), TODAY)
DUTCH = decide(GERMAN, business("NL"), proved(business("NL")), TODAY)
GREEK = decide(GERMAN, business("GR"), proved(business("GR")), TODAY)
DOMESTIC = decide(GERMAN, business("DE"), Evidence(NOW), TODAY)
SWISS = decide(GERMAN, business("CH"), Evidence(NOW, proof=PROOF), TODAY)
HELD = decide(GERMAN, business("FR"), Evidence(NOW), TODAY)
REFUSED = decide(GERMAN, business("AX"), Evidence(NOW), TODAY)


@pytest.mark.parametrize(
    ("chargeable", "due"),
    [
        (date(2026, 11, 1), date(2026, 12, 15)),
        (date(2026, 11, 30), date(2026, 12, 15)),
        (date(2026, 12, 31), date(2027, 1, 15)),
        (date(2028, 1, 31), date(2028, 2, 15)),
    ],
)
def test_an_invoice_is_due_by_the_fifteenth(chargeable: date, due: date) -> None:
    assert invoice_due(chargeable) == due


@settings(deadline=None)  # the machine may be busy
@given(st.dates(date(2020, 1, 1), date(2100, 1, 1)))
def test_due_is_always_in_the_month_that_follows(day: date) -> None:
    due = invoice_due(day)
    assert due.day == 15 and 15 <= (due - day).days <= 45


def test_the_statement_lists_reverse_charge_by_customer_and_month() -> None:
    supplies = [
        Supply(FRENCH, Decimal("100.10"), date(2026, 10, 31)),
        Supply(FRENCH, Decimal("200.05"), date(2026, 11, 1)),
        Supply(FRENCH, Decimal("-50.00"), date(2026, 11, 30)),
        Supply(GREEK, Decimal("7.00"), date(2026, 11, 2)),
        Supply(DUTCH, Decimal("-9.99"), date(2026, 11, 3)),
        Supply(DOMESTIC, Decimal("1000"), date(2026, 11, 2)),
        Supply(SWISS, Decimal("1000"), date(2026, 11, 2)),
    ]
    assert rows(supplies) == [
        Row("2026-10", "FR", "83404833048", Decimal("100.10")),
        Row("2026-11", "EL", "094259216", Decimal("7.00")),
        Row("2026-11", "FR", "83404833048", Decimal("150.05")),
        Row("2026-11", "NL", "004495445B01", Decimal("-9.99")),
    ]
    french = [row.value for row in rows(supplies, quarter) if row.prefix == "FR"]
    assert french == [Decimal("250.15")]
    with pytest.raises(ValueError, match="vies_missing"):
        rows([Supply(HELD, Decimal(1), TODAY)])


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(
            st.sampled_from([FRENCH, GREEK, DOMESTIC]),
            st.integers(-9999, 9999),
            st.dates(date(2026, 1, 1), date(2026, 12, 31)),
        )
    )
)
def test_nothing_is_lost_between_supplies_and_statement(
    entries: list[tuple[Decision, int, date]],
) -> None:
    supplies = [Supply(decision, Decimal(cents) / 100, on) for decision, cents, on in entries]
    listed = sum((each.net for each in supplies if each.decision is not DOMESTIC), Decimal(0))
    assert sum((row.value for row in rows(supplies)), Decimal(0)) == listed
    assert sum((row.value for row in rows(supplies, quarter)), Decimal(0)) == listed


def test_a_top_up_whose_use_is_known_is_invoiced_in_advance() -> None:
    for decision in (FRENCH, DOMESTIC, SWISS):
        found = advance(TopUp(TODAY, (decision, decision)))
        assert found.treatment is Treatment.ADVANCE_INVOICE
        assert found.decision is decision and found.due == date(2026, 12, 15)
        assert "Art. 65" in found.articles and "Art. 220(1)(5)" in found.articles


@pytest.mark.parametrize(
    "top_up", [TopUp(TODAY, (DOMESTIC, FRENCH)), TopUp(TODAY, (DOMESTIC,), specified=False)]
)
def test_a_top_up_for_whatever_comes_is_a_multi_purpose_credit(top_up: TopUp) -> None:
    found = advance(top_up)
    assert found.treatment is Treatment.MULTI_PURPOSE_CREDIT
    assert "Art. 30b(2)" in found.articles and found.decision is None and found.due is None


def test_other_top_ups() -> None:
    assert advance(TopUp(TODAY, (HELD, DOMESTIC))).treatment is Treatment.HOLD
    assert advance(TopUp(TODAY, (REFUSED,))).treatment is Treatment.REFUSED
    assert advance(TopUp(TODAY, (HELD,), free=True)).treatment is Treatment.NO_CONSIDERATION
    with pytest.raises(ValueError, match="buys nothing"):
        advance(TopUp(TODAY, ()))


def test_why_a_top_up_was_treated_so_is_kept() -> None:
    kept = json.loads(advance(TopUp(TODAY, (FRENCH,))).as_json())
    assert (kept["treatment"], kept["due"]) == ("advance_invoice", "2026-12-15")
    assert kept["decision"]["inputs"]["evidence"]["vies"]["consultation_number"]


SWEDISH = EuroRate("SEK", Decimal("11.0345"), TODAY, "ECB")
DOLLAR = EuroRate("USD", Decimal("1.0874"), TODAY, "ECB")


def test_vat_is_stated_in_the_national_currency() -> None:
    same = national_vat(Decimal("19.00"), "EUR", "EUR", TODAY)
    assert (same.amount, same.rates) == (Decimal("19.00"), ())
    dollars = national_vat(Decimal("19.00"), "USD", "EUR", TODAY, (SWEDISH, DOLLAR))
    assert (dollars.amount, dollars.currency, dollars.rates) == (Decimal("17.47"), "EUR", (DOLLAR,))
    crowns = national_vat(Decimal("19.00"), "EUR", "SEK", TODAY, (SWEDISH,))
    assert crowns.amount == Decimal("209.66")
    cross = national_vat(Decimal("19.00"), "USD", "SEK", TODAY, (SWEDISH, DOLLAR))
    assert (cross.amount, cross.rates) == (Decimal("192.80"), (DOLLAR, SWEDISH))
    assert national_vat(Decimal("-19.00"), "USD", "EUR", TODAY, (DOLLAR,)).amount == Decimal(
        "-17.47"
    )


@pytest.mark.parametrize(
    ("on", "published", "good"),
    [
        (TODAY, TODAY, True),
        (TODAY, TODAY - timedelta(days=1), True),  # before the afternoon's publication
        (TODAY, TODAY - timedelta(days=2), False),
        (TODAY, TODAY + timedelta(days=1), False),
        (date(2026, 11, 29), date(2026, 11, 27), True),  # a Sunday: Friday's
        (date(2026, 4, 6), date(2026, 4, 2), True),  # Easter Monday: Thursday's
        (date(2026, 4, 6), date(2026, 4, 3), False),  # Good Friday has none
    ],
)
def test_only_the_latest_published_rate_counts(on: date, published: date, good: bool) -> None:
    rate = replace(DOLLAR, published_on=published)
    if good:
        assert national_vat(Decimal(100), "USD", "EUR", on, (rate,)).rates == (rate,)
        return
    with pytest.raises(RateRefused, match=str(published)):
        national_vat(Decimal(100), "USD", "EUR", on, (rate,))


def test_a_missing_or_absurd_rate_is_refused() -> None:
    with pytest.raises(RateRefused, match="USD"):
        national_vat(Decimal(100), "USD", "EUR", TODAY, (SWEDISH,))
    for absurd in ("0", "-1", "NaN", "Infinity"):
        with pytest.raises(RateRefused):
            EuroRate("USD", Decimal(absurd), TODAY, "ECB")


@settings(deadline=None)  # the machine may be busy
@given(st.decimals(-(10**9), 10**9, places=2), st.decimals(Decimal("0.0001"), 10**5, places=4))
def test_a_conversion_is_off_by_half_a_cent_at_most(vat: Decimal, per_euro: Decimal) -> None:
    rate = EuroRate("XXX", per_euro, TODAY, "ECB")
    found = national_vat(vat, "EUR", "XXX", TODAY, (rate,)).amount
    assert abs(found - vat * per_euro) <= Decimal("0.005")
