"""The tables are whole, and what reads them names what they do not know."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.vat import countries, notes, numbers
from billing.vat.canonical import canonical
from billing.vat.numbers import InvalidVatNumber
from billing.vat.retention import destroy_after, retention
from billing.vat.tables import UnknownRule, in_force, table
from billing.vat.territories import locate
from tests.billing.vat.parties import NUMBERS, TODAY

STATES = sorted(table("states")["states"])
OFFICIAL = 24  # languages of the Union


def test_every_state_has_all_that_an_invoice_needs() -> None:
    assert len(STATES) == 27
    words = table("reverse_charge")["words"]
    for state in STATES:
        assert 15 <= countries.standard_rate(state, TODAY) <= 27, state  # Art. 97: 15 at least
        assert len(countries.national_currency(state, TODAY)) == 3
        assert all(each in words for each in countries.languages(state))
        assert countries.issuer_rule(state, TODAY).why
        assert countries.is_country(state)


def test_all_official_languages_have_the_words_of_the_law() -> None:
    words = table("reverse_charge")["words"]
    assert len(words) == OFFICIAL
    assert [code for code, text in words.items() if not text] == ["ga"]
    assert [note.language for note in notes.reverse_charge(("ga", "en"))] == ["en"]
    every = notes.reverse_charge(tuple(words))
    # Slovenian law says it in English.
    assert len(every) == OFFICIAL - 1 and len({note.text.lower() for note in every}) == 22


def test_the_list_of_issuers() -> None:
    assert countries.allowed_issuers(TODAY) == ("AT", "DE", "FI", "IE", "LU", "NL")
    for state in ("IT", "PL", "RO", "HU", "BE", "FR", "GR", "HR"):
        assert countries.issuer_rule(state, TODAY).status == "clearance", state
    eve = date(2026, 12, 31)
    assert countries.issuer_rule("SK", eve).status == "unverified"
    assert countries.issuer_rule("SK", eve + timedelta(days=1)).status == "clearance"


def test_currencies_change_with_the_day() -> None:
    assert countries.national_currency("HR", date(2022, 12, 31)) == "HRK"
    assert countries.national_currency("HR", date(2023, 1, 1)) == "EUR"
    assert countries.national_currency("BG", date(2025, 12, 31)) == "BGN"
    assert countries.national_currency("BG", TODAY) == "EUR"


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from(STATES), st.dates(date(2020, 1, 1), date(2030, 12, 31)))
def test_a_rate_is_that_of_the_youngest_row_that_has_begun(state: str, on: date) -> None:
    rows = table("states")["states"][state]["rates"]
    begun = [row for row in rows if date.fromisoformat(row["from"]) <= on]
    assert countries.standard_rate(state, on) == Decimal(begun[-1]["rate"])
    assert in_force(list(reversed(rows)), on, "x") == begun[-1]


@pytest.mark.parametrize(
    ("written", "country", "read"),
    [
        ("DE 136695976", "", "DE136695976"),
        ("de-136.695.976", "", "DE136695976"),
        ("136695976", "DE", "DE136695976"),
        ("GR094259216", "", "EL094259216"),
        ("094259216", "GR", "EL094259216"),
        ("XI 980780684", "", "XI980780684"),
        ("U13585627", "AT", "ATU13585627"),
        ("NL4495445B01", "", "NL004495445B01"),
    ],
)
def test_numbers_are_read_as_people_write_them(written: str, country: str, read: str) -> None:
    assert str(numbers.parse(written, country)) == read


@pytest.mark.parametrize(
    ("written", "country"),
    [
        *(("", "DE"), ("", ""), ("136695976", ""), ("DE136695977", ""), ("DE13669597", "")),
        *(("GB980780684", ""), ("CHE100155212", ""), ("EU372000041", ""), ("FRÄ§%", "FR")),
    ],
)
def test_what_is_no_number_is_refused(written: str, country: str) -> None:
    with pytest.raises(InvalidVatNumber, match=r"VAT number|member state"):
        numbers.parse(written, country)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=20), st.sampled_from(["", *STATES, "MC", "CH"]))
def test_no_text_breaks_the_reader(written: str, country: str) -> None:
    try:
        found = numbers.parse(written, country)
    except InvalidVatNumber:
        return
    assert numbers.parse(str(found)) == found


@pytest.mark.parametrize("number", [each for each in NUMBERS.values() if each[:2] != "NL"])
def test_a_mistyped_digit_is_found(number: str) -> None:
    """In all but Dutch numbers, of which two kinds with different check digits are in use."""
    for at in range(2, len(number)):
        for digit in set("0123456789") - {number[at]} if number[at].isdigit() else ():
            with pytest.raises(InvalidVatNumber):
                numbers.parse(number[:at] + digit + number[at + 1 :])


def test_an_address_that_lies_elsewhere() -> None:
    assert locate("FR", "75001").state == "FR"
    assert locate("FR", "98000").territory == "MC"
    assert locate("ES", "E-35001").state == "ES"  # not a Spanish postcode
    assert locate("ES", "ES-35001").territory == "ES-CN"
    assert locate("GB", "BT1 5GS").territory == "XI"
    assert locate("CY", region="CY-SBA").state == "CY"
    assert locate("CY", "1010").territory == ""
    for country, postcode, region in [
        ("EL", "", ""),
        ("de", "", ""),
        ("EA", "", ""),
        ("FR", "", "XI"),
    ]:
        with pytest.raises(UnknownRule):
            locate(country, postcode, region)


def test_retention() -> None:
    assert destroy_after("DE", "invoice", date(2026, 3, 15)) == date(2034, 12, 31)
    assert destroy_after("DE", "ledger", date(2026, 12, 31)) == date(2036, 12, 31)
    german, dutch = (retention(each, "invoice", TODAY) for each in ("DE", "NL"))
    assert german.verified and "§147" in german.source
    assert (dutch.verified, dutch.years) == (False, 7)
    with pytest.raises(UnknownRule, match="MT"):
        retention("MT", "invoice", TODAY)
    with pytest.raises(UnknownRule, match="diary"):
        retention("DE", "diary", TODAY)


@pytest.mark.parametrize("issuer", ["AT", "DE", "FI", "IE", "LU", "NL"])
def test_who_may_issue_knows_how_long_to_keep(issuer: str) -> None:
    for kind in ("invoice", "ledger"):
        assert retention(issuer, kind, TODAY).years >= 6


def test_evidence_is_exact_or_refused() -> None:
    assert canonical({"b": Decimal("1.10"), "a": (TODAY, None)}) == (
        b'{"a":["2026-11-26",null],"b":"1.10"}'
    )
    for value in (1.5, {1, 2}, timedelta(microseconds=1)):
        with pytest.raises(TypeError, match="not exact"):
            canonical([value])
