"""The data-location register of an organization, out of what is there now.

A row for each place in which something of it is kept, or to which something is sent: region,
country, operator, encryption, key holder, retention. Places that the database knows (nodes,
gateways, subscriptions, replicas of the database) are listed one by one; of others the operator
states where they are (`stated`), and what he has not stated is said to be not stated.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Q

from billing.payments.stripe.models import StripeCustomer
from compliance.log.models import LogSubscription
from compliance.privacy import periods
from controlplane.endpoints.models import Activity, Endpoint, PlacementRecord, Upload
from controlplane.fleet.models import Node, Region
from controlplane.fleet.wire import SourceKind
from controlplane.residency import stated
from controlplane.residency.stores import STORES, Copy, Place, Store
from controlplane.tenancy.models import Organization


@dataclass(frozen=True)
class Location:
    """A row of the register; `instance` is an id or a host's name where there are several."""

    store: str
    instance: str
    purpose: str
    content: str
    region: str
    country: str
    operator: str
    operator_parent: str
    encrypted: str
    key_holder: str
    copy: str
    retention: str

    def as_json(self) -> dict[str, Any]:
        return {"object": "data_location", **asdict(self)}


COLUMNS = tuple(Location.__dataclass_fields__)


def register(organization: Organization, now: datetime) -> list[Location]:
    """Every place of it, by store and instance."""
    region = Region.objects.filter(code=organization.region_code).only("code", "country").first()
    found = []
    for name, store in STORES.items():
        for instance in _INSTANCES.get(name, _one)(organization):
            found.append(_location(store, instance, organization.region_code, region, now))
    return sorted(found, key=lambda one: (one.store, one.instance))


def rows(organization: Organization, now: datetime) -> Iterator[tuple[Any, ...]]:
    for one in register(organization, now):
        yield tuple(getattr(one, name) for name in COLUMNS)


def unstated(locations: list[Location]) -> list[str]:
    """Names of stores whose country nobody has stated."""
    return sorted({one.store for one in locations if one.country == stated.NOT_STATED})


def _retention(store: Store, at: datetime) -> str:
    """The store's words, and the periods of its rules as they held at that moment."""
    periods_of = [f"{code} {periods.in_force(code, at).period}" for code in store.rules]
    return ": ".join([store.retention, *([", ".join(periods_of)] if periods_of else [])])


def _location(
    store: Store, instance: str, code: str, region: Region | None, now: datetime
) -> Location:
    if store.place is Place.REGION:
        said = stated.of(code, home=False)
        country = region.country if region else stated.NOT_STATED
    else:
        said = stated.of(store.name, home=store.place is Place.HOME)
        country = said.country
    return Location(
        store=store.name,
        instance=instance,
        purpose=store.purpose,
        content=store.content,
        region=code if store.place is Place.REGION else "",
        country=country,
        operator=said.operator,
        operator_parent=said.parent,
        encrypted=store.encrypted,
        key_holder=store.key_holder,
        copy=store.copy.value,
        retention=_retention(store, now),
    )


# --- which there are: an empty list where a store has nothing of the organization -----------


def _one(organization: Organization) -> list[str]:
    return [""]


def _replicas(organization: Organization) -> list[str]:
    """What streams from this PostgreSQL; who may not see names is told how many there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(application_name, '') FROM pg_stat_replication")
        return [name or str(number) for number, (name,) in enumerate(cursor.fetchall(), 1)]


def _gateways(organization: Organization) -> list[str]:
    """Those that were seen serving its endpoints lately; else all of its region, as one."""
    mine = Endpoint.objects.filter(project__organization=organization, deleted_at=None)
    seen = Activity.objects.filter(endpoint_id__in=list(mine.values_list("id", flat=True)))
    return sorted(seen.order_by().values_list("gateway_id", flat=True).distinct()) or [""]


def _nodes(organization: Organization) -> list[str]:
    """Nodes that took a replica of it, or of an endpoint that its region shares, and were not
    removed: something may lie in their caches."""
    shared = Endpoint.objects.filter(
        region_code=organization.region_code, shared_at__isnull=False, unshared_at=None
    )
    mine = Q(organization_id=organization.id) | Q(endpoint_id__in=shared.values("id"))
    took = PlacementRecord.objects.filter(mine).order_by()
    here = Node.objects.filter(id__in=took.values("node_id").distinct(), removed_at=None)
    return sorted(here.values_list("id", flat=True))


def _uploads(organization: Organization) -> list[str]:
    return [""] if Upload.objects.filter(project__organization=organization).exists() else []


def _backups(organization: Organization) -> list[str]:
    return [""] if os.environ.get("STOA_BACKUP_DIR") else []


def _mail(organization: Organization) -> list[str]:
    asked = LogSubscription.objects.filter(owner=organization.id, via="mail", ended_at=None)
    return [""] if settings.EMAIL_HOST and asked.exists() else []


def _subscriptions(organization: Organization) -> list[str]:
    asked = LogSubscription.objects.filter(owner=organization.id, ended_at=None)
    return sorted(asked.exclude(via="mail").values_list("id", flat=True))


def _stripe(organization: Organization) -> list[str]:
    on = bool(settings.STRIPE_API_KEY)
    known = StripeCustomer.objects.filter(account_id=organization.account_id)
    return [""] if on and known.exists() else []


def _sources(organization: Organization) -> list[str]:
    """The kinds of sources that its endpoints name, but for what was brought here."""
    mine = Endpoint.objects.filter(project__organization=organization, deleted_at=None)
    kinds = set(mine.exclude(model="").values_list("source", flat=True))
    return sorted(kinds - {SourceKind.UPLOAD.value, SourceKind.PATH.value})


def _containers(organization: Organization) -> list[str]:
    return sorted(organization.egress)


_INSTANCES = {
    "database-replica": _replicas,
    "gateway": _gateways,
    "node": _nodes,
    "uploads": _uploads,
    "backups": _backups,
    "mail": _mail,
    "log-subscription": _subscriptions,
    "stripe": _stripe,
    "model-sources": _sources,
    "containers": _containers,
}

__all__ = ["COLUMNS", "Copy", "Location", "register", "rows", "unstated"]
