"""The decision table: each case with what decides it and the article that says so."""

import json
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.vat.countries import is_member_state
from billing.vat.decide import decide
from billing.vat.decision import Category, Decision, Outcome
from billing.vat.parties import BusinessProof, Customer, CustomerKind, Evidence, Supplier
from billing.vat.vies_answer import ViesOutcome
from tests.billing.vat.parties import GERMAN, NOW, NUMBERS, PROOF, TODAY, answer, business, proved

NOTHING = Evidence(NOW)
OUTSIDE = Evidence(NOW, proof=PROOF)
AUSTRIAN = Supplier("AT", "ATU13585627")
FRENCH = business("FR")
AUTHORITY = Customer("AT", CustomerKind.LEGAL_PERSON, "ATU13585627")

# name, supplier, customer, evidence, category, rate, place, article
DECIDED = [
    ("domestic", GERMAN, business("DE"), NOTHING, "S", "19", "DE", "Art. 193"),
    ("domestic without number", GERMAN, business("DE", ""), NOTHING, "S", "19", "DE", "Art. 96"),
    ("domestic authority", GERMAN, Customer("DE", CustomerKind.LEGAL_PERSON), NOTHING,
     "S", "19", "DE", "Art. 193"),
    ("domestic of another issuer", AUSTRIAN, business("AT"), NOTHING, "S", "20", "AT", "Art. 96"),
    ("Mittelberg from Vienna", AUSTRIAN, business("AT", postcode="6993"), NOTHING,
     "S", "20", "AT", "Art. 104"),
    ("domestic, half a percent", Supplier("FI", "FI20774740"), business("FI"), NOTHING,
     "S", "25.5", "FI", "Art. 96"),
    ("another state", GERMAN, FRENCH, proved(FRENCH), "AE", "0", "FR", "Art. 196"),
    ("Greece, whose letters are EL", GERMAN, business("GR"), proved(business("GR")),
     "AE", "0", "GR", "Art. 44"),
    ("authority with a number", GERMAN, AUTHORITY, proved(AUTHORITY),
     "AE", "0", "AT", "Art. 43(2)"),
    ("number without its letters", GERMAN, business("AT", "U13585627"),
     proved(business("AT")), "AE", "0", "AT", "Art. 226(11a)"),
    ("Monaco is as France", GERMAN, business("MC", NUMBERS["FR"]), proved(FRENCH),
     "AE", "0", "FR", "Art. 7(1)"),
    ("Monaco by postcode", GERMAN, business("FR", postcode="98000"), proved(FRENCH),
     "AE", "0", "FR", "Art. 7(1)"),
    ("Akrotiri is as Cyprus", GERMAN, business("CY", region="CY-SBA"), proved(business("CY")),
     "AE", "0", "CY", "Art. 7(1)"),
    ("Azores from abroad", GERMAN, business("PT", postcode="9500-321"), proved(business("PT")),
     "AE", "0", "PT", "Art. 105(3)"),
    ("Switzerland", GERMAN, business("CH", "CHE-123.456.788"), OUTSIDE,
     "O", None, "CH", "Reg. (EU) 282/2011 Art. 18(3)"),
    ("United States", GERMAN, business("US"), OUTSIDE, "O", None, "US", "Art. 44"),
    ("Great Britain", GERMAN, business("GB", postcode="SW1A 1AA"), OUTSIDE,
     "O", None, "GB", "Art. 44"),
    ("Northern Ireland", GERMAN, business("GB", "XI980780684", postcode="BT1 5GS"), OUTSIDE,
     "O", None, "GB", "Windsor Framework, Art. 8 and Annex 3: goods only"),
    ("Northern Ireland as XI", GERMAN, business("XI", "XI980780684"), OUTSIDE,
     "O", None, "XI", "Windsor Framework, Art. 8 and Annex 3: goods only"),
    ("Isle of Man", GERMAN, business("IM"), OUTSIDE, "O", None, "IM", "Art. 44"),
    ("Canary Islands", GERMAN, business("ES", postcode="35001"), OUTSIDE,
     "O", None, "ES", "Art. 6(1)(b)"),
    ("Canary Islands as IC", GERMAN, business("IC", NUMBERS["ES"]), OUTSIDE,
     "O", None, "IC", "Art. 6(1)(b)"),
    ("Ceuta", GERMAN, business("ES", postcode="51001"), OUTSIDE, "O", None, "ES", "Art. 6(2)(c)"),
    ("Melilla as EA", GERMAN, business("EA", postcode="52001"), OUTSIDE,
     "O", None, "EA", "Art. 6(2)(d)"),
    ("Heligoland from Germany", GERMAN, business("DE", postcode="27498"), OUTSIDE,
     "O", None, "DE", "Art. 6(2)(a)"),
    ("Büsingen", GERMAN, business("DE", postcode="78266"), OUTSIDE,
     "O", None, "DE", "Art. 6(2)(b)"),
    ("Livigno", GERMAN, business("IT", "", postcode="23041"), OUTSIDE,
     "O", None, "IT", "Art. 6(2)(e)"),
    ("Campione", GERMAN, business("IT", "", postcode="22061"), OUTSIDE,
     "O", None, "IT", "Art. 6(1)(f)"),
    ("Réunion by postcode", GERMAN, business("FR", postcode="97400"), OUTSIDE,
     "O", None, "FR", "Art. 6(1)(c)"),
    ("Guadeloupe as GP", GERMAN, business("GP"), OUTSIDE, "O", None, "GP", "Art. 6(1)(c)"),
]  # fmt: skip


