"""What usage costs: by project, key, endpoint, agent, run or hour, for an account and a period.

The sums that the database keeps (`rollup`) are cut wherever a price changes; rating prices them.
What is owed (charge, less what was given back: credit) and what only says where an owed cost came
from (attribution) are never added up.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

from billing import errors, months, rating
from billing.meters import rollup
from billing.models import Account, Basis
from billing.pricing import prices

Grouping = Literal["organization", "project", "key", "endpoint", "agent", "run", "hour"]

# `run`: of a topmost run, with all that is below it.
_DIMENSIONS: dict[Grouping, str] = {
    "organization": "''",
    "project": "project_id",
    "key": "key_id",
    "endpoint": "endpoint_id",
    "agent": "agent",
    "run": "run",
    "hour": "to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00:00\"Z\"')",
}
# Exact amounts are shown to nine decimals: a single request costs less than a cent.
_SHOWN_PLACES = 9


@dataclass(frozen=True)
class Running:
    """Device-seconds that are being served and are not usage yet (device count included)."""

    project_id: str
    endpoint_id: str
    device_kind: str
    device_seconds: int
    share: int = rating.WHOLE  # thousandths of each


@dataclass(frozen=True)
class Row:
    """What one project, key, endpoint, agent, run or hour cost on one basis: what was charged less
    what was given back, or attributed. `quantities`: by meter, parts of devices counted for what
    they are of a whole one.

    `exact` has nine decimals and `amount` two. Rows are rounded each for itself, so only `exact`
    adds up.
    """

    key: str
    basis: str
    quantities: dict[str, int]
    amount: str
    exact: str


@dataclass(frozen=True)
class CostLine:
    """What an invoice for the period would say: one meter under one price, rounded once. What was
    given back (basis `credit`) stands in lines of its own, quantity and amount below zero.

    `share`: thousandths of a device that each unit is; lines of parts of devices stand apart.
    """

    basis: str
    meter: str
    device_kind: str
    quantity: int
    unit_amount: str  # for `unit_size` units of the meter
    unit_size: int
    price_id: str
    amount: str
    exact: str
    share: int = rating.WHOLE


@dataclass(frozen=True)
class UnpricedUsage:
    key: str
    basis: str
    meter: str
    device_kind: str
    quantity: int
    share: int = rating.WHOLE


@dataclass(frozen=True)
class Costs:
    """Money is text, times are RFC 3339; `charge` (with credits) and `attribution` are sums of
    `lines`."""

    account_id: str
    currency: str
    start: str
    end: str
    grouping: str
    rows: tuple[Row, ...]
    lines: tuple[CostLine, ...]
    unpriced: tuple[UnpricedUsage, ...]
    charge: str
    charge_exact: str
    attribution: str
    attribution_exact: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Used:
    """One sum out of the database; `at` lies within the price segment that it was summed for."""

    key: str
    basis: str
    quantity: rating.Quantity


def by(
    grouping: Grouping,
    account_id: str,
    *,
    start: datetime,
    end: datetime,
    project_id: str | None = None,
    endpoint_id: str | None = None,
    running: Sequence[Running] = (),
) -> Costs:
    """Costs of the usage with start <= at < end, plus what is `running` (placed just before end).

    Raises `errors.UnknownAccount`. Usage without a price is listed as such, and costs nothing
    here: the caller shows it.
    """
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    versions = prices.versions(account.currency, account.id)
    only = {"project_id": project_id, "endpoint_id": endpoint_id}
    filters = {column: value for column, value in only.items() if value is not None}
    used = _sums(grouping, account_id, start, end, versions, filters)
    used += [
        _running(grouping, item, end)
        for item in running
        if all(getattr(item, column) == value for column, value in filters.items())
        and item.device_seconds > 0
    ]
    return _costs(grouping, account, start, end, used, versions)


def so_far(
    account_id: str,
    *,
    now: datetime,
    grouping: Grouping = "endpoint",
    project_id: str | None = None,
    endpoint_id: str | None = None,
    running: Sequence[Running] = (),
) -> Costs:
    """Costs since the month began (UTC), with the seconds that `running` replicas add."""
    return by(
        grouping,
        account_id,
        start=months.start_of(now),
        end=now,
        project_id=project_id,
        endpoint_id=endpoint_id,
        running=running,
    )


def _sums(
    grouping: Grouping,
    account_id: str,
    start: datetime,
    end: datetime,
    versions: Iterable[rating.PriceVersion],
    filters: dict[str, str],
) -> list[_Used]:
    found = rollup.sums(
        _DIMENSIONS[grouping],
        account_id,
        start,
        end,
        turns=rating.changes(versions),
        only=filters,
        runs=grouping == "run",
    )
    return [
        _Used(
            one.key,
            one.basis,
            rating.Quantity(one.meter, one.quantity, one.at, one.device_kind, one.share),
        )
        for one in found
    ]


def _running(grouping: Grouping, item: Running, at: datetime) -> _Used:
    keys = {
        "project": item.project_id,
        "endpoint": item.endpoint_id,
        "hour": at.astimezone(UTC).strftime("%Y-%m-%dT%H:00:00Z"),
    }
    key = keys.get(grouping, "")
    quantity = rating.Quantity(
        "device_seconds", item.device_seconds, at, item.device_kind, item.share
    )
    return _Used(key, Basis.CHARGE.value, quantity)


def _costs(
    grouping: Grouping,
    account: Account,
    start: datetime,
    end: datetime,
    used: Iterable[_Used],
    versions: Sequence[rating.PriceVersion],
) -> Costs:
    groups: defaultdict[tuple[str, str], list[_Used]] = defaultdict(list)
    totals: defaultdict[str, list[rating.Quantity]] = defaultdict(list)
    for item in used:
        owed = Basis.CHARGE.value if item.basis == Basis.CREDIT else item.basis
        groups[item.key, owed].append(item)
        totals[item.basis].append(item.quantity)
    rows, unpriced = [], []
    for (key, basis), of in sorted(groups.items()):
        row, without = _row(key, basis, of, versions, account)
        rows.append(row)
        unpriced += without
    lines = [
        (basis, line)
        for basis, quantities in sorted(totals.items())
        for line in rating.split(quantities, versions, account.currency, account.id)[0]
    ]
    charge = [one for one in lines if one[0] != Basis.ATTRIBUTION]
    attribution = [one for one in lines if one[0] == Basis.ATTRIBUTION]
    return Costs(
        account_id=account.id,
        currency=account.currency,
        start=_stamp(start),
        end=_stamp(end),
        grouping=grouping,
        rows=tuple(rows),
        lines=tuple(itertools.starmap(_line, lines)),
        unpriced=tuple(unpriced),
        charge=_sum(charge),
        charge_exact=_exact(sum((_signed(*one) for one in charge), Fraction(0))),
        attribution=_sum(attribution),
        attribution_exact=_exact(sum((_signed(*one) for one in attribution), Fraction(0))),
    )


def _row(
    key: str,
    basis: str,
    used: Iterable[_Used],
    versions: Sequence[rating.PriceVersion],
    account: Account,
) -> tuple[Row, list[UnpricedUsage]]:
    """What was charged less what was given back."""
    total = Fraction(0)
    milli: defaultdict[str, int] = defaultdict(int)
    parts: defaultdict[str, list[rating.Quantity]] = defaultdict(list)
    unpriced = []
    for one in used:
        parts[one.basis].append(one.quantity)
        milli[one.quantity.meter] += _sign(one.basis) * one.quantity.quantity * one.quantity.share
    for part, quantities in sorted(parts.items()):
        lines, without = rating.split(quantities, versions, account.currency, account.id)
        total += _sign(part) * sum((line.exact for line in lines), Fraction(0))
        unpriced += [
            UnpricedUsage(key, part, lost.meter, lost.device_kind, lost.quantity, lost.share)
            for lost in without
        ]
    sums = {meter: int(rating.rounded(Fraction(n, rating.WHOLE), 0)) for meter, n in milli.items()}
    shown = str(rating.rounded(total))
    return Row(key, basis, dict(sorted(sums.items())), shown, _exact(total)), unpriced


def _sign(basis: str) -> int:
    return -1 if basis == Basis.CREDIT else 1


def _line(basis: str, line: rating.Line) -> CostLine:
    sign = _sign(basis)
    return CostLine(
        basis=basis,
        meter=line.meter,
        device_kind=line.device_kind,
        quantity=sign * line.quantity,
        unit_amount=str(line.price.amount),
        unit_size=rating.UNITS_PER_PRICE[line.meter],
        price_id=line.price.id,
        amount=str(rating.rounded(_signed(basis, line))),
        exact=_exact(_signed(basis, line)),
        share=line.share,
    )


def _exact(amount: Fraction) -> str:
    return f"{rating.rounded(amount, _SHOWN_PLACES):f}"


def _signed(basis: str, line: rating.Line) -> Fraction:
    return _sign(basis) * line.exact


def _sum(lines: Iterable[tuple[str, rating.Line]]) -> str:
    """Each rounded for itself, as on an invoice."""
    amounts = (rating.rounded(_signed(*one)) for one in lines)
    return str(sum(amounts, rating.rounded(Fraction(0))))


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
