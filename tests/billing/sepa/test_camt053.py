"""Bank statements: what is read, what adds up, and what is refused by name."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.sepa import xml
from billing.sepa.camt053 import read
from billing.sepa.statements import Entry, StatementRefused
from tests.billing.sepa.bank import OURS, THEIRS, Movement, Payment, document

VERSIONS = ["02", "08"]
both = pytest.mark.parametrize("version", VERSIONS)


def entries(*movements: Movement, version: str = "08", **more: str) -> tuple[Entry, ...]:
    [statement] = read(document(list(movements), version, **more))
    return statement.entries


@both
def test_a_payment_is_read_whole(version: str) -> None:
    payment = Payment(
        text="Rechnung DE-2026-000123", reference="RF18539007547034", end_to_end="E2E-1"
    )
    move = Movement("119.00", [payment], bank_reference="BANK-7")
    [statement] = read(document([move], version))
    assert (statement.id, statement.sequence, statement.account) == ("STMT-1", "230", OURS)
    assert (statement.opening, statement.closing) == (Decimal("1000.00"), Decimal("1119.00"))
    [entry] = statement.entries
    assert (entry.amount, entry.gross, entry.charges) == (
        Decimal("119.00"),
        Decimal("119.00"),
        Decimal(0),
    )
    assert (entry.reference, entry.remittance) == ("RF18539007547034", "Rechnung DE-2026-000123")
    assert (entry.end_to_end, entry.bank_reference) == ("E2E-1", "BANK-7")
    assert (entry.party_name, entry.party_iban) == ("CALCUL SA", THEIRS)
    assert (entry.booked_on.isoformat(), entry.value_on) == ("2026-11-26", entry.booked_on)
    assert (entry.reversal, entry.batch_of, entry.code) == (False, 1, "PMNT/RCDT/ESCT")


@both
def test_a_batch_that_is_taken_apart_becomes_its_payments(version: str) -> None:
    payments = [Payment("10.00", "A"), Payment("20.00", "B"), Payment("0.05", "C")]
    found = entries(Movement("30.05", payments, count=3), version=version)
    assert [(each.amount, each.remittance) for each in found] == [
        (Decimal("10.00"), "A"),
        (Decimal("20.00"), "B"),
        (Decimal("0.05"), "C"),
    ]
    assert len({each.key for each in found}) == 3


@both
def test_charges_taken_off_a_batch_are_an_entry_of_their_own(version: str) -> None:
    payments = [Payment("10.00", "A"), Payment("20.00", "B")]
    found = entries(Movement("29.50", payments, charges="0.50"), version=version)
    assert [each.amount for each in found] == [Decimal(x) for x in ("10.00", "20.00", "-0.50")]
    assert (found[2].remittance, found[2].code) == ("charges", "ACMT/CHRG")
    with pytest.raises(StatementRefused, match=r"batch of 29\.40") as refused:
        entries(Movement("29.40", payments, charges="0.50"), version=version)
    assert refused.value.code == "batch_mismatch"


@both
def test_a_batch_without_details_stays_whole_and_says_so(version: str) -> None:
    [entry] = entries(Movement("300.00", count=7), version=version)
    assert (entry.amount, entry.batch_of) == (Decimal("300.00"), 7)


@both
def test_one_text_for_a_batch_takes_nothing_apart(version: str) -> None:
    [entry] = entries(Movement("300.00", [Payment(text="collections")], count=7), version=version)
    assert (entry.batch_of, entry.remittance) == (7, "collections")


@both
def test_returned_debits_in_a_batch_know_their_charges(version: str) -> None:
    def back(amount: str) -> list[Payment]:
        return [
            Payment(amount, end_to_end=name, returned="AC04", charges="3.00")
            for name in ("DD-1", "DD-2")
        ]

    within = entries(Movement("-124.00", back("62.00"), reversal=True), version=version)
    assert [each.gross for each in within] == [-59, -59]
    beside = entries(Movement("-124.00", back("59.00"), reversal=True), version=version)
    assert [each.gross for each in beside] == [-59, -59, -6]
    assert [each.reversal for each in beside] == [True, True, False]


def test_a_batch_of_the_old_version_without_amounts_stays_whole() -> None:
    [entry] = entries(Movement("30.00", [Payment(), Payment()]), version="02")
    assert (entry.amount, entry.batch_of) == (Decimal("30.00"), 2)


@both
def test_charges_on_one_payment_tell_what_was_paid(version: str) -> None:
    [entry] = entries(Movement("118.00", [Payment()], charges="1.00"), version=version)
    assert (entry.amount, entry.charges, entry.gross) == (Decimal(118), Decimal(1), Decimal(119))
    [entry] = entries(Movement("118.00", [Payment(charges="1.00")]), version=version)
    assert (entry.amount, entry.gross) == (Decimal(118), Decimal(119))


@both
@pytest.mark.parametrize("marked", [True, False])
def test_a_returned_debit_is_a_reversal_of_the_debtors(version: str, marked: bool) -> None:
    payment = Payment(end_to_end="DD-1", mandate="M-1", returned="AC04")
    move = Movement("-122.00", [payment], reversal=marked, charges="3.00")
    [entry] = entries(move, version=version)
    assert entry.reversal and entry.return_reason == "AC04"
    assert (entry.amount, entry.charges, entry.gross) == (Decimal(-122), Decimal(3), Decimal(-119))
    assert (entry.end_to_end, entry.mandate) == ("DD-1", "M-1")
    assert (entry.party_name, entry.party_iban) == ("CALCUL SA", THEIRS)


@both
def test_what_is_not_booked_yet_is_left(version: str) -> None:
    found = entries(Movement("5.00"), Movement("7.00", status="PDNG"), version=version)
    assert [each.amount for each in found] == [5]


@both
@pytest.mark.parametrize(
    ("move", "more"),
    [(Movement("5.00", currency="USD"), {}), (Movement("5.00"), {"currency": "CHF"})],
)
def test_foreign_currency_is_refused(version: str, move: Movement, more: dict[str, str]) -> None:
    with pytest.raises(StatementRefused, match="not EUR") as refused:
        entries(move, version=version, **more)
    assert refused.value.code == "foreign_currency"


def test_a_statement_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(StatementRefused, match="STMT-1") as refused:
        read(document([Movement("5.00")], closing="1004.99"))
    assert refused.value.code == "balance_mismatch"


def test_an_overdrawn_account_adds_up_too() -> None:
    [statement] = read(document([Movement("-50.00")], opening="-10.00"))
    assert (statement.opening, statement.closing) == (Decimal(-10), Decimal(-60))


def test_a_page_without_closing_balance_is_read() -> None:
    data = document([Movement("5.00")]).replace(b"CLBD", b"ITBD")
    [statement] = read(data)
    assert statement.closing is None and len(statement.entries) == 1


def test_words_outside_of_a_payment_are_kept() -> None:
    [entry] = entries(Movement("5.00", info="Invoice DE-2026-000123"))
    assert entry.remittance == "Invoice DE-2026-000123"


@both
def test_keys_are_the_same_whenever_a_movement_is_read_again(version: str) -> None:
    same = Movement("5.00", [Payment(text="DE-2026-000123")])
    moves = [same, same, Movement("5.00", [Payment(text="DE-2026-000124")])]
    first = [each.key for each in entries(*moves, version=version)]
    assert len(set(first)) == 3
    assert [each.key for each in entries(*moves, version=version)] == first
    # Without a reference of the bank, another statement's movement is another one.
    other = entries(*moves, version=version, identifier="STMT-2")
    assert not set(first) & {each.key for each in other}
    # With one it is known again, whichever statement repeats it.
    named = Movement("5.00", [Payment()], bank_reference="BANK-7")
    [one], [two] = (entries(named, version=version, identifier=each) for each in ("S-1", "S-2"))
    assert one.key == two.key


def bomb(levels: int) -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, levels))
    return (
        f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "lol">{entities}]>'
        f"<Document>&l{levels - 1};</Document>"
    ).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bomb(10), "forbidden_xml"),
        (b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Document>&x;</Document>',
         "forbidden_xml"),
        (b'<!DOCTYPE d SYSTEM "http://127.0.0.1:9/x.dtd"><Document/>', "forbidden_xml"),
        (b"", "no_xml"),
        (b"Buchungstag;Betrag\n1;2\n", "no_xml"),
        (b"<Document>", "no_xml"),
        (b'<?xml version="1.0" encoding="none-such"?><Document/>', "no_xml"),
        (b"<Document/>", "no_document"),
        (b"<html xmlns='http://www.w3.org/1999/xhtml'/>", "no_document"),
        (document([]).replace(b"053.001.08", b"053.001.04"), "unknown_message"),
        (document([]).replace(b"camt.053", b"camt.052"), "unknown_message"),
        (document([]).replace(b"Stmt>", b"Rpt>"), "no_statement"),
        (document([]).replace(b"DE89", b"DE88"), "no_account"),
        (document([Movement("5.00")]).replace(b">5.00<", b">5.005<"), "bad_amount"),
        (document([Movement("5.00")]).replace(b">5.00<", b">5e2<"), "bad_amount"),
        (document([Movement("5.00")]).replace(b">5.00<", b">NaN<"), "bad_amount"),
        (document([Movement("5.00")]).replace(b">5.00<", b">-5.00<"), "bad_amount"),
        (document([Movement("5.00")]).replace(b"CRDT</CdtDbtInd><Sts", b"NONE</CdtDbtInd><Sts"),
         "bad_direction"),
        (document([Movement("5.00", day="2026-02-30")]), "bad_date"),
        (document([Movement("5.00", day="")]), "bad_date"),
    ],
)  # fmt: skip
def test_what_cannot_be_trusted_is_refused_by_name(data: bytes, code: str) -> None:
    with pytest.raises(StatementRefused) as refused:
        read(data)
    assert refused.value.code == code


def test_a_huge_file_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "MOST_BYTES", 10)
    with pytest.raises(StatementRefused, match="10 bytes"):
        read(document([]))


def test_a_file_in_another_encoding_is_read() -> None:
    text = document([Movement("5.00", [Payment(name="Müller Rechenwerk")])]).decode()
    latin = text.replace("UTF-8", "ISO-8859-1").encode("iso-8859-1")
    [statement] = read(latin)
    assert statement.entries[0].party_name == "Müller Rechenwerk"


cents = st.integers(1, 10**9)


@st.composite
def movements(draw: st.DrawFn) -> Movement:
    sign = draw(st.sampled_from(["", "-"]))
    parts = draw(st.lists(cents, min_size=1, max_size=4))
    fee = draw(st.integers(0, min(parts))) if len(parts) > 1 and not sign else 0
    whole = Decimal(sum(parts) - fee) / 100
    payments = [Payment(f"{Decimal(part) / 100:.2f}", "x") for part in parts]
    return Movement(
        f"{sign}{whole:.2f}",
        draw(st.sampled_from([payments, []])),
        charges=f"{Decimal(fee) / 100:.2f}" if fee else "",
        status=draw(st.sampled_from(["BOOK", "BOOK", "PDNG"])),
    )


@settings(deadline=None)  # the machine may be busy
@given(st.lists(movements(), max_size=6), st.sampled_from(VERSIONS))
def test_entries_always_add_up_to_the_closing_balance(moves: list[Movement], version: str) -> None:
    [statement] = read(document(moves, version))
    assert statement.opening is not None and statement.closing is not None
    total = sum((each.amount for each in statement.entries), Decimal(0))
    assert statement.opening + total == statement.closing
    assert len({each.key for each in statement.entries}) == len(statement.entries)


@settings(deadline=None)  # the machine may be busy
@given(st.binary(max_size=200), st.integers(0, 2000))
def test_no_bytes_break_the_reader(noise: bytes, at: int) -> None:
    whole = document([Movement("5.00", [Payment(text="x")])])
    try:
        read(whole[:at] + noise + whole[at:])
    except StatementRefused as refused:
        assert refused.code