def other(**more: Any) -> Evidence:
    """VIES's answer about the French business, but for what is said."""
    return Evidence(NOW, vies=replace(answer(NUMBERS["FR"]), **more))


# name, supplier, customer, evidence, outcome, reason, article
NOT_DECIDED = [
    ("no number", business("FR", ""), NOTHING, "pending", "number_missing", "Art. 226(4)"),
    ("a number that cannot be", business("FR", "FR12345678901"), NOTHING,
     "pending", "number_malformed", "Art. 44"),
    ("a domestic number that cannot be", business("DE", "DE000000000"), NOTHING,
     "pending", "number_malformed", "Art. 44"),
    ("a number of a third state", business("FR", NUMBERS["AT"]), NOTHING,
     "pending", "establishment_unclear", "Art. 44"),
    ("a number of the supplier's state", business("FR", NUMBERS["DE"]), NOTHING,
     "pending", "establishment_unclear", "Art. 44"),
    ("at home with a foreign number", business("DE", NUMBERS["FR"]), NOTHING,
     "pending", "establishment_unclear", "Art. 44"),
    ("Ireland with a number of the North", business("IE", "XI980780684"), NOTHING,
     "pending", "establishment_unclear", "Art. 44"),
    ("VIES not asked", FRENCH, NOTHING, "pending", "vies_missing", "Art. 196"),
    ("VIES silent", FRENCH, other(outcome=ViesOutcome.UNAVAILABLE, error="MS_UNAVAILABLE"),
     "pending", "vies_unavailable", "Reg. (EU) 282/2011 Art. 18(1)"),
    ("VIES refuses us", FRENCH,
     other(outcome=ViesOutcome.REJECTED, error="INVALID_REQUESTER_INFO"),
     "pending", "vies_rejected", "Art. 196"),
    ("VIES says no", FRENCH, other(outcome=ViesOutcome.INVALID, consultation_number=""),
     "pending", "vat_number_not_valid", "Art. 196"),
    ("asked about another", FRENCH, other(number=NUMBERS["AT"]),
     "pending", "vies_other_number", "Art. 196"),
    ("asked for another", FRENCH, other(requester="ATU13585627"),
     "pending", "vies_other_requester", "Art. 196"),
    ("asked for nobody", FRENCH, other(requester=""),
     "pending", "vies_other_requester", "Art. 196"),
    ("asked yesterday", FRENCH, other(checked_at=NOW - timedelta(hours=24, seconds=1)),
     "pending", "vies_stale", "Art. 196"),
    ("asked tomorrow", FRENCH, other(checked_at=NOW + timedelta(seconds=1)),
     "pending", "vies_in_future", "Art. 196"),
    ("no consultation number", FRENCH, other(consultation_number=""),
     "pending", "vies_unqualified", "Art. 196"),
    ("another name", FRENCH, other(matches={"name": "INVALID"}),
     "pending", "name_mismatch", "Art. 196"),
    ("a Swiss business with an Austrian number", business("CH", NUMBERS["AT"]), OUTSIDE,
     "pending", "establishment_unclear", "Art. 44"),
    ("Northern Ireland with an Irish number", business("GB", NUMBERS["IE"], postcode="BT1 5GS"),
     OUTSIDE, "pending", "establishment_unclear", "Art. 44"),
    ("Canary Islands with a Portuguese number", business("IC", NUMBERS["PT"]), OUTSIDE,
     "pending", "establishment_unclear", "Art. 44"),
    ("a business abroad without proof", business("CH"), NOTHING,
     "pending", "business_status_unproven", "Reg. (EU) 282/2011 Art. 18(3)"),
    ("a number of the North as proof", business("GB", "XI980780684", postcode="BT1 5GS"),
     Evidence(NOW, vies=answer("XI980780684")), "pending", "business_status_unproven", "Art. 44"),
    ("proof that has ended", business("CH"),
     Evidence(NOW, proof=replace(PROOF, valid_until=date(2026, 10, 31))),
     "pending", "business_proof_expired", "Art. 44"),
    ("proof without a reference", business("CH"),
     Evidence(NOW, proof=BusinessProof("certificate", " ", TODAY)),
     "pending", "business_status_unproven", "Art. 44"),
    ("a consumer at home", Customer("DE", CustomerKind.CONSUMER), NOTHING,
     "refused", "consumer_sales_off", "Art. 59c"),
    ("a consumer abroad", Customer("US", CustomerKind.CONSUMER), OUTSIDE,
     "refused", "consumer_sales_off", "Art. 58"),
    ("an authority without number", Customer("FR", CustomerKind.LEGAL_PERSON), NOTHING,
     "refused", "consumer_sales_off", "Art. 45"),
    ("Åland", business("FI", postcode="22100"), OUTSIDE,
     "refused", "territory_refused", "Art. 6(1)(d)"),
    ("Åland as AX", business("AX", ""), OUTSIDE, "refused", "territory_refused", "Art. 6(1)(d)"),
    ("Mount Athos", business("GR", postcode="63086"), OUTSIDE,
     "refused", "territory_refused", "Art. 6(1)(a)"),
    ("Northern Cyprus", business("CY", postcode="99300"), OUTSIDE,
     "refused", "territory_refused", "Protocol 10 to the Act of Accession 2003"),
    ("no such country", business("ZZ"), OUTSIDE, "refused", "no_rule", "Art. 96"),
    ("no such territory", business("FR", region="DE-HELIGOLAND"), OUTSIDE,
     "refused", "no_rule", "Art. 96"),
    ("Ceuta or Melilla", business("EA"), OUTSIDE, "refused", "no_rule", "Art. 96"),
]  # fmt: skip

