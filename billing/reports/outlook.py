"""What an account's month will come to, out of the database."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.db import connection

from billing import errors, months
from billing.models import Account
from billing.pricing import agreements, prices
from billing.pricing.charges import Used
from billing.reports import forecast


def to_month_end(account_id: str, *, now: datetime) -> forecast.Forecast:
    """Raises `errors.UnknownAccount`, `terms.CurrencyMismatch`."""
    account = Account.objects.filter(pk=account_id).first()
    if account is None:
        raise errors.UnknownAccount(account_id)
    start = months.start_of(now)
    versions = prices.versions(account.currency, account.id)
    since = min(start, now - forecast.LOOK_BACK)
    return forecast.to_month_end(
        _hourly(account_id, since, now),
        versions,
        agreements.of(account_id),
        account_id=account_id,
        currency=account.currency,
        start=start,
        end=months.after(start),
        now=now,
    )


def as_json(found: forecast.Forecast, currency: str) -> dict[str, Any]:
    """Money is text."""
    shown = {
        name: str(value) if name in ("so_far", "low", "expected", "high") else value
        for name, value in asdict(found).items()
    }
    return {"object": "cost_forecast", "currency": currency, **shown}


def _hourly(account_id: str, start: datetime, end: datetime) -> list[Used]:
    """Sums of each hour, cut where a price changes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT project_id, endpoint_id, meter, device_kind, share, basis, bucket,"
            " sum(quantity)::bigint FROM billing_usagehour"
            " WHERE account_id = %s AND bucket >= %s AND bucket < %s AND basis <> 'attribution'"
            " GROUP BY 1, 2, 3, 4, 5, 6, 7",
            [account_id, start, end],
        )
        return [Used(*row) for row in cursor]
