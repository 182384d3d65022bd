"""What endpoints cost: an hour of a replica, and this month so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.core.cache import cache

from billing import rating
from billing.models import Account, Basis
from billing.pricing import prices
from billing.reports import costs
from controlplane.endpoints import running
from controlplane.endpoints.models import Endpoint
from controlplane.tenancy.models import Project

# Sums over a month of usage are not worth one query for each look at a page.
KEEP_S = 10
TOKENS = ("input_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True)
class Rate:
    """In the account's currency; None where no price is published."""

    currency: str
    replica_hour: Decimal | None
    hour_now: Decimal | None  # of the replicas that serve at this moment
    month: str  # rounded to the cent
    month_exact: str


def device_hours(kinds: Sequence[str], *, account: Account, now: datetime) -> dict[str, Decimal]:
    """What a device-hour costs the account, of those kinds that have a price."""
    listed = _prices(account)
    found = {kind: listed.at("device_seconds", kind, now) for kind in kinds}
    return {kind: price.amount for kind, price in found.items() if price is not None}


def token_prices(device_kind: str, *, account: Account, now: datetime) -> dict[str, Decimal | None]:
    """Of a million tokens, by meter; None where no price is published."""
    listed = _prices(account)
    found = {meter: listed.at(meter, device_kind, now) for meter in TOKENS}
    return {meter: price.amount if price else None for meter, price in found.items()}


def of(
    project: Project, endpoints: Sequence[Endpoint], ready: dict[str, int], *, now: datetime
) -> dict[str, Rate]:
    """The rate of each endpoint of the project, by its id; `ready` counts serving replicas."""
    account = project.organization.account
    hours = device_hours([one.device_kind for one in endpoints], account=account, now=now)
    spent = _month(project, now)
    rates = {}
    for endpoint in endpoints:
        hour = hours.get(endpoint.device_kind)
        each = None if hour is None else _part(hour, endpoint)
        rates[endpoint.id] = Rate(
            currency=account.currency,
            replica_hour=each,
            hour_now=None if each is None else each * ready.get(endpoint.id, 0),
            month=spent.get(endpoint.id, ("0.00", "0"))[0],
            month_exact=spent.get(endpoint.id, ("0.00", "0"))[1],
        )
    return rates


def _prices(account: Account) -> rating.PriceTable:
    found = prices.versions(account.currency, account.id)
    return rating.PriceTable(found, account.currency, account.id)


def _part(hour: Decimal, endpoint: Endpoint) -> Decimal:
    return hour * endpoint.devices_each * endpoint.device_share / rating.WHOLE


def _month(project: Project, now: datetime) -> dict[str, tuple[str, str]]:
    """What is owed for each endpoint since the month began; at most KEEP_S seconds old."""
    name = f"frontend.month.{project.id}"
    spent: dict[str, tuple[str, str]] | None = cache.get(name)
    if spent is None:
        account = project.organization.account_id
        found = costs.so_far(
            account,
            now=now,
            project_id=project.id,
            running=running.running(account, now=now),
        )
        spent = {
            row.key: (row.amount, row.exact) for row in found.rows if row.basis == Basis.CHARGE
        }
        cache.set(name, spent, KEEP_S)
    return spent