# name, supplier, reason, a word of why
NO_ISSUERS = [
    ("Italy", Supplier("IT", "IT00743110157"), "issuer_clearance", "Sistema di Interscambio"),
    ("Poland", Supplier("PL", "PL5260001246"), "issuer_clearance", "KSeF"),
    ("Romania", Supplier("RO", "RO18547290"), "issuer_clearance", "e-Factura"),
    ("Hungary", Supplier("HU", "HU12892312"), "issuer_clearance", "Online Számla"),
    ("Belgium", Supplier("BE", "BE0403019261"), "issuer_clearance", "Peppol"),
    ("France", Supplier("FR", "FR83404833048"), "issuer_clearance", "platform"),
    ("Greece", Supplier("GR", "EL094259216"), "issuer_clearance", "myDATA"),
    ("Croatia", Supplier("HR", "HR33392005961"), "issuer_clearance", "Fiskalizacija"),
    ("Spain", Supplier("ES", "ESA15075062"), "issuer_software", "Verifactu"),
    ("Portugal", Supplier("PT", "PT501964843"), "issuer_software", "certified"),
    ("Sweden", Supplier("SE", "SE556188840401"), "issuer_unverified", "not read"),
    ("Switzerland", Supplier("CH", "CHE123456788"), "issuer_not_in_the_union", "member states"),
    ("a small enterprise", replace(GERMAN, small_enterprise=True),
     "issuer_small_enterprise", "small enterprises"),
    ("no number", Supplier("DE", ""), "issuer_number_malformed", "no VAT number of DE"),
    ("a foreign number", Supplier("DE", "ATU13585627"), "issuer_number_foreign", "ATU13585627"),
    ("in Jungholz", replace(AUSTRIAN, postcode="6691"), "issuer_territory", "special"),
    ("in Heligoland", replace(GERMAN, postcode="27498"), "issuer_territory", "special"),
]  # fmt: skip


