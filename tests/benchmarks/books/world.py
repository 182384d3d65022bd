"""Customers of a cloud and what they asked, written straight into its tables.

Each organization has a project with an endpoint of its own; a few endpoints are shared with all.
Django must be ready.
"""

from datetime import datetime, timedelta

from django.db import connection, transaction

from billing.models import Account
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints.models import Endpoint
from controlplane.fleet.models import Pool, Region
from controlplane.tenancy.models import Organization, Project

SHARED = 10  # endpoints
KEYS = 4  # of each project
HOURS = 3  # that the requests of a run are of

_REQUESTS = """
INSERT INTO billing_usageinbox (request_id, gateway_id, key_id, project_id, endpoint_id,
    replica_id, operation, opened_at, closed_at, status, finish, counted_by, input_tokens,
    cached_tokens, output_tokens, nano_eur, run, agent, received_at)
SELECT 'req_' || lpad(to_hex(n), 26, '0'), 'gw_1',
    'key_' || lpad((who * 10 + n % %(keys)s)::text, 26, '0'),
    p.ids[who], CASE WHEN n % 3 = 0 THEN p.own[who] ELSE p.shared[1 + n % %(shared)s] END,
    'rep_' || lpad((n % 50)::text, 26, '0'), 'chat.completions', at - interval '2 seconds', at,
    200, 'complete', 'engine', 200 + n % 1000, 100, 50 + n % 300, 100000,
    CASE WHEN n % 10 = 0 THEN 'run_' || lpad((n % 5000)::text, 20, '0') ELSE '' END,
    CASE WHEN n % 10 = 0 THEN 'agt_' || lpad((n % 3)::text, 20, '0') ELSE '' END, at
FROM generate_series(%(first)s::int, %(last)s::int) n,
    (SELECT %(ids)s::text[] AS ids, %(own)s::text[] AS own, %(guests)s::text[] AS shared) p,
    LATERAL (SELECT 1 + (n::bigint * 7919) % cardinality(p.ids) AS who,
        %(start)s::timestamptz + (n - 1) * (%(hours)s * interval '1 hour' / %(of)s) AS at) _
""".replace(" % ", " %% ")


class World:
    """`start`: when its requests begin; they are spread over HOURS."""

    def __init__(self, organizations: int, start: datetime) -> None:
        self.start = start
        self.requests = 0
        born = start - timedelta(days=1)
        prices.publish_defaults(actor=audit.SYSTEM, now=start)
        region = Region.objects.get()
        pool = Pool.objects.filter(region=region).first() or Pool.objects.create(
            region=region, name="some", created_at=born
        )
        with transaction.atomic():
            accounts = Account.objects.bulk_create(
                Account(name=f"customer {n}", created_at=born) for n in range(organizations)
            )
            owners = Organization.objects.bulk_create(
                Organization(
                    name=f"customer {n}",
                    region_code=region.code,
                    account=account,
                    created_at=born,
                )
                for n, account in enumerate(accounts)
            )
            self.projects = Project.objects.bulk_create(
                Project(organization=owner, name="main", created_at=born) for owner in owners
            )
            self.endpoints = [
                Endpoint(
                    project=project,
                    pool=pool,
                    region_code=region.code,
                    name=f"endpoint-{n}",
                    model="org/model",
                    device_kind="cpu",
                    created_at=born,
                    shared_at=born if n < SHARED else None,
                )
                for n, project in enumerate(self.projects)
            ]
            Endpoint.objects.bulk_create(self.endpoints)

    @property
    def end(self) -> datetime:
        return self.start + timedelta(hours=HOURS)

    def deliver(self, requests: int) -> None:
        """As gateways ship them, but all at once."""
        self.requests += requests
        with connection.cursor() as cursor:
            cursor.execute(
                _REQUESTS,
                {
                    "first": 1, "last": requests, "of": requests, "start": self.start,
                    "hours": HOURS, "keys": KEYS, "shared": SHARED,
                    "ids": [one.id for one in self.projects],
                    "own": [one.id for one in self.endpoints],
                    "guests": [one.id for one in self.endpoints[:SHARED]],
                },
            )  # fmt: skip
