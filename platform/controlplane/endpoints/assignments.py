"""What a node should run, as its agent is told."""

from datetime import datetime

import msgspec
from django.conf import settings
from django.db.models import QuerySet

from controlplane.endpoints import (
    decommissioning,
    engine_versions,
    gangs,
    pulls,
    recipes,
    sources,
)
from controlplane.endpoints.models import Member, Replica
from controlplane.endpoints.states import LIVE, State
from controlplane.fleet import agent_rollouts, engines, revoking, wire
from controlplane.fleet.models import Node
from controlplane.placement.mix import WHOLE


def desired(node: Node, now: datetime) -> wire.Desired:
    """The whole wish list of a node. What is not in it, the agent ends: nobody wants it.

    One that is over stays in it, to be stopped, until the node has said that no engine of it
    runs: its devices are free only then.
    The version is read before the list: an agent may believe that it knows less than it does,
    never more.
    """
    version, removed_at, in_gangs = Node.objects.values_list(
        "desired_version", "removed_at", "in_gangs"
    ).get(id=node.id)
    replicas = (
        Replica.objects.filter(node_id=node.id, released_at=None)
        .select_related("endpoint__project__organization", "endpoint__pool")
        .prefetch_related("claims__device", "version")
        .defer("log_tail", "engine_report")
        .order_by("id")
    )
    wishes = [] if removed_at else [_desired(replica) for replica in replicas]
    if in_gangs and not removed_at:
        wishes += [_seated(member) for member in _members(node)]
    return wire.Desired(
        version=version,
        replicas=wishes,
        report_every_s=settings.NODE_REPORT_EVERY_S,
        lease_s=settings.NODE_LEASE_S,
        pulls=[] if removed_at else pulls.wished(node),
        erase=None if removed_at else decommissioning.wish(node),
        revoked=revoking.listed(node.pool.region_id, now),
        agent=None if removed_at else agent_rollouts.wish(node),
    )


def unchanged(version: int) -> wire.Desired:
    """For a node that has the list of this version."""
    return wire.Desired(
        version=version,
        replicas=None,
        report_every_s=settings.NODE_REPORT_EVERY_S,
        lease_s=settings.NODE_LEASE_S,
    )


def _members(node: Node) -> QuerySet[Member]:
    return (
        Member.objects.filter(node_id=node.id, released_at=None)
        .select_related("replica__endpoint__project__organization", "replica__endpoint__pool")
        .prefetch_related("replica__claims__device", "replica__members__node")
        .order_by("replica_id")
    )


def _seated(member: Member) -> wire.DesiredReplica:
    # Rank 0 finishes what it was asked, and the others compute for it until it has.
    return gangs.seated(member, _desired(member.replica, drains=member.rank == 0))


def _desired(replica: Replica, *, drains: bool = True) -> wire.DesiredReplica:
    run = replica.state in LIVE and not (drains and replica.state == State.DRAINING)
    return wire.DesiredReplica(
        replica_id=replica.id,
        run=run,
        sleep=replica.state == State.ASLEEP,
        drain_s=settings.DRAIN_S if replica.state == State.DRAINING else 0.0,
        spec=_spec(replica) if run else None,
    )


def _spec(replica: Replica) -> wire.ReplicaSpec:
    endpoint, version = replica.endpoint, replica.version
    engine, shares = engines.of(version.spec["engine"]), version.device_share < WHOLE
    return wire.ReplicaSpec(
        replica_id=replica.id,
        endpoint_id=endpoint.id,
        organization_id=endpoint.project.organization_id,
        model=version.model,
        revision=sources.pinned(version, endpoint.pinned),
        source=wire.SourceKind(version.source),
        engine=engine.name,
        engine_version=version.engine_version,
        engine_args=version.spec["engine_args"],
        adapters=[msgspec.convert(one, wire.Adapter) for one in endpoint.adapters],
        served_name=endpoint.id,
        device_indexes=sorted(claim.device.index for claim in replica.claims.all()),
        # In a pool of one organization there is nobody else to share it with.
        share_standby=endpoint.pool.share_standby or endpoint.pool.organization_id is not None,
        start_timeout_s=settings.START_TIMEOUT_S,
        capabilities=msgspec.convert(version.spec["capabilities"], list[wire.Capability] | None),
        recipes=recipes.candidates(version.model) if engine.can.recipes else [],
        image=engine_versions.wired(version, endpoint.pinned),
        egress=endpoint.project.organization.egress if version.image else [],
        egress_networks=endpoint.pool.egress_networks if version.image else [],
        # What always serves would pay for the ability and never use it.
        # Whoever shares a device keeps its part of the memory: a neighbour counts on what is left.
        may_sleep=endpoint.min_replicas == 0 and engine.can.sleep and not shares,
        device_share=version.device_share,
    )