@pytest.mark.parametrize("case", DECIDED, ids=lambda case: case[0])
def test_what_is_decided(
    case: tuple[str, Supplier, Customer, Evidence, str, str | None, str, str],
) -> None:
    _, supplier, customer, evidence, category, rate, place, article = case
    if category == "AE":
        assert evidence.vies is not None
    found = decide(supplier, customer, evidence, TODAY)
    assert (found.outcome, found.because != "") == (Outcome.DECIDED, True), found.because
    assert found.category == category
    assert found.rate == (None if rate is None else Decimal(rate))
    assert found.place == place
    assert article in found.articles
    assert found.listed is (category == "AE")
    assert found.vatex == {"S": "", "AE": "VATEX-EU-AE", "O": "VATEX-EU-O"}[category]
    assert bool(found.notes) is (category != "S")


@pytest.mark.parametrize("case", NOT_DECIDED, ids=lambda case: case[0])
def test_what_waits_and_what_is_refused(
    case: tuple[str, Customer, Evidence, str, str, str],
) -> None:
    _, customer, evidence, outcome, reason, article = case
    found = decide(GERMAN, customer, evidence, TODAY)
    assert (found.outcome, found.reason) == (outcome, reason), found.because
    assert article in found.articles
    assert found.category is None and found.rate is None and not found.listed
    assert found.drafted() is None
    assert found.because


@pytest.mark.parametrize("case", NO_ISSUERS, ids=lambda case: case[0])
def test_issuers_are_a_closed_list(case: tuple[str, Supplier, str, str]) -> None:
    _, supplier, reason, word = case
    found = decide(supplier, business("US"), OUTSIDE, TODAY)
    assert (found.outcome, found.reason) == (Outcome.REFUSED, reason)
    assert word in found.because


def test_the_rate_is_that_of_the_day() -> None:
    finnish = Supplier("FI", "FI20774740")
    rates = {
        day: decide(finnish, business("FI"), NOTHING, day).rate
        for day in (date(2024, 8, 31), date(2024, 9, 1))
    }
    assert list(rates.values()) == [Decimal(24), Decimal("25.5")]
    winter = decide(GERMAN, business("DE"), NOTHING, date(2020, 12, 31))
    assert winter.rate == 16
    unknown = decide(GERMAN, business("DE"), NOTHING, date(2019, 12, 31))
    assert (unknown.outcome, unknown.reason) == (Outcome.REFUSED, "no_rule")


def test_an_issuer_is_judged_by_the_day_too() -> None:
    polish = Supplier("PL", "PL5260001246")
    before = decide(polish, business("PL", ""), NOTHING, date(2026, 1, 31))
    after = decide(polish, business("PL", ""), NOTHING, date(2026, 2, 1))
    assert (before.reason, after.reason) == ("issuer_unverified", "issuer_clearance")


def test_the_note_speaks_the_customers_languages_and_ours() -> None:
    belgian = business("BE")
    found = decide(GERMAN, belgian, proved(belgian), TODAY)
    assert [(note.language, note.text) for note in found.notes] == [
        ("nl", "Btw verlegd"),
        ("fr", "Autoliquidation"),
        ("de", "Steuerschuldnerschaft des Leistungsempfängers"),
        ("en", "Reverse charge"),
    ]


def test_a_name_that_a_person_accepted_is_proof() -> None:
    mismatch = other(matches={"name": "INVALID"})
    found = decide(GERMAN, FRENCH, replace(mismatch, name_accepted_by="usr_1"), TODAY)
    assert found.category is Category.REVERSE_CHARGE
    assert found.inputs.evidence.name_accepted_by == "usr_1"


def draft() -> Decision:
    return decide(GERMAN, FRENCH, proved(FRENCH), TODAY)


def test_a_number_that_stops_being_valid_holds_the_final_invoice() -> None:
    drafted = draft().drafted()
    later = NOW + timedelta(days=3)
    gone = answer(NUMBERS["FR"], ViesOutcome.INVALID, checked_at=later)
    found = decide(GERMAN, FRENCH, Evidence(later, vies=gone, drafted=drafted), later.date())
    assert (found.outcome, found.reason) == (Outcome.PENDING, "vat_number_no_longer_valid")
    assert "WAPIAAAAZ8Cq1x2b" in found.because
    kept = json.loads(found.as_json())["inputs"]["evidence"]
    assert kept["drafted"]["consultation_number"] == "WAPIAAAAZ8Cq1x2b"
    assert kept["vies"]["outcome"] == "invalid"


