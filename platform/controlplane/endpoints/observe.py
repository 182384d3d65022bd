"""Loads the pictures that `reconcile.plan` reads: a few queries for any number of endpoints."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from controlplane.endpoints import funding, pulse
from controlplane.endpoints.models import Activity, Endpoint, Replica
from controlplane.endpoints.reconcile import EndpointView, Limits, NodeView, ReplicaView
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet.models import Node

_UNFUNDED = timedelta(seconds=funding.RETRY_S)
# Those that live, and those that are over but still hold devices.
HELD = Q(state__in=LIVE) | Q(released_at=None, node__isnull=False)


@dataclass
class Picture:
    endpoint: EndpointView
    replicas: list[ReplicaView] = field(default_factory=list)


@dataclass
class Pictures:
    """What `reconcile.plan` wants to know of some endpoints at one moment."""

    at: datetime
    limits: Limits
    each: list[Picture]


def pulse_gap_s() -> float:
    """A longer pause than this between two beats means that we were down."""
    return max(5.0 * settings.SWEEP_EVERY_S, settings.NODE_LEASE_S / 2)


def pictures(
    *, now: datetime, ids: Iterable[str] | None = None, unfunded: Collection[str] = ()
) -> Pictures:
    """Of these endpoints, or of every one that may need something; oldest first.

    `unfunded`: replicas that no budget pays for.
    """
    limits = _limits(now)
    wanted = Endpoint.objects.order_by("id")
    if ids is not None:
        wanted = wanted.filter(id__in=list(ids))
    else:
        held = Replica.objects.filter(HELD, endpoint=OuterRef("id"))
        wanted = wanted.filter(Exists(held) | Q(deleted_at=None, stopped_at=None))
    found = {endpoint.id: endpoint for endpoint in wanted}
    needed = _needed(found.values())
    each = {id: Picture(_view(endpoint, needed.get(id))) for id, endpoint in found.items()}
    nodes = _NodeViews(now, limits)
    for replica in _replicas(found):
        each[replica.endpoint_id].replicas.append(
            ReplicaView(
                id=replica.id,
                generation=replica.generation,
                state=State(replica.state),
                state_at=replica.state_at,
                reason=Reason(replica.reason),
                node=nodes.of(replica.node),
                funded=replica.id not in unfunded,
                can_sleep=replica.can_sleep,
                progress_at=replica.progress_at,
            )
        )
    return Pictures(now, limits, list(each.values()))


def _limits(now: datetime) -> Limits:
    return Limits(
        lease_s=settings.NODE_LEASE_S,
        lost_after_s=settings.NODE_LOST_AFTER_S,
        # The node gives up first, and knows why: this is for a node that does not.
        start_timeout_s=settings.START_TIMEOUT_S + 2 * settings.NODE_LEASE_S,
        listening_since=pulse.listening_since(now=now, gap_s=pulse_gap_s()),
    )


def _replicas(endpoint_ids: Iterable[str]) -> QuerySet[Replica]:
    held = Replica.objects.filter(HELD, endpoint__in=list(endpoint_ids))
    return held.select_related("node").defer("log_tail", "engine_report", "node__inventory")


def _needed(endpoints: Iterable[Endpoint]) -> dict[str, datetime]:
    """When a gateway last saw somebody at those that may sleep."""
    ids = [e.id for e in endpoints if e.min_replicas == 0 and e.stopped_at is None]
    if not ids:
        return {}
    busy = Activity.objects.filter(Q(in_flight__gt=0) | Q(waiting__gt=0), endpoint_id__in=ids)
    return dict(busy.values_list("endpoint_id").annotate(last=Max("at")).order_by())


def _view(endpoint: Endpoint, needed: datetime | None) -> EndpointView:
    asked = [at for at in (endpoint.wake_requested_at, needed) if at is not None]
    return EndpointView(
        id=endpoint.id,
        generation=endpoint.generation,
        min_replicas=endpoint.min_replicas,
        max_replicas=endpoint.max_replicas,
        idle_timeout_s=endpoint.idle_timeout_s,
        on=endpoint.stopped_at is None and endpoint.deleted_at is None,
        needed_at=max(asked, default=None),
        retry_at=endpoint.retry_at,
        unfunded_until=endpoint.unfunded_at and endpoint.unfunded_at + _UNFUNDED,
    )


class _NodeViews:
    """Nodes as the reconciler sees them, each made once."""

    def __init__(self, now: datetime, limits: Limits) -> None:
        self.now, self.limits = now, limits
        self.seen: dict[str, NodeView] = {}

    def of(self, node: Node | None) -> NodeView | None:
        if node is None:
            return None
        if node.id not in self.seen:
            self.seen[node.id] = NodeView(
                id=node.id,
                quiet_s=self._quiet_s(node),
                leaving=node.drain_requested_at is not None,
                removed=node.removed_at is not None,
            )
        return self.seen[node.id]

    def _quiet_s(self, node: Node) -> float:
        if self.limits.listening_since is None:
            return 0.0
        # Whoever could not be heard before gets a whole lease from when we listened.
        lease = timedelta(seconds=self.limits.lease_s)
        until = max(node.lease_until or node.created_at, self.limits.listening_since + lease)
        return max(0.0, (self.now - until).total_seconds())
