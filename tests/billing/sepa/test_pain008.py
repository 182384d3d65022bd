"""Direct debit files, against the schema of ISO 20022 that the package sepaxml ships."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.sepa import target
from billing.sepa.accounts import InvalidAccount, bic, creditor_identifier, iban
from billing.sepa.latin import latin
from billing.sepa.mandates import (
    DebitRefused,
    Mandate,
    Scheme,
    Sequence,
    collection_day,
    final_on,
    notify_by,
)
from billing.sepa.pain008 import NAMESPACE, Collection, Creditor, write
from billing.sepa.reference import InvalidReference, make, pretty, read

NOW = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
DAY = date(2026, 12, 1)
US = Creditor("Rechenwerk & Söhne GmbH", "DE89 3704 0044 0532 0130 00", "DE98ZZZ09999999999")
MANDATE = Mandate("M-0001", date(2026, 10, 1), "Müller Łódź", "FR14 2004 1010 0505 0001 3M02 606")


def debit(number: int = 1, mandate: Mandate = MANDATE, **more: Any) -> Collection:
    facts: dict[str, Any] = {
        "amount": Decimal("119.00"),
        "collect_on": DAY,
        "notified_on": date(2026, 11, 16),
        "end_to_end": f"DD-{number}",
        "reference": make(f"DE-2026-{number:06}"),
        **more,
    }
    return Collection(replace(mandate, reference=f"M-{number:04}"), **facts)


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(files("sepaxml") / "schemas" / "pain.008.001.08.xsd"))


def texts(root: Element, path: str) -> list[str | None]:
    steps = "/".join(f"{{{NAMESPACE}}}{step}" for step in path.split("/"))
    return [each.text for each in root.iterfind(f".//{steps}")]


def test_a_file_is_valid_and_says_what_was_asked(schema: xmlschema.XMLSchema) -> None:
    again = replace(MANDATE, last_collected=date(2026, 11, 2), account_changed=True)
    business = replace(MANDATE, scheme=Scheme.B2B, debtor_bic="BNPAFRPPXXX")
    single = replace(MANDATE, recurrent=False)
    debits = [
        debit(1),
        debit(2, again, amount=Decimal("0.01")),
        debit(3, again, collect_on=date(2026, 12, 2)),
        debit(4, business, amount=Decimal("999999999.99")),
        debit(5, single),
    ]
    written = write("MSG-2026-11", NOW, US, debits)
    schema.validate(written.decode())
    root = fromstring(written)
    assert texts(root, "GrpHdr/NbOfTxs") == ["5"]
    assert texts(root, "GrpHdr/CtrlSum") == ["1000000357.00"]
    assert texts(root, "GrpHdr/CreDtTm") == ["2026-11-26T09:00:00+00:00"]
    assert texts(root, "PmtInf/PmtInfId") == [f"MSG-2026-11-{n}" for n in range(1, 6)]
    assert sorted(zip(texts(root, "LclInstrm/Cd"), texts(root, "SeqTp"), strict=True)) == [
        ("B2B", "FRST"),
        *(("CORE", each) for each in ("FRST", "OOFF", "RCUR", "RCUR")),
    ]
    assert set(texts(root, "Cdtr/Nm")) == {"Rechenwerk + Soehne GmbH"}
    assert set(texts(root, "Dbtr/Nm")) == {"Mueller Lodz"}
    assert texts(root, "OrgnlDbtrAcct/Id/Othr/Id") == ["SMNDA", "SMNDA"]
    assert texts(root, "CdtrSchmeId/Id/PrvtId/Othr/Id") == ["DE98ZZZ09999999999"] * 5
    assert sorted(texts(root, "CdtrRefInf/Ref"), key=str) == sorted(d.reference for d in debits)
    assert write("MSG-2026-11", NOW, US, debits) == written


amounts = st.decimals(Decimal("0.01"), Decimal("999999999.99"), places=2)
names = st.text(st.characters(codec="utf-8"), max_size=90).map(lambda text: f"Ada {text}"[:80])


@settings(max_examples=40, deadline=None)  # the schema takes its time
@given(
    st.lists(
        st.tuples(amounts, names, st.sampled_from(Scheme), st.booleans(), st.integers(0, 9)),
        min_size=1,
        max_size=8,
    )
)
def test_any_file_that_is_written_is_valid_and_adds_up(
    schema: xmlschema.XMLSchema, rows: list[tuple[Decimal, str, Scheme, bool, int]]
) -> None:
    debits = []
    for number, (amount, name, scheme, before, days) in enumerate(rows, 1):
        last = date(2026, 11, 2) if before else None
        mandate = replace(MANDATE, debtor_name=name, scheme=scheme, last_collected=last)
        day = target.on_or_after(DAY + timedelta(days=min(days, 8)))
        debits.append(debit(number, mandate, amount=amount, collect_on=day))
    try:
        written = write("MSG", NOW, US, debits)
    except DebitRefused as refused:
        assert refused.code == "name_not_latin"
        return
    schema.validate(written.decode())
    root = fromstring(written)
    total = sum((each.amount for each in debits), Decimal(0))
    assert [Decimal(text or "") for text in texts(root, "GrpHdr/CtrlSum")] == [total]
    assert sum(Decimal(text or "") for text in texts(root, "PmtInf/CtrlSum")) == total
    assert sorted(texts(root, "EndToEndId"), key=str) == sorted(d.end_to_end for d in debits)


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("no_debits", lambda: []),
    ("bad_amount", lambda: [debit(amount=Decimal("0"))]),
    ("bad_amount", lambda: [debit(amount=Decimal("-1"))]),
    ("bad_amount", lambda: [debit(amount=Decimal("1.001"))]),
    ("bad_amount", lambda: [debit(amount=Decimal("NaN"))]),
    ("bad_amount", lambda: [debit(amount=Decimal("1000000000"))]),
    ("bank_closed", lambda: [debit(collect_on=date(2026, 12, 5))]),
    ("too_late", lambda: [debit(collect_on=NOW.date())]),
    ("too_early", lambda: [debit(collect_on=date(2026, 12, 11))]),
    ("not_notified", lambda: [debit(notified_on=DAY)]),
    ("bad_identifier", lambda: [debit(end_to_end="x" * 36)]),
    ("bad_identifier", lambda: [debit(end_to_end="DD_1")]),
    ("bad_identifier", lambda: [debit(end_to_end="/DD")]),
    ("bad_identifier", lambda: [debit(end_to_end="")]),
    ("end_to_end_twice", lambda: [debit(1), replace(debit(2), end_to_end="DD-1")]),
    ("mandate_twice", lambda: [debit(1), replace(debit(2), mandate=debit(1).mandate)]),
    ("mandate_not_signed", lambda: [debit(mandate=replace(MANDATE, signed_on=date(2026, 12, 2)))]),
    ("mandate_revoked", lambda: [debit(mandate=replace(MANDATE, revoked_on=DAY))]),
    ("mandate_expired", lambda: [debit(mandate=replace(MANDATE, signed_on=date(2023, 11, 30)))]),
    ("mandate_used", lambda: [
        debit(mandate=replace(MANDATE, recurrent=False, last_collected=date(2026, 11, 2)))]),
    ("account_outside_eea", lambda: [
        debit(mandate=replace(MANDATE, debtor_iban="CH9300762011623852957"))]),
    ("name_not_latin", lambda: [debit(mandate=replace(MANDATE, debtor_name="Ελληνική"))]),
    ("name_not_latin", lambda: [debit(mandate=replace(MANDATE, debtor_name=""))]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "debits"), REFUSED)
def test_a_debit_that_must_not_be_sent_stops_the_file(
    code: str, debits: Callable[[], list[Collection]]
) -> None:
    with pytest.raises(DebitRefused) as refused:
        write("MSG", NOW, US, debits())
    assert refused.value.code == code


def test_a_file_needs_a_name_a_time_and_a_creditor() -> None:
    with pytest.raises(DebitRefused, match="29 signs"):
        write("M" * 30, NOW, US, [debit()])
    with pytest.raises(DebitRefused, match="zone"):
        write("MSG", NOW.replace(tzinfo=None), US, [debit()])
    for wrong in (
        replace(US, identifier="DE99ZZZ09999999999"),
        replace(US, iban="DE88370400440532013000"),
        replace(US, bic="NOBIC"),
    ):
        with pytest.raises(InvalidAccount):
            write("MSG", NOW, wrong, [debit()])
    with pytest.raises(InvalidReference):
        write("MSG", NOW, US, [debit(reference="RF00X")])


def test_a_mandate_knows_its_next_sequence() -> None:
    assert MANDATE.sequence() is Sequence.FIRST
    assert replace(MANDATE, last_collected=DAY).sequence() is Sequence.RECURRENT
    assert replace(MANDATE, recurrent=False).sequence() is Sequence.ONE_OFF
    replace(MANDATE, signed_on=date(2023, 12, 1)).check(DAY)  # 36 months to the day
    used = replace(MANDATE, signed_on=date(2020, 1, 1), last_collected=date(2026, 11, 2))
    used.check(DAY)


@pytest.mark.parametrize(
    ("notified", "submitted", "notice", "lead", "day"),
    [
        (date(2026, 11, 16), date(2026, 11, 26), 14, 1, date(2026, 11, 30)),
        (date(2026, 11, 21), date(2026, 11, 26), 14, 1, date(2026, 12, 7)),  # a Saturday, moved on
        (date(2026, 11, 1), date(2026, 11, 26), 14, 1, date(2026, 11, 27)),
        (date(2026, 11, 1), date(2026, 11, 27), 1, 2, date(2026, 12, 1)),  # over a weekend
        (date(2026, 11, 1), date(2026, 12, 24), 1, 1, date(2026, 12, 28)),  # over Christmas
        (date(2027, 1, 1), date(2027, 3, 25), 5, 1, date(2027, 3, 30)),  # over Easter
    ],
)
def test_the_first_day_to_collect(
    notified: date, submitted: date, notice: int, lead: int, day: date
) -> None:
    assert collection_day(notified, submitted, notice, lead) == day
    assert notify_by(day, notice) >= notified


def test_without_a_days_notice_nothing_is_collected() -> None:
    for notice, lead in ((0, 1), (1, 0)):
        with pytest.raises(DebitRefused) as refused:
            collection_day(DAY, DAY, notice, lead)
        assert refused.value.code == "bad_notice"


def test_when_the_money_is_ours_for_good() -> None:
    assert final_on(date(2026, 12, 1), Scheme.CORE) == date(2027, 1, 27)
    assert final_on(date(2026, 12, 22), Scheme.B2B) == date(2026, 12, 29)


def test_the_days_without_settlement() -> None:
    # As published for 2026 and 2027.
    assert sorted(target.holidays(2026)) == [
        *(date(2026, 1, 1), date(2026, 4, 3), date(2026, 4, 6), date(2026, 5, 1)),
        *(date(2026, 12, 25), date(2026, 12, 26)),
    ]
    assert {date(2027, 3, 26), date(2027, 3, 29)} <= target.holidays(2027)
    assert target.is_open(date(2026, 12, 24)) and not target.is_open(date(2026, 11, 29))


@settings(deadline=None)  # the machine may be busy
@given(st.dates(date(2000, 1, 1), date(2099, 1, 1)), st.integers(1, 10))
def test_settling_days_are_counted_alike_forth_and_back(day: date, days: int) -> None:
    start = target.on_or_after(day)
    assert target.is_open(start) and target.on_or_before(start) == start
    assert target.before(target.after(start, days), days) == start
    assert len(target.holidays(day.year)) == 6


def test_accounts_and_identifiers() -> None:
    assert iban("fr14 2004 1010 0505 0001 3m02 606") == "FR1420041010050500013M02606"
    assert bic("bnpafrppxxx") == "BNPAFRPPXXX"
    assert creditor_identifier("DE 98 ZZZ 09999999999") == "DE98ZZZ09999999999"
    for wrong in ("", "FR1420041010050500013M02607", "BR1800360305000010009795493C1", "FR14"):
        with pytest.raises(InvalidAccount):
            iban(wrong)
    for wrong in ("", "DE97ZZZ09999999999", "DE98", "98DEZZZ09999999999"):
        with pytest.raises(InvalidAccount):
            creditor_identifier(wrong)


@settings(deadline=None)  # the machine may be busy
@given(
    st.from_regex(r"[A-Z0-9]{1,21}", fullmatch=True), st.integers(2, 24), st.sampled_from("07AZ")
)
def test_a_reference_is_read_again_and_a_wrong_sign_is_found(
    number: str, at: int, sign: str
) -> None:
    made = make(number)
    assert read(made) == made and made.endswith(number) and len(made) <= 25
    assert read(pretty(made)) == made
    # A letter for a digit makes the number longer: what mod 97 promises is one sign of its kind.
    if at < len(made) and made[at] != sign and (at < 4 or made[at].isdigit() == sign.isdigit()):
        with pytest.raises(InvalidReference):
            read(made[:at] + sign + made[at + 1 :])


def test_references_that_cannot_be() -> None:
    assert make("DE-2026/000123") == make("de2026000123")
    assert read("RF18 5390 0754 7034") == "RF18539007547034"
    for wrong in ("", "---", "A" * 22, "ÄÖ"):
        with pytest.raises(InvalidReference):
            make(wrong)
    for wrong in ("", "RF19539007547034", "539007547034", "RF", "RF18 5390_0754"):
        with pytest.raises(InvalidReference):
            read(wrong)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=100))
def test_latin_leaves_only_signs_that_banks_take(text: str) -> None:
    try:
        found = latin(text, 70)
    except ValueError:
        return
    assert len(found) <= 70 and "//" not in found and found == found.strip()
    assert all(sign.isascii() and sign.isprintable() for sign in found)
