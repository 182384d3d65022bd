"""What usage costs: by project, key, endpoint or hour, for an account and a period.

PostgreSQL sums the quantities, cut wherever a price changes; rating prices the sums. What is
owed (charge) and what only says where an owed cost came from (attribution) are never added up.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

from django.db import connection

from billing import errors, prices, rating
from billing.models import Account, Basis

Grouping = Literal["project", "key", "endpoint", "hour"]

_DIMENSIONS: dict[str, str] = {
    "project": "project_id",
    "key": "key_id",
    "endpoint": "endpoint_id",
    "hour": "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00:00\"Z\"')",
}
# Cuts a sum wherever some price changes; its parameter is `price_changes(...)`.
PRICE_SEGMENT = "width_bucket(at, ARRAY['-infinity'::timestamptz] || %s::timestamptz[])"
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
    """What one project, key, endpoint or hour cost on one basis. `quantities`: by meter, parts of
    devices counted for what they are of a whole one.

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
    """What an invoice for the period would say: one meter under one price, rounded once.

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
    """Money is text, times are RFC 3339; `charge` and `attribution` are sums of `lines`."""

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
        start=month_start(now),
        end=now,
        project_id=project_id,
        endpoint_id=endpoint_id,
        running=running,
    )


def price_changes(versions: Iterable[rating.PriceVersion]) -> list[datetime]:
    return rating.changes(versions)


def month_start(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _sums(
    grouping: Grouping,
    account_id: str,
    start: datetime,
    end: datetime,
    versions: Iterable[rating.PriceVersion],
    filters: dict[str, str],
) -> list[_Used]:
    narrowed = "".join(f" AND {column} = %s" for column in filters)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_DIMENSIONS[grouping]}, basis, meter, device_kind,"
            " share, sum(quantity)::bigint, min(at) FROM billing_usageevent"
            f" WHERE account_id = %s AND at >= %s AND at < %s{narrowed}"
            f" GROUP BY 1, 2, 3, 4, 5, {PRICE_SEGMENT}",
            [account_id, start, end, *filters.values(), price_changes(versions)],
        )
        return [
            _Used(key, basis, rating.Quantity(meter, quantity, at, device_kind, share))
            for key, basis, meter, device_kind, share, quantity, at in cursor
        ]


def _running(grouping: Grouping, item: Running, at: datetime) -> _Used:
    keys = {
        "project": item.project_id,
        "key": "",
        "endpoint": item.endpoint_id,
        "hour": at.astimezone(UTC).strftime("%Y-%m-%dT%H:00:00Z"),
    }
    quantity = rating.Quantity(
        "device_seconds", item.device_seconds, at, item.device_kind, item.share
    )
    return _Used(keys[grouping], Basis.CHARGE.value, quantity)


def _costs(
    grouping: Grouping,
    account: Account,
    start: datetime,
    end: datetime,
    used: Iterable[_Used],
    versions: Sequence[rating.PriceVersion],
) -> Costs:
    groups: defaultdict[tuple[str, str], list[rating.Quantity]] = defaultdict(list)
    totals: defaultdict[str, list[rating.Quantity]] = defaultdict(list)
    for item in used:
        groups[item.key, item.basis].append(item.quantity)
        totals[item.basis].append(item.quantity)
    rows, unpriced = [], []
    for (key, basis), quantities in sorted(groups.items()):
        row, without = _row(key, basis, quantities, versions, account)
        rows.append(row)
        unpriced += without
    lines = {
        basis: rating.split(quantities, versions, account.currency, account.id)[0]
        for basis, quantities in sorted(totals.items())
    }
    charge, attribution = (
        lines.get(basis.value, []) for basis in (Basis.CHARGE, Basis.ATTRIBUTION)
    )
    return Costs(
        account_id=account.id,
        currency=account.currency,
        start=_stamp(start),
        end=_stamp(end),
        grouping=grouping,
        rows=tuple(rows),
        lines=tuple(_line(basis, line) for basis, of in lines.items() for line in of),
        unpriced=tuple(unpriced),
        charge=str(sum((line.amount for line in charge), start=rating.rounded(Fraction(0)))),
        charge_exact=_exact(charge),
        attribution=str(sum((line.amount for line in attribution), rating.rounded(Fraction(0)))),
        attribution_exact=_exact(attribution),
    )


def _row(
    key: str,
    basis: str,
    quantities: Sequence[rating.Quantity],
    versions: Sequence[rating.PriceVersion],
    account: Account,
) -> tuple[Row, list[UnpricedUsage]]:
    lines, without = rating.split(quantities, versions, account.currency, account.id)
    milli: defaultdict[str, int] = defaultdict(int)
    for quantity in quantities:
        milli[quantity.meter] += quantity.quantity * quantity.share
    sums = {meter: int(rating.rounded(Fraction(n, rating.WHOLE), 0)) for meter, n in milli.items()}
    total = sum((line.exact for line in lines), Fraction(0))
    row = Row(key, basis, dict(sorted(sums.items())), str(rating.rounded(total)), _exact(lines))
    unpriced = [
        UnpricedUsage(key, basis, one.meter, one.device_kind, one.quantity, one.share)
        for one in without
    ]
    return row, unpriced


def _line(basis: str, line: rating.Line) -> CostLine:
    return CostLine(
        basis=basis,
        meter=line.meter,
        device_kind=line.device_kind,
        quantity=line.quantity,
        unit_amount=str(line.price.amount),
        unit_size=rating.UNITS_PER_PRICE[line.meter],
        price_id=line.price.id,
        amount=str(line.amount),
        exact=_exact([line]),
        share=line.share,
    )


def _exact(lines: Iterable[rating.Line]) -> str:
    total = sum((line.exact for line in lines), Fraction(0))
    return f"{rating.rounded(total, _SHOWN_PLACES):f}"


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
