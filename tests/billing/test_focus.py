"""Costs as FOCUS 1.2: its requirements on columns, and that rows sum to the invoice."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from billing import rating
from billing.reports import focus

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
BILL = focus.Bill("acc_1", "Ada's agents", "EUR", MARCH, APRIL, "Stoa GmbH", "DE-2026-000001")
NAMES = focus.Names({"prj_1": "Scouts"}, {"ep_1": "Planner"}, {"eu-de-1": "Frankfurt"})
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?")
# Feature level "mandatory" and "allows nulls: false" in version 1.2.
NEVER_NULL = (
    *("BilledCost", "BillingAccountId", "BillingAccountType", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeFrequency"),
    *("ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost"),
    *(
        "InvoiceIssuerName",
        "ListCost",
        "ProviderName",
        "PublisherName",
        "ServiceCategory",
        "ServiceName",
    ),
    "ServiceSubcategory",
)
NEVER_NULL_OF_USAGE = (
    *("ListUnitPrice", "ContractedUnitPrice", "PricingCategory", "PricingQuantity", "SkuId"),
    *("PricingUnit", "ConsumedQuantity", "ConsumedUnit", "SkuMeter", "SkuPriceId"),
)
NUMBERS = (
    *("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "ListUnitPrice"),
    *("ContractedUnitPrice", "PricingQuantity", "ConsumedQuantity"),
)


def price(
    amount: str, meter: str = "device_seconds", kind: str = "nvidia-h200"
) -> rating.PriceVersion:
    return rating.PriceVersion(f"prc_{amount}", meter, Decimal(amount), MARCH, kind)


def used(quantity: int, paid: str = "2.49", listed: str = "2.99", **fields: object) -> focus.Used:
    at = MARCH + timedelta(hours=7)
    named = {"share": 1000, "credit": False, "meter": "device_seconds", **fields}
    meter = str(named["meter"])
    kind = "nvidia-h200" if meter == "device_seconds" else ""
    return focus.Used(
        at=at,
        until=at + timedelta(hours=1),
        project_id="prj_1",
        endpoint_id="ep_1",
        key_id="",
        agent="",
        region="eu-de-1",
        quantity=quantity,
        price=price(paid, meter, kind),
        listed=price(listed, meter, kind),
        share=int(str(named["share"])),
        credit=bool(named["credit"]),
    )


def of(*some: focus.Used, extras: tuple[focus.Extra, ...] = ()) -> list[dict[str, str | None]]:
    rows = focus.rows(BILL, NAMES, some, extras)
    return [dict(zip(focus.COLUMNS, row, strict=True)) for row in rows]


def test_an_hour_of_a_device() -> None:
    (row,) = of(used(3600 * 8))
    assert row["BilledCost"] == row["ContractedCost"] == row["EffectiveCost"] == "19.92"
    assert row["ListCost"] == "23.92"
    assert (row["PricingQuantity"], row["PricingUnit"]) == ("8", "Hours")
    assert (row["ConsumedQuantity"], row["ConsumedUnit"]) == ("28800", "Seconds")
    assert (row["ContractedUnitPrice"], row["ListUnitPrice"]) == ("2.49", "2.99")
    assert (row["SkuId"], row["SkuPriceId"]) == ("serving-hour/nvidia-h200", "prc_2.49")
    assert (row["SubAccountName"], row["ResourceName"]) == ("Scouts", "Planner")
    assert (row["RegionId"], row["RegionName"]) == ("eu-de-1", "Frankfurt")
    assert row["ChargePeriodStart"] == "2026-03-01T07:00:00Z"
    assert row["InvoiceId"] == "DE-2026-000001"


def test_a_quarter_of_a_device_is_a_quarter_of_its_hours() -> None:
    (row,) = of(used(3600, share=250))
    assert (row["PricingQuantity"], row["ContractedUnitPrice"]) == ("0.25", "2.49")
    assert (row["BilledCost"], row["ConsumedQuantity"]) == ("0.6225", "900")


def test_tokens() -> None:
    (row,) = of(used(1234, "0.40", "0.40", meter="output_tokens"))
    assert (row["PricingUnit"], row["PricingQuantity"]) == ("1000000 Tokens", "0.001234")
    assert (row["BilledCost"], row["SkuId"]) == ("0.0004936", "output-mtok/*")


def test_what_is_given_back_is_usage_below_zero() -> None:
    (row,) = of(used(1800, credit=True))
    assert (row["ChargeCategory"], row["ConsumedQuantity"]) == ("Usage", "-1800")
    assert (row["BilledCost"], row["ListUnitPrice"]) == ("-1.245", "2.99")


@given(
    st.lists(
        st.builds(
            used,
            st.integers(1, 10**7),
            st.sampled_from(["2.49", "0.000000000001", "0", "999999.123456789012"]),
            share=st.sampled_from([1, 333, 1000]),
            credit=st.booleans(),
            meter=st.sampled_from(["device_seconds", "output_tokens"]),
        ),
        max_size=8,
    ),
    st.decimals(-(10**6), 10**9, places=2),
)
@settings(max_examples=60, deadline=None)
def test_rows_keep_the_rules_and_sum_to_the_invoice(
    some: list[focus.Used], demanded: Decimal
) -> None:
    tax = focus.Extra("Tax", "VAT 19 %", Decimal("12.34"), MARCH, APRIL)
    late = focus.Extra("Adjustment", "of February", Decimal("-3.10"), MARCH, APRIL, correction=True)
    exact = sum((focus.cost(one) for one in some), Fraction(0))
    extras = (tax, late, focus.rounding(BILL, exact, (tax, late), demanded))
    rows = of(*some, extras=extras)
    for row in rows:
        assert all(row[column] is not None for column in NEVER_NULL), row
        assert "" not in row.values()  # null, never an empty text
        assert all(NUMBER.fullmatch(row[c] or "0") and row[c] != "-0" for c in NUMBERS), row
        if row["ChargeCategory"] == "Usage":
            _check_usage(row)
        if row["ChargeCategory"] == "Tax":
            empty = ("SkuId", "PricingQuantity", "ListUnitPrice", "PricingCategory", "PricingUnit")
            assert all(row[column] is None for column in empty)
    total = sum((Decimal(row["BilledCost"] or "0") for row in rows), Decimal(0))
    assert total.quantize(Decimal("0.01")) == demanded


def _check_usage(row: dict[str, str | None]) -> None:
    assert all(row[column] is not None for column in NEVER_NULL_OF_USAGE), row
    quantity = Fraction(row["PricingQuantity"] or "")
    for unit, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
        unit_price = Fraction(row[unit] or "")
        # The quantity is given to twelve places.
        assert abs(quantity * unit_price - Fraction(row[cost] or "")) <= (unit_price + 1) / 10**12