def test_a_number_that_proved_nothing_at_the_draft_was_never_valid() -> None:
    drafted = decide(GERMAN, business("FR", postcode="97400"), OUTSIDE, TODAY).drafted()
    assert drafted is not None and drafted.customer_number == NUMBERS["FR"]
    found = decide(
        GERMAN, FRENCH, replace(other(outcome=ViesOutcome.INVALID), drafted=drafted), TODAY
    )
    assert found.reason == "vat_number_not_valid"


def test_a_final_decision_like_the_draft_stands() -> None:
    later = NOW + timedelta(days=3)
    again = answer(NUMBERS["FR"], checked_at=later, consultation_number="WAPIAAAAlater")
    evidence = Evidence(later, vies=again, drafted=draft().drafted())
    found = decide(GERMAN, FRENCH, evidence, later.date())
    assert (found.outcome, found.category) == (Outcome.DECIDED, Category.REVERSE_CHARGE)


@pytest.mark.parametrize(
    ("customer", "evidence", "on"),
    [
        (business("DE"), NOTHING, TODAY),  # moved to the supplier's country
        (business("AT"), proved(business("AT")), TODAY),  # another number
        (business("CH"), OUTSIDE, TODAY),
    ],
)
def test_what_differs_from_the_draft_is_looked_at(
    customer: Customer, evidence: Evidence, on: date
) -> None:
    found = decide(GERMAN, customer, replace(evidence, drafted=draft().drafted()), on)
    assert (found.outcome, found.reason) == (Outcome.PENDING, "changed_since_draft")
    assert found.drafted() is None


def test_all_that_was_used_is_kept_and_the_same_facts_give_the_same_bytes() -> None:
    found, again = draft(), draft()
    assert found.as_json() == again.as_json() and found.digest() == again.digest()
    kept = json.loads(found.as_json())
    assert kept["inputs"]["on"] == "2026-11-26"
    assert kept["inputs"]["supplier"]["vat_number"] == GERMAN.vat_number
    assert kept["inputs"]["evidence"]["vies"]["consultation_number"] == "WAPIAAAAZ8Cq1x2b"
    assert kept["rate"] == "0" and kept["category"] == "AE"
    assert set(kept["tables"]) == {"states", "territories", "issuers", "reverse_charge"}
    moved = replace(FRENCH, postcode="75001")
    assert decide(GERMAN, moved, proved(FRENCH), TODAY).digest() != found.digest()


def test_a_time_without_a_zone_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="zone"):
        Evidence(NOW.replace(tzinfo=None))


countries = st.sampled_from(
    ["AT", "DE", "FR", "GR", "FI", "ES", "IT", "PT", "GB", "XI", "MC", "CH", "US", "AX", "IC", "ZZ"]
)
vies = st.one_of(
    st.none(),
    st.builds(
        answer,
        st.sampled_from(sorted(NUMBERS.values())),
        st.sampled_from(ViesOutcome),
        checked_at=st.timedeltas(timedelta(days=-2), timedelta(0)).map(lambda ago: NOW + ago),
        requester=st.sampled_from(["DE136695976", ""]),
    ),
)


@settings(deadline=None)  # the machine may be busy
@given(
    st.builds(
        Customer,
        countries,
        st.sampled_from(CustomerKind),
        st.sampled_from(["", "nonsense", *NUMBERS.values()]),
        st.sampled_from(["", "98000", "35001", "22100", "27498", "BT1 5GS"]),
    ),
    st.builds(Evidence, st.just(NOW), vies, st.sampled_from([None, PROOF])),
    st.dates(date(2019, 1, 1), date(2030, 12, 31)),
)
def test_no_vat_is_left_away_without_its_proof(
    customer: Customer, evidence: Evidence, on: date
) -> None:
    found = decide(GERMAN, customer, evidence, on)
    assert found.because and found.articles
    if found.outcome is not Outcome.DECIDED:
        assert found.category is None
        return
    assert customer.kind is not CustomerKind.CONSUMER
    if found.category is Category.STANDARD:
        assert found.rate and found.place == "DE"
    elif found.category is Category.REVERSE_CHARGE:
        assert is_member_state(found.place) and found.place != "DE"
        assert evidence.vies and evidence.vies.outcome is ViesOutcome.VALID
        assert evidence.vies.number == found.customer_number
        assert evidence.vies.consultation_number and evidence.vies.requester == "DE136695976"
        assert any(note.text == "Reverse charge" for note in found.notes)
    else:
        assert evidence.proof is PROOF and found.rate is None
