"""The rows of a gang: its members' nodes, locked and told together, let go one by one.

A gang is a replica on several nodes. Its state is one, and moves through lifecycle.advance like
any other; what is here keeps the members' part of that.
"""

from collections.abc import Collection, Iterable
from datetime import datetime

from django.db.models import F, Min

from controlplane.endpoints.models import DeviceClaim, Member, Replica
from controlplane.fleet.models import Node


def enlist(replica_id: str, node_ids: Iterable[str]) -> None:
    """Make a gang of a replica that is being placed; the nodes by rank, and locked already."""
    ids = list(node_ids)
    Replica.objects.filter(id=replica_id).update(node_count=len(ids))
    Member.objects.bulk_create(
        Member(replica_id=replica_id, rank=rank, node_id=id) for rank, id in enumerate(ids)
    )
    Node.objects.filter(id__in=ids, in_gangs=False).update(in_gangs=True)


def lock(node_ids: Collection[str]) -> None:
    """Always in this order, and before the replica's own row: so nobody waits in a circle."""
    list(
        Node.objects.select_for_update(no_key=True)
        .filter(id__in=node_ids)
        .order_by("id")
        .values_list("id")
    )


def node_ids(replica_id: str) -> list[str]:
    """By rank."""
    mine = Member.objects.filter(replica_id=replica_id).order_by("rank")
    return list(mine.values_list("node_id", flat=True))


def change_wish(replica_id: str) -> None:
    """Raise the version of each member's node, and note from which on this wish holds."""
    for member in Member.objects.filter(replica_id=replica_id, released_at=None):
        Node.objects.filter(id=member.node_id).update(desired_version=F("desired_version") + 1)
        version = Node.objects.values_list("desired_version", flat=True).get(id=member.node_id)
        Member.objects.filter(id=member.id).update(wish_version=version)


def let_go(replica_id: str, node_id: str | None, now: datetime) -> bool:
    """The devices of the member on that node are free, or, without one, those of each member
    whose node was removed. True if that changed anything; the replica's row is locked then."""
    Replica.objects.select_for_update(no_key=True).values_list("id").get(id=replica_id)
    mine = Member.objects.filter(replica_id=replica_id, released_at=None)
    mine = mine.filter(node_id=node_id) if node_id else mine.exclude(node__removed_at=None)
    nodes = list(mine.values_list("node_id", flat=True))
    if not nodes:
        return False
    DeviceClaim.objects.filter(replica_id=replica_id, device__node__in=nodes).delete()
    mine.update(released_at=now)
    return True


def held(replica_id: str) -> bool:
    """Whether some member's node has not said yet that no engine of it runs."""
    return Member.objects.filter(replica_id=replica_id, released_at=None).exists()


def heard_at(replica_id: str) -> datetime | None:
    """Until when each of its nodes was heard: the gang served no longer than its first silence."""
    mine = Member.objects.filter(replica_id=replica_id)
    found: datetime | None = mine.aggregate(first=Min("node__heartbeat_at"))["first"]
    return found


def nodes(replica_ids: Collection[str]) -> dict[str, list[Node]]:
    """The nodes of each gang's members that are not let go."""
    found: dict[str, list[Node]] = {id: [] for id in replica_ids}
    if replica_ids:
        mine = Member.objects.filter(replica_id__in=replica_ids, released_at=None)
        for member in mine.select_related("node").defer("node__inventory").order_by("rank"):
            found[member.replica_id].append(member.node)
    return found
