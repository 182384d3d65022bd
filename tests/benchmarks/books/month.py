"""A month of usage of many companies, straight into the tables, and what must hold of its end.

Django must be ready.
"""

import math
import time
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction

from django.db import connection

from billing import rating
from billing.invoices import invoicing
from billing.meters import rollup, usage
from billing.models import Invoice, InvoiceLine
from billing.pricing.prices import DEFAULTS, publish, versions
from compliance import audit, partitions
from tests.month.customers import KIND, Company

BORN = datetime(2026, 9, 20, 8, tzinfo=UTC)
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
CLOSED = datetime(2026, 11, 4, 6, tzinfo=UTC)  # the grace time is over
ACTIVE = 4  # a company is active in one hour of so many
HOURS = 31 * 24 // ACTIVE
SLICE = 250_000  # events of one statement
SAY_EVERY_S = 5.0

# Half are minutes of a replica of its own, the rest tokens of a model that all share. `n` counts
# all events, a company's after those of the one before.
_FILL = """
INSERT INTO billing_usageevent (id, at, account_id, project_id, key_id, endpoint_id, replica_id,
    request_id, region, device_kind, meter, basis, quantity, share, flags, agent, run)
SELECT 'use_' || lpad(to_hex(n), 26, '0'),
    %(start)s::timestamptz + make_interval(
        hours => ((i / %(hourly)s) * %(active)s + who %% %(active)s)::int,
        secs => (i %% %(hourly)s) * 3600 / %(hourly)s),
    c.account[1 + who], c.project[1 + who],
    CASE WHEN i %% 6 < 3 THEN '' ELSE 'key_' || lpad((who * 10 + i / 6 %% 2)::text, 26, '0') END,
    CASE WHEN i %% 6 < 3 THEN c.endpoint[1 + who] ELSE c.endpoint[1] END,
    CASE WHEN i %% 6 < 3 THEN 'rep_' || lpad(who::text, 26, '0') ELSE '' END,
    CASE WHEN i %% 6 < 3 THEN '' ELSE 'req_' || lpad(to_hex(n / 6), 26, '0') END,
    %(region)s, %(kind)s,
    (ARRAY['device_seconds', 'device_seconds', 'device_seconds',
           'input_tokens', 'cached_tokens', 'output_tokens'])[1 + i %% 6],
    'charge', CASE WHEN i %% 6 < 3 THEN 60 ELSE 100 + n %% 900 END, 1000, '[]', '', ''
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n,
    (SELECT %(account)s::text[] AS account, %(project)s::text[] AS project,
        %(endpoint)s::text[] AS endpoint) c,
    LATERAL (SELECT n / %(each)s AS who, n %% %(each)s AS i) _
"""


def price_tokens() -> None:
    """Of the companies' kind, since an installation's list begins when it was made."""
    for meter, _, amount in DEFAULTS:
        if meter.endswith("tokens"):
            publish(
                actor=audit.SYSTEM, meter=meter, device_kind=KIND, amount=amount,
                valid_from=BORN.replace(day=1, hour=0), now=BORN,
            )  # fmt: skip


def fill(companies: list[Company], events: int) -> int:
    """About `events`, as many for each company; the sums by the hour are made with them."""
    each = max(6, events // len(companies))
    total, said = each * len(companies), time.monotonic()
    partitions.provide(usage.TABLE, START)
    with connection.cursor() as cursor:
        for first in range(0, total, SLICE):
            last = min(first + SLICE, total) - 1
            cursor.execute(
                _FILL,
                {
                    "first": first, "last": last, "each": each, "start": START,
                    "hourly": math.ceil(each / HOURS), "active": ACTIVE,
                    "region": companies[0].organization.region_code,
                    "kind": companies[0].endpoints[0].device_kind,
                    "account": [one.account.id for one in companies],
                    "project": [one.projects[0].id for one in companies],
                    "endpoint": [one.endpoints[0].id for one in companies],
                },
            )  # fmt: skip
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                print(f"  {last + 1:,} of {total:,} events", flush=True)
    return total


def check(companies: list[Company]) -> Fraction:
    """One final invoice for each, by ones, to the last unit what was used; what they owe."""
    invoices = list(Invoice.objects.filter(period_start=START).order_by("number"))
    assert {one.account_id for one in invoices} == {one.account.id for one in companies}
    assert [one.number for one in invoices] == list(range(1, len(companies) + 1)), "numbers"
    assert {one.state for one in invoices} == {"final"}, Counter(one.state for one in invoices)
    assert all(invoice.files.count() == 4 for invoice in invoices), "a form is missing"
    assert _rows(_UNLIKE, [START, END]) == [], "lines are not the events"
    assert _rows(_TWICE) == [], "a line stands twice"
    assert all(total == 0 for (total,) in _rows(_BALANCE)), "the ledger has a side more"
    prices, owed = versions(), Fraction(0)
    for one in invoices:
        owed += (rated := _rated(one, prices))
        lines = list(InvoiceLine.objects.filter(invoice=one))
        billed = sum((Fraction(line.exact) for line in lines if line.kind == "usage"), Fraction(0))
        assert billed == rated, f"{one.label}: {billed} is not {rated}"
        assert sum(line.amount for line in lines) == one.net, one.label
    assert all(invoicing.row(one.account.id, START, CLOSED).number for one in companies)
    return owed


def _rated(invoice: Invoice, prices: list[rating.PriceVersion]) -> Fraction:
    used = rollup.used(invoice.account_id, START, END, rating.changes(prices))
    quantities = (
        rating.Quantity(one.meter, one.quantity, one.at, one.device_kind, one.share) for one in used
    )
    lines = rating.rate(quantities, prices, "EUR", invoice.account_id)
    return sum((line.exact for line in lines), Fraction(0))


_UNLIKE = """
SELECT account_id, meter, used.quantity, billed.quantity
FROM (SELECT account_id, meter, sum(quantity) AS quantity FROM billing_usageevent
      WHERE at >= %s AND at < %s GROUP BY 1, 2) used
FULL JOIN (SELECT i.account_id, l.meter, sum(l.quantity) AS quantity FROM billing_invoiceline l
           JOIN billing_invoice i ON i.id = l.invoice_id
           WHERE l.kind = 'usage' GROUP BY 1, 2) billed
    USING (account_id, meter)
WHERE used.quantity IS DISTINCT FROM billed.quantity
"""
_TWICE = """
SELECT invoice_id FROM billing_invoiceline
GROUP BY invoice_id, kind, project_id, endpoint_id, meter, device_kind, share, price_id, start
HAVING count(*) > 1
"""
_BALANCE = """
SELECT sum(e.amount) FROM billing_ledgerentry e JOIN billing_ledgeraccount a ON a.id = e.account_id
GROUP BY a.currency, a.scale
"""


def _rows(query: str, given: list[datetime] | None = None) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, given)
        return list(cursor.fetchall())
