"""A house of many endpoints that all serve, written straight into its tables.

Nodes and devices are not made here: they joined by the API. Django must be ready.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from billing.models import Account, Budget
from compliance import audit, ids
from controlplane.endpoints import services, version_spec
from controlplane.endpoints.models import (
    DeviceClaim,
    Endpoint,
    EndpointVersion,
    Replica,
    ServingInterval,
    Transition,
)
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import notify
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Device, Node, Pool, Region
from controlplane.tenancy.models import Organization, Project
from tests.benchmarks.fleet.agents import KIND

ORGANIZATIONS = 50
EVERY_NTH_IS_BOUNDED = 5  # one organization in so many has a hard budget
EACH = 4  # replicas of an endpoint
BATCH = 2000


@dataclass(frozen=True)
class World:
    projects: Sequence[Project]
    pool: Pool

    def create(self, number: int) -> Endpoint:
        """One endpoint more, by the verb that the API calls."""
        spec = services.EndpointSpec(
            name=f"new-{number:05}",
            model="org/model",
            device_kind=KIND,
            pool_id=self.pool.id,
        )
        project = self.projects[number % len(self.projects)]
        return services.create(actor=audit.SYSTEM, project=project, spec=spec, now=timezone.now())


def tokens(count: int) -> tuple[Pool, list[str]]:
    """A pool that several organizations share, and as many ways into it."""
    now = timezone.now()
    region = Region.objects.get()
    pool = fleet.create_pool(region=region, name="many", actor=audit.SYSTEM, now=now)
    return pool, [
        fleet.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)[1]
        for _ in range(count)
    ]


@transaction.atomic
def build(pool: Pool, replicas: int) -> World:
    """`replicas` over the nodes of the pool, EACH of one endpoint, on nodes that differ."""
    now = timezone.now()
    projects = [_project(number, pool.region_id, now) for number in range(ORGANIZATIONS)]
    endpoints = Endpoint.objects.bulk_create(
        Endpoint(
            project=projects[number % ORGANIZATIONS],
            pool=pool,
            region_code=pool.region_id,
            name=f"endpoint-{number:05}",
            model="org/model",
            device_kind=KIND,
            min_replicas=EACH,
            max_replicas=2 * EACH,
            created_at=now,
        )
        for number in range(replicas // EACH)
    )
    EndpointVersion.objects.bulk_create(
        EndpointVersion(
            endpoint=one, number=one.generation, spec=version_spec.spec_of(one), created_at=now
        )
        for one in endpoints
    )
    _serve(pool, [endpoint for endpoint in endpoints for _ in range(EACH)], now)
    nodes = Node.objects.filter(pool=pool)
    nodes.update(desired_version=F("desired_version") + 1)
    notify.changed(*nodes.values_list("id", flat=True))
    return World(projects, pool)


def _project(number: int, region: str, now: datetime) -> Project:
    account = Account.objects.create(name=f"o{number}", created_at=now)
    owner = Organization.objects.create(
        name=f"o{number}", region_code=region, account=account, created_at=now
    )
    if number % EVERY_NTH_IS_BOUNDED == 0:
        Budget.objects.create(
            organization_id=owner.id,
            subject="organization",
            subject_id=owner.id,
            unit="nano_eur",
            amount=10**6 * 10**9,
            window="month",
            created_at=now,
        )
    return Project.objects.create(organization=owner, name="agents", created_at=now)


def _serve(pool: Pool, wished: Sequence[Endpoint], now: datetime) -> None:
    versions = dict(
        Node.objects.filter(pool=pool).order_by("id").values_list("id", "desired_version")
    )
    nodes = list(versions)
    free: dict[str, list[str]] = {id: [] for id in nodes}
    for id, node_id in Device.objects.filter(node__in=nodes).values_list("id", "node_id"):
        free[node_id].append(id)
    replicas = [
        Replica(
            id=ids.new("rep"),
            endpoint=endpoint,
            generation=1,
            node_id=nodes[number % len(nodes)],
            wish_version=versions[nodes[number % len(nodes)]] + 1,  # no older report is judged
            state=State.READY,
            reason=Reason.PROBE_PASSED,
            state_at=now,
            created_at=now,
        )
        for number, endpoint in enumerate(wished)
    ]
    for replica in replicas:
        replica.address = f"unix:/run/{replica.id}.sock"
    Replica.objects.bulk_create(replicas, batch_size=BATCH)
    claims = [DeviceClaim(device_id=free[one.node_id or ""].pop(), replica=one) for one in replicas]
    DeviceClaim.objects.bulk_create(claims, batch_size=BATCH)
    ServingInterval.objects.bulk_create(
        [
            ServingInterval(replica=one, started_at=_spread(n, now))
            for n, one in enumerate(replicas)
        ],
        batch_size=BATCH,
    )
    Transition.objects.bulk_create(
        [
            Transition(
                replica=one,
                from_state=State.PROBING,
                to_state=State.READY,
                reason=Reason.PROBE_PASSED,
                at=now,
            )
            for one in replicas
        ],
        batch_size=BATCH,
    )


def _spread(number: int, now: datetime) -> datetime:
    """Stretches do not begin all at once."""
    return now + timedelta(milliseconds=number % 997)
