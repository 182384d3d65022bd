"""Movements find the invoices that they pay, and nothing is paid by guess."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.sepa.camt053 import read
from billing.sepa.matching import Debit, Invoice, Match, Outcome, match
from billing.sepa.naming import Names
from billing.sepa.reference import make
from billing.sepa.statements import Entry
from tests.billing.sepa.bank import OURS, THEIRS, Movement, Payment, document

TODAY = date(2026, 11, 26)


def invoice(number: str, total: str, **more: Any) -> Invoice:
    name = f"DE-2026-{number}"
    return Invoice(f"inv_{number}", name, make(name), "cus_1", Decimal(total), **more)


ONE = invoice("000123", "119.00")
TWO = invoice("000124", "50.00")
PAID = invoice("000099", "119.00", paid=Decimal("119.00"))
DEBIT = Debit("DD-1", TWO.id, Decimal("50.00"))


def entry(amount: str, text: str = "", key: str = "k1", **more: Any) -> Entry:
    return Entry(key, OURS, Decimal(amount), TODAY, remittance=text, **more)


def one(found: Entry, *invoices: Invoice, **more: Any) -> Match:
    [result] = match([found], invoices or (ONE, TWO, PAID), **more)
    return result


def paid(found: Match) -> dict[str, str]:
    return {each.invoice: str(each.amount) for each in found.allocations}


@pytest.mark.parametrize(
    "text",
    [
        "DE-2026-000123",
        "Rechnung DE 2026 / 000123 vom 1.12.",
        "de-2026-000123",
        "DE-2026-00\n0123",  # torn where a line of the bank ended
        "RG.NR.DE-2026-000123/KD 7",
        ONE.reference,
        f"{ONE.reference[:4]} {ONE.reference[4:8]} {ONE.reference[8:]}",
    ],
)
def test_an_invoice_is_found_however_it_is_written(text: str) -> None:
    found = one(entry("119.00", text))
    assert (found.outcome, paid(found), found.rest) == (
        Outcome.EXACT,
        {ONE.id: "119.00"},
        Decimal(0),
    )


@pytest.mark.parametrize(
    "text",
    ["", "thank you", "DE-2026-0001234", "XDE-2026-000123", "2026-000123", "RF00DE2026000123"],
)
def test_what_only_looks_like_it_is_not_taken(text: str) -> None:
    found = one(entry("119.00", text))
    assert (found.outcome, found.allocations, found.rest) == (Outcome.UNMATCHED, (), Decimal(119))


def test_a_structured_reference_alone_is_enough() -> None:
    found = one(entry("119.00", reference=ONE.reference))
    assert (found.outcome, paid(found)) == (Outcome.EXACT, {ONE.id: "119.00"})


def test_of_two_numbers_one_within_the_other_the_longer_is_meant() -> None:
    short = Invoice("inv_s", "DE-2026-17", "", "cus_1", Decimal(5))
    long = Invoice("inv_l", "DE-2026-17-8", "", "cus_1", Decimal(5))
    assert Names([short, long]).named_in("DE-2026-17-8") == ("inv_l",)
    assert Names([short, long]).named_in("DE-2026-17 8") == ("inv_l",)
    assert Names([short, long]).named_in("DE-2026-17") == ("inv_s",)
    assert Names([short, long]).named_in("DE-2026-17-8 and DE-2026-17") == ("inv_l", "inv_s")
    assert (
        Names([replace(short, number="1-2")]).named_in("anything 1 2") == ()
    )  # too short to mean it


def test_less_and_more_than_is_open() -> None:
    less = one(entry("100.00", ONE.number))
    assert (less.outcome, paid(less), less.rest) == (
        Outcome.PARTIAL,
        {ONE.id: "100.00"},
        Decimal(0),
    )
    more = one(entry("120.00", ONE.number))
    assert (more.outcome, paid(more), more.rest) == (Outcome.OVER, {ONE.id: "119.00"}, Decimal(1))
    assert more.candidates == (ONE.id,)


def test_charges_that_our_bank_took_are_not_the_payers_debt() -> None:
    found = one(entry("118.00", ONE.number, charges=Decimal("1.00")))
    assert (found.outcome, paid(found)) == (Outcome.EXACT, {ONE.id: "119.00"})


def test_the_rest_of_a_part_payment_makes_it_whole() -> None:
    first, second, third = match(
        [entry("100.00", ONE.number, f"k{n}") for n in (1,)]
        + [entry("19.00", ONE.number, "k2"), entry("0.01", ONE.number, "k3")],
        [ONE],
    )
    assert (first.outcome, second.outcome) == (Outcome.PARTIAL, Outcome.EXACT)
    assert (third.outcome, third.rest, third.because) == (
        Outcome.OVER, Decimal("0.01"), "named in the payment: paid before",
    )  # fmt: skip


def test_one_payment_for_several_invoices() -> None:
    text = f"{ONE.number}, {TWO.number}"
    exact = one(entry("169.00", text))
    assert (exact.outcome, paid(exact)) == (Outcome.EXACT, {ONE.id: "119.00", TWO.id: "50.00"})
    over = one(entry("170.00", text))
    assert (over.outcome, over.rest, len(over.allocations)) == (Outcome.OVER, Decimal(1), 2)
    less = one(entry("119.00", text))
    assert (less.outcome, less.allocations, less.candidates) == (
        Outcome.AMBIGUOUS, (), (ONE.id, TWO.id),
    )  # fmt: skip
    # One of them is paid already: the whole is for the other.
    rest = one(entry("119.00", f"{PAID.number} {ONE.number}"))
    assert (rest.outcome, paid(rest)) == (Outcome.EXACT, {ONE.id: "119.00"})


def test_a_payment_twice_leaves_its_money_to_the_customer() -> None:
    found = one(entry("119.00", PAID.number))
    assert (found.outcome, found.allocations, found.rest) == (Outcome.OVER, (), Decimal(119))
    assert "paid before" in found.because
    first, second = match([entry("119.00", ONE.number, key) for key in ("a", "b")], [ONE])
    assert (first.outcome, second.outcome, second.rest) == (
        Outcome.EXACT,
        Outcome.OVER,
        Decimal(119),
    )


def test_a_movement_read_twice_is_booked_once() -> None:
    twice = [entry("119.00", ONE.number), entry("119.00", ONE.number)]
    assert [each.outcome for each in match(twice, [ONE])] == [Outcome.EXACT, Outcome.DUPLICATE]
    known = one(entry("119.00", ONE.number), seen=["k1"])
    assert (known.outcome, known.allocations, known.rest) == (Outcome.DUPLICATE, (), Decimal(0))


def test_a_known_account_and_the_very_amount() -> None:
    known = frozenset({THEIRS})
    first, second = (replace(each, payers=known) for each in (ONE, TWO))
    found = one(entry("50.00", "thanks", party_iban=THEIRS), first, second)
    assert (found.outcome, paid(found)) == (Outcome.EXACT, {TWO.id: "50.00"})
    other = one(entry("51.00", "thanks", party_iban=THEIRS), first, second)
    assert (other.outcome, other.candidates) == (Outcome.UNMATCHED, (ONE.id, TWO.id))
    same = replace(second, total=ONE.total)
    torn = one(entry("119.00", "thanks", party_iban=THEIRS), first, same)
    assert (torn.outcome, torn.candidates) == (Outcome.AMBIGUOUS, (ONE.id, TWO.id))
    stranger = one(entry("50.00", "thanks", party_iban=OURS), first, second)
    assert (stranger.outcome, stranger.candidates) == (Outcome.UNMATCHED, ())


def test_a_sum_that_the_bank_did_not_take_apart_is_left() -> None:
    found = one(entry("169.00", ONE.number, batch_of=2))
    assert (found.outcome, found.rest) == (Outcome.UNMATCHED, Decimal(169))


def test_our_debit_pays_its_invoice_and_its_return_opens_it_again() -> None:
    came = entry("50.00", key="a", end_to_end="DD-1")
    back = entry("-53.00", key="b", end_to_end="DD-1", reversal=True, return_reason="AC04")
    back = replace(back, charges=Decimal("3.00"))
    again = replace(back, key="c")
    later = entry("50.00", TWO.number, key="d")
    found = match([came, back, again, later], [ONE, TWO], [DEBIT])
    assert [each.outcome for each in found] == [
        Outcome.EXACT,
        Outcome.RETURNED,
        Outcome.UNMATCHED,
        Outcome.EXACT,
    ]
    assert paid(found[1]) == {TWO.id: "-50.00"} and "AC04" in found[1].because
    assert "returned before" in found[2].because and found[2].rest == -50


def test_a_return_of_another_amount_is_looked_at() -> None:
    settled = replace(TWO, paid=Decimal("50.00"))
    back = entry("-49.00", end_to_end="DD-1", reversal=True)
    found = one(back, settled, debits=[DEBIT])
    assert (found.outcome, found.candidates) == (Outcome.AMBIGUOUS, (TWO.id,))


def test_a_return_before_the_money_came_is_looked_at() -> None:
    found = one(entry("-50.00", end_to_end="DD-1", reversal=True), TWO, debits=[DEBIT])
    assert (found.outcome, found.rest) == (Outcome.UNMATCHED, Decimal(-50))


def test_a_payment_that_the_bank_recalls() -> None:
    found = one(entry("-119.00", PAID.number, reversal=True))
    assert (found.outcome, paid(found)) == (Outcome.RETURNED, {PAID.id: "-119.00"})
    nameless = one(entry("-119.00", "recall", reversal=True))
    assert nameless.outcome is Outcome.UNMATCHED


@pytest.mark.parametrize(
    "found",
    [
        entry("-9.90", "account fee"),
        entry("-119.00", PAID.number),  # a refund that we sent
        entry("0.00", ONE.number),
        entry("12.00", "came back", reversal=True),  # our own transfer, returned to us
    ],
)
def test_what_is_no_payment_to_us(found: Entry) -> None:
    result = one(found)
    assert (result.outcome, result.allocations, result.rest) == (
        Outcome.OUTGOING, (), found.amount,
    )  # fmt: skip


def test_a_debit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="inv_000124"):
        match([], [ONE], [DEBIT])


def test_from_the_banks_file_to_the_invoice() -> None:
    back = Payment(end_to_end="DD-1", returned="MD06")
    moves = [
        Movement("119.00", [Payment(reference=ONE.reference)]),
        Movement("49.50", [Payment("50.00", end_to_end="DD-1")], charges="0.50"),
        Movement("-53.00", [back], reversal=True, charges="3.00"),
    ]
    for version in ("02", "08"):
        [statement] = read(document(moves, version))
        found = match(statement.entries, [ONE, TWO], [DEBIT])
        assert [each.outcome for each in found] == ["exact", "exact", "returned"]


invoices = st.lists(
    st.tuples(st.integers(1, 10_000), st.integers(0, 10_000), st.booleans()), min_size=1, max_size=5
).map(
    lambda rows: [
        invoice(
            f"{number:06}",
            f"{Decimal(total) / 100:.2f}",
            paid=Decimal(min(total, before)) / 100,
            payers=frozenset({THEIRS} if known else ()),
        )
        for number, (total, before, known) in enumerate(rows, 100_000)
    ]
)
movements = st.lists(
    st.tuples(
        st.integers(-10_000, 20_000),
        st.lists(st.integers(0, 5), max_size=3),
        st.booleans(),
        st.sampled_from(["", "DD-0", "DD-1", "DD-9"]),
        st.sampled_from(["", THEIRS]),
        st.integers(0, 8),
    ),
    max_size=12,
)


@settings(deadline=None)  # the machine may be busy
@given(invoices, movements)
def test_no_cent_appears_or_is_lost(known: list[Invoice], rows: list[Any]) -> None:
    entries = [
        entry(
            f"{Decimal(cents) / 100:.2f}",
            " ".join(f"DE-2026-{100_000 + each:06}" for each in named),
            f"k{key}",
            reversal=reversal,
            end_to_end=end_to_end,
            party_iban=account,
        )
        for cents, named, reversal, end_to_end, account, key in rows
    ]
    debits = [Debit(f"DD-{n}", each.id, each.total) for n, each in enumerate(known) if n < 2]
    found = match(entries, known, debits)
    sums = {each.id: each.paid for each in known}
    for each in found:
        if each.outcome is not Outcome.DUPLICATE:
            allocated = sum((part.amount for part in each.allocations), Decimal(0))
            assert allocated + each.rest == each.entry.gross
        for part in each.allocations:
            sums[part.invoice] += part.amount
            total = next(one.total for one in known if one.id == part.invoice)
            assert 0 <= sums[part.invoice] <= total
        if each.outcome in (Outcome.UNMATCHED, Outcome.AMBIGUOUS, Outcome.OUTGOING):
            assert each.allocations == ()
    booked = {each.entry.key for each in found}
    assert len([each for each in found if each.outcome is not Outcome.DUPLICATE]) == len(booked)
    again = match(entries, known, debits, seen=booked)
    assert all(each.outcome is Outcome.DUPLICATE for each in again)
