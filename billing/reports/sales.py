"""What was charged for each kind of device, over all accounts: the revenue side of a margin."""

from collections import defaultdict
from datetime import datetime
from fractions import Fraction

from django.db import connection

from billing import rating
from billing.models import Account, Basis
from billing.pricing import prices
from billing.reports import margin

_SUMS = """
SELECT account_id, meter, device_kind, share, basis, sum(quantity)::bigint, min(bucket)
FROM billing_usagehour WHERE bucket >= %s AND bucket < %s AND basis <> %s
GROUP BY 1, 2, 3, 4, 5, width_bucket(bucket, ARRAY['-infinity'::timestamptz] || %s::timestamptz[])
"""


def of(start: datetime, end: datetime) -> list[margin.Sold]:
    """By kind of device, start <= t < end: seconds that were charged for, and what they and the
    tokens of shared endpoints on them brought in, before agreed allowances and tiers. What has
    no price brought nothing in."""
    versions = prices.versions()
    currencies = dict(Account.objects.values_list("id", "currency"))
    tables: dict[str, rating.PriceTable] = {}
    seconds: defaultdict[str, Fraction] = defaultdict(Fraction)
    revenue: defaultdict[str, Fraction] = defaultdict(Fraction)
    returned: defaultdict[str, Fraction] = defaultdict(Fraction)
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [start, end, Basis.ATTRIBUTION, rating.changes(versions)])
        for account_id, meter, kind, share, basis, quantity, at in cursor:
            if account_id not in tables:
                currency = currencies.get(account_id, "EUR")
                tables[account_id] = rating.PriceTable(versions, currency, account_id)
            price = tables[account_id].at(meter, kind, at)
            if price is None:
                continue
            sign = -1 if basis == Basis.CREDIT else 1
            amount = rating.exact_amount(quantity, price, share)
            revenue[kind] += sign * amount
            if rating.UNITS_PER_PRICE[meter] == 3600:
                seconds[kind] += sign * Fraction(quantity * share, rating.WHOLE)
            if basis == Basis.CREDIT:
                returned[kind] += amount
    return [margin.Sold(kind, seconds[kind], revenue[kind], returned[kind]) for kind in revenue]
