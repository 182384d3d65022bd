"""What there is to choose from: devices of the pools that may serve an organization."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Exists, OuterRef, Q, QuerySet

from controlplane.endpoints.models import DeviceClaim
from controlplane.fleet.models import Device, Pool
from controlplane.tenancy.models import Organization


@dataclass(frozen=True)
class Offer:
    """One kind of device, on nodes that take work."""

    kind: str
    total: int
    free: int
    most_on_a_node: int
    memory_bytes: int  # of one device, the smallest


def pools(organization: Organization) -> QuerySet[Pool]:
    """Its own, and those that several organizations share, in its region."""
    return Pool.objects.filter(
        Q(organization=organization) | Q(organization=None), region=organization.region_code
    )


def devices(pools: Iterable[Pool]) -> list[Offer]:
    """All that these pools offer, by kind."""
    taking = Device.objects.filter(
        node__pool__in=pools,
        node__removed_at=None,
        node__cordoned_at=None,
        healthy=True,
    )
    held = Exists(DeviceClaim.objects.filter(device=OuterRef("pk")))
    rows = list(taking.values_list("kind", "node_id", "memory_bytes", held))
    offers = []
    for kind in sorted({row[0] for row in rows}):
        mine = [row for row in rows if row[0] == kind]
        offers.append(
            Offer(
                kind=kind,
                total=len(mine),
                free=sum(not row[3] for row in mine),
                most_on_a_node=max(Counter(row[1] for row in mine).values()),
                memory_bytes=min(row[2] for row in mine),
            )
        )
    return offers
