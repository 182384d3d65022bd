"""Loads the pictures that `reconcile.plan` reads: a few queries for any number of endpoints."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q, QuerySet

from controlplane.endpoints import deciding, due, funding, members, pulse
from controlplane.endpoints.deciding import Looked
from controlplane.endpoints.models import DeviceClaim, Endpoint, Replica, Rollout
from controlplane.endpoints.reconcile import Decided, EndpointView, Limits, NodeView, ReplicaView
from controlplane.endpoints.rolling import RolloutView
from controlplane.endpoints.rollout_progress import Outcome
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet.models import Node

_UNFUNDED = timedelta(seconds=funding.RETRY_S)
# Those that live, and those that are over but still hold devices.
HELD = Q(state__in=LIVE) | Q(released_at=None) & (Q(node__isnull=False) | Q(node_count__gt=1))


@dataclass
class Picture:
    endpoint: EndpointView
    replicas: list[ReplicaView]


@dataclass
class Pictures:
    """What `reconcile.plan` wants to know of some endpoints at one moment."""

    at: datetime
    limits: Limits
    each: list[Picture]
    looked: Looked  # for `deciding.keep`


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
    only_due = ids is None
    if ids is None:
        ids = due.endpoints(now=now, limits=limits, unfunded=unfunded)
    wanted = Endpoint.objects.filter(id__in=list(ids)).order_by("id")
    found = {endpoint.id: endpoint for endpoint in wanted}
    rollouts = _rollouts(None if ids is None else found)
    nodes = _NodeViews(now, limits)
    held_now = list(_replicas(found))
    gangs = members.nodes([replica.id for replica in held_now if replica.node_count > 1])
    moving = _on_retiring([replica.id for replica in held_now])
    replicas: dict[str, list[ReplicaView]] = {id: [] for id in found}
    for replica in held_now:
        node = nodes.of(replica.node) or nodes.all_of(gangs.get(replica.id, ()))
        if node is not None and replica.id in moving:
            node = replace(node, leaving=True)
        replicas[replica.endpoint_id].append(
            ReplicaView(
                id=replica.id,
                generation=replica.generation,
                state=State(replica.state),
                state_at=replica.state_at,
                reason=Reason(replica.reason),
                node=node,
                funded=replica.id not in unfunded,
                can_sleep=replica.can_sleep,
                progress_at=replica.progress_at,
            )
        )
    looked = deciding.look(found, replicas, now=now, only_due=only_due)
    each = [
        Picture(_view(endpoint, looked.decided[id], rollouts.get(id)), replicas[id])
        for id, endpoint in found.items()
    ]
    return Pictures(now, limits, each, looked)


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


def _on_retiring(replica_ids: Collection[str]) -> set[str]:
    """Those that hold a device which is to be replaced: for them their node is being drained."""
    claims = DeviceClaim.objects.filter(
        replica_id__in=replica_ids, device__retiring_at__isnull=False
    )
    return set(claims.values_list("replica_id", flat=True))


def _rollouts(ids: Iterable[str] | None) -> dict[str, RolloutView]:
    """Those that are under way, by endpoint."""
    rows = Rollout.objects.filter(state=Outcome.PROGRESSING)
    if ids is not None:
        rows = rows.filter(endpoint__in=list(ids))
    return {
        row.endpoint_id: RolloutView(
            stable=row.from_number,
            to=row.to_number,
            share=row.share,
            proved=row.proved_at is not None,
            retry_at=row.retry_at,
        )
        for row in rows
    }


def _view(endpoint: Endpoint, decided: Decided, rollout: RolloutView | None) -> EndpointView:
    return EndpointView(
        id=endpoint.id,
        generation=endpoint.generation,
        on=endpoint.stopped_at is None and endpoint.deleted_at is None,
        decided=decided,
        sleeps=endpoint.min_replicas == 0,
        retry_at=endpoint.retry_at,
        unfunded_until=endpoint.unfunded_at and endpoint.unfunded_at + _UNFUNDED,
        rollout=rollout,
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

    def all_of(self, members: Iterable[Node]) -> NodeView | None:
        """A gang's nodes as one: what befalls one of them befalls the gang."""
        views = [view for node in members if (view := self.of(node))]
        if not views:
            return None
        return NodeView(
            id=views[0].id,
            quiet_s=max(view.quiet_s for view in views),
            leaving=any(view.leaving for view in views),
            removed=any(view.removed for view in views),
        )

    def _quiet_s(self, node: Node) -> float:
        if self.limits.listening_since is None:
            return 0.0
        # Whoever could not be heard before gets a whole lease from when we listened.
        lease = timedelta(seconds=self.limits.lease_s)
        until = max(node.lease_until or node.created_at, self.limits.listening_since + lease)
        return max(0.0, (self.now - until).total_seconds())
