"""What an organization's containers may reach outside, and what they reached.

The list is the organization's and is empty until somebody writes it. Nodes are told it with each
replica from an image, and again when it changes; a node's proxies hold to it and say what was
reached and what was refused. A private network is open only where the operator says so of a pool.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from compliance import audit
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Replica
from controlplane.fleet import destinations, services, wire
from controlplane.fleet.models import Node, Pool
from controlplane.tenancy.models import Organization

MAX_NETWORKS = 32
# "This host", loopback, and link-local addresses, among them those that hand out a cloud's secrets.
_NEVER = tuple(
    map(ipaddress.ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/127", "fe80::/10"))
)
KEPT = timedelta(days=90)  # what `reached` looks back for
_OUTCOMES = frozenset(
    {"reached", "not_allowed", "private", "unresolved", "unreachable", "malformed", "busy"}
)
_MOST = 512  # destinations of one replica
_LARGEST = 2**62


@dataclass(frozen=True)
class Reached:
    """What replicas of an endpoint did at one destination, with one outcome."""

    endpoint_id: str
    destination: str
    outcome: str
    connections: int
    bytes_out: int
    bytes_in: int
    last_at: str


def allow(
    *, actor: audit.Actor, organization: Organization, allowed: Sequence[str], now: datetime
) -> Organization:
    """These destinations and no others, from here on. Raises Invalid, and then changes nothing.

    Repeating it changes nothing and records nothing.
    """
    kept = _destinations(allowed)
    with transaction.atomic():
        found = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        before = list(found.egress)
        if before == kept:
            return found
        found.egress = kept
        found.save(update_fields=["egress"])
        audit.record(
            actor=actor,
            action="organization.allow_egress",
            target=audit.Target("organization", found.id),
            log=found.id,
            region=found.region_code,
            now=now,
            change=[audit.Change("egress", before, kept)],
        )
        _touch(Q(endpoint__project__organization=found))
    return found


def open_networks(
    *, actor: audit.Actor, pool: Pool, networks: Sequence[str], now: datetime
) -> Pool:
    """Private networks (CIDR) that names on tenants' lists may lead into, from this pool's nodes.

    The operator's to do. Raises Invalid.
    """
    kept = _networks(networks)
    with transaction.atomic():
        rows = Pool.objects.select_for_update(no_key=True, of=("self",)).select_related("region")
        found = rows.get(pk=pool.pk)
        before = list(found.egress_networks)
        if before == kept:
            return found
        found.egress_networks = kept
        found.save(update_fields=["egress_networks"])
        audit.record(
            actor=actor,
            action="pool.update",
            target=audit.Target("pool", found.id),
            log=audit.PLATFORM,
            region=found.region_id,
            now=now,
            change=[audit.Change("egress_networks", before, kept)],
        )
        _touch(Q(endpoint__pool=found))
    return found


def note(row: Replica, said: Sequence[wire.EgressCount], now: datetime) -> None:
    """What a node says that a replica reached. `row` has `egress` as the database has it."""
    kept: dict[str, Any] = dict(row.egress)
    for one in said[:_MOST]:
        if one.outcome not in _OUTCOMES:
            continue
        proxy = _printable(one.proxy_id[:32]).replace(" ", "")
        key = f"{proxy} {one.outcome} {_printable(one.destination[:300])}"
        sums = [_bounded(n) for n in (one.connections, one.bytes_out, one.bytes_in)]
        known = kept.get(key)
        if known is None and len(kept) >= _MOST:
            continue
        if known is None or known[:3] != sums:
            kept[key] = [*sums, now.isoformat(timespec="seconds")]
    if kept != row.egress:
        row.egress = kept
        Replica.objects.filter(id=row.id).update(egress=kept)


def reached(organization: Organization, *, now: datetime, endpoint_id: str = "") -> list[Reached]:
    """What its endpoints reached, or tried to, in the last 90 days; the newest first."""
    rows = Replica.objects.filter(endpoint__project__organization=organization)
    rows = rows.filter(Q(released_at=None) | Q(released_at__gte=now - KEPT)).exclude(egress={})
    if endpoint_id:
        rows = rows.filter(endpoint_id=endpoint_id)
    sums: dict[tuple[str, str, str], list[Any]] = {}
    for id, told in rows.values_list("endpoint_id", "egress"):
        for key, (*counted, at) in told.items():
            _, outcome, destination = key.split(" ", 2)
            known = sums.setdefault((id, destination, outcome), [0, 0, 0, ""])
            sums[id, destination, outcome] = [
                *(old + new for old, new in zip(known, counted, strict=False)),
                max(known[3], at),
            ]
    found = [Reached(*key, *values) for key, values in sums.items()]
    return sorted(found, key=lambda one: (one.last_at, one.destination), reverse=True)


def _touch(whose: Q) -> None:
    """Tell the nodes that run images of these: their wish lists have changed."""
    held = Replica.objects.filter(whose, released_at=None, node__isnull=False)
    ids = held.exclude(version__spec__image=None).values("node_id")
    for node in Node.objects.filter(id__in=ids).order_by("id"):
        services.touch(node)


def _destinations(given: Iterable[str]) -> list[str]:
    kept: set[str] = set()
    for one in given:
        try:
            kept.add(str(destinations.parse(one)))
        except destinations.BadDestination as error:
            message = f"{_printable(one[:80]) or 'nothing'}: {error}"
            raise Invalid(message, code="invalid_destination", field="allow") from None
    if len(kept) > destinations.MAX:
        message = f"at most {destinations.MAX} destinations; narrow names can be one `*.` name"
        raise Invalid(message, code="too_many_destinations", field="allow")
    return sorted(kept)


def _networks(given: Iterable[str]) -> list[str]:
    kept: set[str] = set()
    for one in given:
        try:
            network = ipaddress.ip_network(one)
        except ValueError as error:
            raise Invalid(str(error)[:200], code="invalid_network", field="networks") from None
        if any(network.version == one.version and network.overlaps(one) for one in _NEVER):
            message = f"{network}: nodes themselves and their metadata services are never opened"
            raise Invalid(message, code="invalid_network", field="networks")
        kept.add(str(network))
    if len(kept) > MAX_NETWORKS:
        message = f"at most {MAX_NETWORKS} networks"
        raise Invalid(message, code="too_many_networks", field="networks")
    return sorted(kept)


def _printable(text: str) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _bounded(number: int) -> int:
    return min(max(number, 0), _LARGEST)
