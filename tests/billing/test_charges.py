"""The lines of a month: exact, the same however usage was cut, and late usage by difference."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import rating
from billing.pricing import charges
from billing.pricing.charges import Allowance, Charge, Commitment, Terms, Tier, Used
from billing.pricing.terms import NO_TERMS, CurrencyMismatch
from billing.rating import PriceVersion

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
NOON = START + timedelta(days=14, hours=12)
ACCOUNT = "acc_1"
HOUR = 3600


def hourly(amount: str, at: datetime = START, kind: str = "gpu", **fields: Any) -> PriceVersion:
    named: dict[str, Any] = {
        "id": f"prc_{amount}_{kind}{fields.get('account_id', '')}",
        "device_kind": kind,
    }
    return PriceVersion(
        meter="device_seconds", amount=Decimal(amount), valid_from=at, **named | fields
    )


def used(quantity: int, at: datetime = NOON, **fields: Any) -> Used:
    named: dict[str, Any] = {
        "project_id": "prj_1",
        "endpoint_id": "ep_1",
        "meter": "device_seconds",
        "device_kind": "gpu",
        "share": 1000,
        "basis": "charge",
    }
    return Used(at=at, quantity=quantity, **named | fields)


def month(
    usage: list[Used], prices: list[PriceVersion], terms: Terms = NO_TERMS, **fields: Any
) -> list[Charge]:
    named: dict[str, Any] = {"account_id": ACCOUNT, "currency": "EUR", "start": START, "end": END}
    return charges.of_period(usage, prices, terms, **named | fields)


def said(lines: list[Charge]) -> list[tuple[str, int, str]]:
    return [(line.kind, line.quantity, str(line.amount)) for line in lines]


def test_a_change_of_price_in_mid_hour_makes_two_lines_with_their_dates() -> None:
    change = NOON + timedelta(minutes=30)
    prices = [hourly("1.00"), hourly("3.00", change)]
    minutes = [used(60, NOON + timedelta(minutes=n)) for n in range(60)]
    lines = month(minutes, prices)
    assert [(x.quantity, x.amount, x.start, x.end) for x in lines] == [
        (1800, Decimal("0.50"), START, change),
        (1800, Decimal("1.50"), change, END),
    ]


def test_an_override_holds_from_its_start_in_mid_month_and_for_its_account_alone() -> None:
    prices = [
        hourly("2.00"),
        hourly("1.50", NOON, account_id=ACCOUNT, valid_to=NOON + timedelta(hours=2)),
        hourly("9.00", NOON, account_id="acc_2"),
    ]
    usage = [used(HOUR, NOON + timedelta(hours=n)) for n in (-1, 0, 1, 2)]
    assert said(month(usage, prices)) == [("usage", 7200, "4.00"), ("usage", 7200, "3.00")]
    assert [x.start for x in month(usage, prices)] == [START, NOON]
    assert charges.total(month(usage, prices, account_id="acc_3")) == Decimal("8.00")


def test_usage_in_a_gap_between_prices_is_unpriced_aloud() -> None:
    ended = [hourly("1.00", valid_to=NOON), hourly("2.00", NOON + timedelta(hours=1))]
    month([used(1, NOON - timedelta(seconds=1)), used(1, NOON + timedelta(hours=1))], ended)
    with pytest.raises(rating.Unpriced, match="no price for device_seconds gpu") as caught:
        month([used(2, NOON), used(3, NOON), used(4, NOON + timedelta(hours=1))], ended)
    assert [one.quantity for one in caught.value.quantities] == [5]
    withdrawn = [hourly("1.00"), hourly("1", NOON, id="prc_end", valid_to=NOON)]
    with pytest.raises(rating.Unpriced):
        month([used(1, END - timedelta(hours=1))], withdrawn)


def test_what_is_of_no_known_meter_or_of_another_month_is_refused() -> None:
    with pytest.raises(rating.Unpriced, match="egress"):
        month([used(1, meter="egress")], [hourly("1.00", kind="")])
    for at in (START - timedelta(microseconds=1), END):
        with pytest.raises(ValueError, match="is not of"):
            month([used(1, at)], [hourly("1.00", START - timedelta(days=1))])


@pytest.mark.parametrize(
    "fields", [{"quantity": -1}, {"quantity": 1.0}, {"share": 0}, {"basis": "attribution"}]
)
def test_absurd_usage_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"quantity|share|basis"):
        replace(used(1), **fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Allowance("x", START, meter="egress", quantity=1),
        lambda: Allowance("x", START, meter="device_seconds", quantity=1, amount=Decimal(1)),
        lambda: Allowance("x", START, quantity=5),
        lambda: Commitment("x", START, Decimal("-1")),
        lambda: Commitment("x", START, Decimal("NaN")),
        lambda: Commitment("x", START, Decimal("0.001")),
        lambda: Tier("x", START, "device_seconds", over=-1, discount=1),
        lambda: Tier("x", START, "device_seconds", over=1, discount=1001),
        lambda: Tier("x", START, "bandwidth", over=1, discount=1),
        lambda: hourly("1.00", valid_to=START - timedelta(seconds=1)),
    ],
)
def test_absurd_terms_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"meter|amount|quantity|discount|price"):
        make()


def test_prices_and_terms_in_another_currency_are_never_converted() -> None:
    with pytest.raises(rating.Unpriced):
        month([used(1)], [hourly("1.00", currency="USD")])
    dollars = Terms(commitments=(Commitment("cmt_1", START, Decimal(5), "USD"),))
    with pytest.raises(CurrencyMismatch):
        month([used(1)], [hourly("1.00")], dollars)


def test_credits_stand_beside_what_they_undo() -> None:
    lines = month([used(7200), used(600, basis="credit")], [hourly("3.00")])
    assert said(lines) == [("usage", 7200, "6.00"), ("credit", -600, "-0.50")]


def test_free_quantities_take_off_the_dearest_first_and_no_more_than_was_used() -> None:
    prices = [hourly("1.00", kind="small"), hourly("4.00", kind="big")]
    usage = [used(HOUR, device_kind="small"), used(HOUR, device_kind="big", share=500)]
    free = Terms((Allowance("alw_1", START, "device_seconds", quantity=2400, note="free"),))
    assert said(month(usage, prices, free)) == [
        ("usage", 3600, "2.00"),
        ("allowance", -3600, "-2.00"),
        ("usage", 3600, "1.00"),
        ("allowance", -600, "-0.17"),
    ]
    much = Terms((Allowance("alw_1", START, "device_seconds", quantity=10**12),))
    assert charges.total(month(usage, prices, much)) == 0


def test_tiers_discount_what_lies_beyond_and_a_kinds_own_stand_instead() -> None:
    prices = [hourly("1.00", kind="")]
    scale = (
        Tier("tir_1", START, "device_seconds", 10 * HOUR, 100),
        Tier("tir_2", START, "device_seconds", 20 * HOUR, 250),
        Tier("tir_3", START, "device_seconds", 0, 500, device_kind="own"),
    )
    lines = month([used(25 * HOUR), used(HOUR, device_kind="own")], prices, Terms(tiers=scale))
    assert said(lines) == [
        ("usage", 25 * HOUR, "25.00"),
        ("tier", -10 * HOUR, "-1.00"),
        ("tier", -5 * HOUR, "-1.25"),
        ("usage", HOUR, "1.00"),
        ("tier", -HOUR, "-0.50"),
    ]


def test_a_free_amount_takes_no_more_than_there_is_and_then_the_minimum_is_made_up() -> None:
    free = Allowance("alw_1", START, amount=Decimal("2.00"))
    least = Commitment("cmt_1", START, Decimal("10.00"), note="minimum")
    lines = month([used(HOUR)], [hourly("1.50")], Terms((free,), (least,)))
    assert said(lines)[1:] == [("allowance", -1, "-1.50"), ("commitment", 1, "10.00")]
    assert said(month([], [], Terms((), (least,)))) == [("commitment", 1, "10.00")]
    assert len(month([used(100 * HOUR)], [hourly("1.50")], Terms((), (least,)))) == 1


def test_of_what_regulates_the_same_the_newest_at_the_months_start_holds() -> None:
    rows = (
        Commitment("cmt_1", START - timedelta(days=59), Decimal(7)),
        Commitment("cmt_2", START, Decimal(5)),
        Commitment("cmt_3", END, Decimal(0)),
    )
    assert charges.total(month([], [], Terms(commitments=rows))) == 5
    later = month([], [], Terms(commitments=rows), start=END, end=END + timedelta(days=30))
    assert later == []


def test_late_usage_eats_what_was_missing_to_the_minimum() -> None:
    terms = Terms(commitments=(Commitment("cmt_1", START, Decimal("10.00")),))
    was = month([used(HOUR)], [hourly("4.00")], terms)
    now = month([used(HOUR), used(HOUR)], [hourly("4.00")], terms)
    late = charges.adjustments(was, now, start=START, end=END, note="2026-03")
    assert said(late) == [("adjustment", 3600, "4.00"), ("adjustment", -1, "-4.00")]
    assert {(line.start, line.end, line.note) for line in late} == {(START, END, "2026-03")}
    assert charges.adjustments([*was, *late], now, start=START, end=END) == []


# --- properties -------------------------------------------------------------------

# The machine may be busy.
BUSY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

moments = st.integers(0, 31 * 86_400 - 1).map(lambda s: START + timedelta(seconds=s))
usages = st.lists(
    st.builds(
        used,
        st.integers(0, 10**7),
        moments,
        endpoint_id=st.sampled_from(["ep_1", "ep_2"]),
        device_kind=st.sampled_from(["small", "big"]),
        share=st.sampled_from([1000, 333]),
        basis=st.sampled_from(["charge", "charge", "credit"]),
    ),
    max_size=12,
)
amounts = st.decimals(0, 100, places=7)
price_lists = st.lists(
    st.tuples(amounts, moments, st.sampled_from(["", "big"]), st.sampled_from(["", ACCOUNT])),
    max_size=5,
).map(
    lambda rows: [
        hourly("0.07", kind=""),
        *(
            PriceVersion(f"prc_{n}", "device_seconds", amount, at, kind, account_id=of)
            for n, (amount, at, kind, of) in enumerate(rows)
        ),
    ]
)
agreements = st.builds(
    lambda free, euro, least, over: Terms(
        (
            Allowance("alw_1", START, "device_seconds", quantity=free),
            Allowance("alw_2", START, amount=Decimal(euro)),
        ),
        (Commitment("cmt_1", START, Decimal(least)),),
        (
            Tier("tir_1", START, "device_seconds", over, 77),
            Tier("tir_2", START, "device_seconds", 2 * over, 500),
        ),
    ),
    st.integers(0, 10**6),
    st.integers(0, 50),
    st.integers(0, 500),
    st.integers(1, 10**6),
)


@BUSY
@given(usages, price_lists, agreements, st.randoms(use_true_random=False))
def test_cutting_and_order_change_nothing(
    usage: list[Used], prices: list[PriceVersion], terms: Terms, random: Random
) -> None:
    pieces = []
    for one in usage:
        first = random.randint(0, one.quantity)
        pieces += [replace(one, quantity=first), replace(one, quantity=one.quantity - first)]
    random.shuffle(pieces)
    lines = month(usage, prices, terms)
    shuffled = random.sample(prices, len(prices))
    assert month(pieces, shuffled, terms) == lines
    for line in lines:
        assert line.exact == Fraction(line.unit_amount) * line.quantity / line.unit_size
        assert line.amount == rating.rounded(line.exact)
        assert START <= line.start < line.end <= END
    least = terms.commitments[0].amount  # zero: there is none, and what was given back stays so
    assert not least or charges.total(lines) >= least


@BUSY
@given(usages, price_lists, agreements, st.integers(0, 12), st.integers(0, 12))
def test_late_usage_comes_to_what_the_month_would_have_come_to(
    usage: list[Used], prices: list[PriceVersion], terms: Terms, first: int, second: int
) -> None:
    """Twice late: what was billed and both adjustments are the month's lines, to the cent."""
    billed = month(usage[:first], prices, terms)
    for known in (first + second, len(usage)):
        now = month(usage[: max(first, known)], prices, terms)
        late = charges.adjustments(billed, now, start=START, end=END)
        billed += late
        assert charges.total(billed) == charges.total(now)
        assert all(line.amount == rating.rounded(line.exact) for line in late)
        assert all(line.quantity for line in late)
