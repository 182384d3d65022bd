"""Rating: exact, order-free, rounded once, and never zero in silence."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import rating
from billing.rating import PriceVersion, Quantity

START = datetime(2026, 3, 1, tzinfo=UTC)
METERS = sorted(rating.UNITS_PER_PRICE)

amounts = st.decimals(0, 1000, places=12)
moments = st.integers(0, 31 * 86_400).map(lambda s: START + timedelta(seconds=s))
kinds = st.sampled_from(["", "cpu", "nvidia-h200"])
quantities = st.lists(
    st.builds(
        Quantity,
        st.sampled_from(METERS),
        st.integers(0, 10**12),
        moments,
        kinds,
        st.one_of(st.just(1000), st.integers(1, 1000)),
    ),
    max_size=30,
)
# One general price from the start for each meter, so that everything has one, and changes.
price_lists = st.lists(st.tuples(st.sampled_from(METERS), amounts, moments, kinds), max_size=8).map(
    lambda changes: [
        PriceVersion(f"prc_{i}", meter, amount, at, kind)
        for i, (meter, amount, at, kind) in enumerate(
            [*((meter, Decimal("0.07"), START, "") for meter in METERS), *changes]
        )
    ]
)


def hourly(amount: str, at: datetime = START, kind: str = "", name: str = "prc_1") -> PriceVersion:
    return PriceVersion(name, "device_seconds", Decimal(amount), at, kind)


def test_eight_devices_for_a_month_cost_what_the_hourly_price_says() -> None:
    seconds = 8 * 30 * 86_400
    (line,) = rating.rate([Quantity("device_seconds", seconds, START)], [hourly("2.49")])
    assert line.amount == Decimal("14342.40")
    assert line.exact == Fraction(1_434_240, 100)
    # What a price per second, rounded to six decimals, would have made of it.
    assert round(seconds * round(Decimal("2.49") / 3600, 6), 2) == Decimal("14349.31")


def test_tokens_are_priced_by_the_million() -> None:
    price = PriceVersion("prc_1", "output_tokens", Decimal("0.40"), START)
    (line,) = rating.rate([Quantity("output_tokens", 1_234_567, START)], [price])
    assert line.exact == Fraction(4938268, 10**7)
    assert line.amount == Decimal("0.49")


@pytest.mark.parametrize(
    ("exact", "amount"),
    [
        (Fraction(5, 1000), "0.01"),
        (Fraction(4999, 10**6), "0.00"),
        (Fraction(15, 1000), "0.02"),
        (Fraction(-5, 1000), "-0.01"),
        (Fraction(1, 3), "0.33"),
        (Fraction(10**18) + Fraction(5, 1000), "1000000000000000000.01"),
    ],
)
def test_rounds_half_up_to_two_decimals(exact: Fraction, amount: str) -> None:
    assert str(rating.rounded(exact)) == amount


def test_a_change_of_price_within_the_period_splits_the_line() -> None:
    change = START + timedelta(hours=1, minutes=30)
    prices = [hourly("1.00"), hourly("3.00", change, name="prc_2")]
    minutes = [Quantity("device_seconds", 60, START + timedelta(minutes=m)) for m in range(180)]
    lines = rating.rate(minutes, prices)
    assert [(x.price.id, x.quantity, x.amount) for x in lines] == [
        ("prc_1", 5400, Decimal("1.50")),
        ("prc_2", 5400, Decimal("4.50")),
    ]


def test_the_price_of_the_very_device_kind_beats_the_general_one() -> None:
    later = START + timedelta(days=1)
    prices = [hourly("0.12", kind="cpu"), hourly("9.00", later, name="prc_2")]
    at = START + timedelta(days=2)
    (line,) = rating.rate([Quantity("device_seconds", 3600, at, "cpu")], prices)
    assert line.amount == Decimal("0.12")
    (line,) = rating.rate([Quantity("device_seconds", 3600, at, "nvidia-h200")], prices)
    assert line.amount == Decimal("9.00")


def test_usage_without_a_price_is_never_free_in_silence() -> None:
    early = Quantity("device_seconds", 60, START - timedelta(seconds=1))
    egress = Quantity("egress", 10**12, START)
    paid = Quantity("device_seconds", 60, START)
    with pytest.raises(rating.Unpriced, match="no price for device_seconds, egress") as caught:
        rating.rate([early, egress, paid], [hourly("1.00")])
    assert caught.value.quantities == (early, egress)
    lines, unpriced = rating.split([early, egress, paid], [hourly("1.00")])
    assert [line.quantity for line in lines] == [60]
    assert unpriced == [early, egress]


def test_a_price_in_another_currency_does_not_count() -> None:
    dollars = PriceVersion("prc_1", "device_seconds", Decimal(1), START, currency="USD")
    with pytest.raises(rating.Unpriced):
        rating.rate([Quantity("device_seconds", 1, START)], [dollars])


def test_floats_and_negatives_are_refused() -> None:
    with pytest.raises(TypeError):
        PriceVersion("prc_1", "device_seconds", 0.12, START)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        PriceVersion("prc_1", "device_seconds", Decimal("NaN"), START)
    with pytest.raises(TypeError):
        Quantity("device_seconds", 1.5, START)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        rating.rate([Quantity("device_seconds", -1, START)], [hourly("1")])


@given(quantities, price_lists, st.randoms(use_true_random=False))
def test_order_does_not_change_anything(
    used: list[Quantity], prices: list[PriceVersion], random: Random
) -> None:
    shuffled = list(used)
    random.shuffle(shuffled)
    assert rating.rate(used, prices) == rating.rate(shuffled, list(reversed(prices)))


@given(quantities, price_lists, st.integers(1, 5))
def test_grouping_changes_neither_exact_totals_nor_quantities(
    used: list[Quantity], prices: list[PriceVersion], size: int
) -> None:
    rest = iter(used)
    groups = iter(lambda: list(islice(rest, size)), [])
    parts = [line for group in groups for line in rating.rate(group, prices)]
    whole = rating.rate(used, prices)
    assert sum(line.exact for line in parts) == sum(line.exact for line in whole)
    for meter in METERS:
        expected = sum(q.quantity for q in used if q.meter == meter)
        assert sum(line.quantity for line in whole if line.meter == meter) == expected
        assert sum(line.quantity for line in parts if line.meter == meter) == expected


@given(quantities, price_lists)
def test_each_line_is_exact_and_within_half_a_cent_of_its_amount(
    used: list[Quantity], prices: list[PriceVersion]
) -> None:
    for line in rating.rate(used, prices):
        assert type(line.exact) is Fraction
        assert type(line.amount) is Decimal
        assert line.amount.as_tuple().exponent == -2
        assert abs(Fraction(line.amount) - line.exact) <= Fraction(1, 200)


def test_a_share_costs_its_thousandths_of_a_device_to_the_last_digit() -> None:
    third = Quantity("device_seconds", 7, START, share=333)
    (line,) = rating.rate([third], [hourly("2.49")])
    assert line.exact == Fraction("2.49") * 7 / 3600 * 333 / 1000
    for share in (0, 1001, 0.5):
        with pytest.raises(TypeError):
            Quantity("device_seconds", 1, START, share=share)  # type: ignore[arg-type]


@given(st.integers(0, 10**9), st.lists(st.integers(1, 999), max_size=6), amounts)
def test_shares_of_a_device_cost_what_the_device_would(
    seconds: int, cuts: list[int], amount: Decimal
) -> None:
    edges = [0, *sorted(set(cuts)), 1000]
    shares = [after - before for before, after in pairwise(edges)]
    price = PriceVersion("prc_1", "device_seconds", amount, START)
    parts = [Quantity("device_seconds", seconds, START, share=share) for share in shares]
    whole = rating.rate([Quantity("device_seconds", seconds, START)], [price])
    assert sum(line.exact for line in rating.rate(parts, [price])) == whole[0].exact


@given(quantities, price_lists)
def test_each_quantity_meets_the_price_of_its_own_time(
    used: list[Quantity], prices: list[PriceVersion]
) -> None:
    for one in used:
        (line,) = rating.rate([one], prices)
        assert line.price.valid_from <= one.at
        newer = [
            p
            for p in prices
            if p.meter == one.meter
            and p.device_kind == line.price.device_kind
            and line.price.valid_from < p.valid_from <= one.at
        ]
        assert not newer
