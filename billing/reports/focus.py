"""Costs in FinOps' common format: FOCUS 1.2, one row for each hour, resource and price. Pure.

https://focus.finops.org: the columns that FOCUS calls mandatory, those conditional ones whose
condition holds here, and a few of our own (`x_…`). Null is an empty field in CSV. `BilledCost` of
the rows of an invoice sums to what the invoice demands: each invoice line that is not usage, each
cent of rounding and the VAT are rows of their own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from billing import rating
from billing.pricing import skus

VERSION = "1.2"
COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType"),
    *("BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory"),
    *("ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd"),
    *("ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost"),
    *("ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost"),
    *("ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName"),
    *("PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType"),
    *("ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter"),
    *("SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType"),
    *("x_AgentId", "x_KeyId"),
)
# As many as a price has. What a second costs may have no end in decimals.
_PLACES = 12
_TOKENS = "1000000 Tokens"

Value = str | None


@dataclass(frozen=True)
class Bill:
    """Whose costs, by whom, for which month (start <= t < end), and on which invoice (a number;
    "" while there is none)."""

    account_id: str
    account_name: str
    currency: str
    start: datetime
    end: datetime
    issuer: str
    invoice: str = ""


@dataclass(frozen=True)
class Names:
    """What ids are called today; what is gone keeps its id alone."""

    projects: dict[str, str]
    endpoints: dict[str, str]
    regions: dict[str, str]


@dataclass(frozen=True)
class Used:
    """One sum of usage under one price, from `at` to `until`, within one hour.

    `listed` is the list price where `price` is the account's own. `credit`: given back.
    """

    at: datetime
    until: datetime
    project_id: str
    endpoint_id: str
    key_id: str
    agent: str
    region: str
    quantity: int
    price: rating.PriceVersion
    listed: rating.PriceVersion
    share: int = rating.WHOLE
    credit: bool = False


@dataclass(frozen=True)
class Extra:
    """What an invoice says beside usage: `category` is "Credit", "Adjustment" or "Tax";
    `correction` marks what changes an earlier month."""

    category: str
    text: str
    amount: Decimal
    start: datetime
    end: datetime
    project_id: str = ""
    endpoint_id: str = ""
    correction: bool = False


def rows(
    bill: Bill, names: Names, used: Iterable[Used], extras: Sequence[Extra] = ()
) -> Iterator[tuple[Value, ...]]:
    """In the order of `used`, then the extras; each in the order of COLUMNS."""
    for one in used:
        yield _row(_usage(bill, names, one))
    for extra in extras:
        yield _row(_extra(bill, names, extra))


def rounding(bill: Bill, exact: Fraction, extras: Iterable[Extra], demanded: Decimal) -> Extra:
    """The row that makes a month's rows sum to what its invoice demands."""
    rest = Fraction(demanded) - exact - sum((Fraction(one.amount) for one in extras), Fraction(0))
    amount = rating.rounded(rest, _PLACES)
    return Extra("Adjustment", "Rounding of lines to cents", amount, bill.start, bill.end)


def cost(one: Used) -> Fraction:
    """What it is billed at, unrounded; given back: negative."""
    return _sign(one) * rating.exact_amount(one.quantity, one.price, one.share)


def _usage(bill: Bill, names: Names, one: Used) -> dict[str, Value]:
    unit_size = rating.UNITS_PER_PRICE[one.price.meter]
    seconds = unit_size == 3600
    # Part of a device is so much less of it, at the same price.
    consumed = Fraction(_sign(one) * one.quantity * one.share, rating.WHOLE)
    listed = _sign(one) * rating.exact_amount(one.quantity, one.listed, one.share)
    exact = cost(one)
    return {
        **_common(bill, names, one.project_id, one.endpoint_id),
        "ChargeCategory": "Usage",
        "ChargeDescription": _described(one),
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": stamp(one.at),
        "ChargePeriodEnd": stamp(one.until),
        "BilledCost": _number(exact),
        "EffectiveCost": _number(exact),
        "ContractedCost": _number(exact),
        "ListCost": _number(listed),
        "ContractedUnitPrice": _number(Fraction(one.price.amount)),
        "ListUnitPrice": _number(Fraction(one.listed.amount)),
        "PricingCategory": "Standard",
        "PricingQuantity": _number(consumed / unit_size),
        "PricingUnit": "Hours" if seconds else _TOKENS,
        "ConsumedQuantity": _number(consumed),
        "ConsumedUnit": "Seconds" if seconds else "Tokens",
        "RegionId": one.region or None,
        "RegionName": names.regions.get(one.region, one.region) or None,
        "SkuId": skus.code(one.price.meter, one.price.device_kind),
        "SkuMeter": one.price.meter,
        "SkuPriceId": one.price.id,
        "x_KeyId": one.key_id or None,
        "x_AgentId": one.agent or None,
    }


def _extra(bill: Bill, names: Names, extra: Extra) -> dict[str, Value]:
    amount = _number(Fraction(extra.amount))
    return {
        **_common(bill, names, extra.project_id, extra.endpoint_id),
        "ChargeCategory": extra.category,
        "ChargeClass": "Correction" if extra.correction else None,
        "ChargeDescription": extra.text,
        "ChargeFrequency": "One-Time",
        "ChargePeriodStart": stamp(extra.start),
        "ChargePeriodEnd": stamp(extra.end),
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ContractedCost", "ListCost"), amount),
    }


def _common(bill: Bill, names: Names, project_id: str, endpoint_id: str) -> dict[str, Value]:
    found: dict[str, Value] = {
        "BillingAccountId": bill.account_id,
        "BillingAccountName": bill.account_name,
        "BillingAccountType": "Organization",
        "BillingCurrency": bill.currency,
        "BillingPeriodStart": stamp(bill.start),
        "BillingPeriodEnd": stamp(bill.end),
        "InvoiceId": bill.invoice or None,
        "InvoiceIssuerName": bill.issuer,
        "ProviderName": bill.issuer,
        "PublisherName": bill.issuer,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Inference",
        "ServiceSubcategory": "Generative AI",
    }
    if project_id:
        found["SubAccountId"] = project_id
        found["SubAccountName"] = names.projects.get(project_id)
        found["SubAccountType"] = "Project"
    if endpoint_id:
        found["ResourceId"] = endpoint_id
        found["ResourceName"] = names.endpoints.get(endpoint_id)
        found["ResourceType"] = "Endpoint"
    return found


def _described(one: Used) -> str:
    text = one.price.meter.replace("_", " ")
    if one.price.device_kind:
        text += f" on {one.price.device_kind}"
    return f"given back: {text}" if one.credit else text


def _row(values: dict[str, Value]) -> tuple[Value, ...]:
    return tuple(values.get(column) for column in COLUMNS)


def _sign(one: Used) -> int:
    return -1 if one.credit else 1


def _number(value: Fraction) -> str:
    """A decimal of at most twelve places, as prices have; no exponent, plus or idle zeros."""
    text = f"{rating.rounded(value, _PLACES):f}"
    text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
