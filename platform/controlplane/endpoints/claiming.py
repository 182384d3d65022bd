"""What a node can give now, for who holds its row's lock."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from django.db import connection
from django.db.models import Sum

from controlplane.endpoints.models import DeviceClaim, PlacementNote, Reservation
from controlplane.fleet.models import Device, Node, Pool
from controlplane.placement.mix import WHOLE
from controlplane.placement.nodes import Candidate, FreeDevice, Need, devices, whole_blocks


def free(
    node: Node, need: Need, now: datetime, besides: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Ids of the devices that `need` should take; None where the node has too few, or takes
    nobody, or where its pool keeps them, or they are reserved. `need.lot` is the replica's id,
    `besides` what it takes on other nodes."""
    if not node.schedulable(now) or node.drain_requested_at is not None:
        return None
    if need.region and node.pool.region_id != need.region:
        return None
    if need.milli < WHOLE and not (node.pool.share_devices and shares(node.inventory)):
        return None
    here = _here(node, need)
    ids = devices(need, but_reserved(here, _reserved(node, need, now)))
    if not ids or _breaks_the_last_block(node, need, here, {*ids, *besides}, now):
        return None
    return ids


def lock_pool(pool: Pool) -> None:
    """Before the locks of its nodes, by everybody who takes devices of a pool that keeps a block:
    two that break one each would leave none."""
    if pool.keep_block:
        Pool.objects.select_for_update(no_key=True).values_list("id").get(id=pool.id)


def because(rejected: Mapping[str, Sequence[str]]) -> None:
    """Say in this transaction why a node is taken, for the record of the placement that its
    trigger writes: by how many others it could be compared, and what spoke against them."""
    others = sorted(rejected.items(), key=lambda one: (-len(one[1]), one[0]))
    against = "; ".join(f"{len(ids)} not: {why}" for why, ids in others[:5])
    with connection.cursor() as cursor:
        said = f"chosen by the scheduler{f'; {against}' if against else ', no other node'}"
        cursor.execute("SELECT set_config('stoa.placed_because', %s, true)", [said[:300]])


def note(replica_id: str, rejected: Mapping[str, Sequence[str]], now: datetime) -> None:
    """Keep why the replica stands where it does; what was reserved for it is its own now."""
    PlacementNote.objects.create(replica_id=replica_id, rejected=rejected, at=now)
    Reservation.objects.filter(replica_id=replica_id).delete()


def _reserved(node: Node, need: Need, now: datetime) -> int:
    rows = Reservation.objects.filter(node=node, kind=need.kind, expires_at__gt=now).order_by("id")
    return before(need.lot, rows.values_list("replica_id", "count"))


def before(replica_id: str, reserved: Iterable[tuple[str, int]]) -> int:
    """How many devices of a node come to others first: all that are reserved, but for whom has a
    reservation there too only what was reserved earlier. So two never wait for each other."""
    found = 0
    for holder, count in reserved:
        if holder == replica_id:
            return found
        found += count
    return found


def shares(inventory: Mapping[str, object]) -> bool:
    """Whether its agent knows how replicas share a device."""
    return inventory.get("shares") is True


def but_reserved(node: Candidate, kept: int) -> Candidate:
    """Without so many whole devices, which are free and for others. Where others wait for more than
    are free, parts of devices are kept too: what is shared may be coming free as a whole."""
    entire = [one for one in node.free if one.milli == WHOLE]
    there = min(kept, len(entire))
    held = tuple(entire[len(entire) - there :])
    left = tuple(one for one in node.free if one not in held) if kept == there else ()
    return replace(node, free=left, held=held, awaited=kept - there)


def partly_free(pool_id: str, kind: str, node_id: str = "") -> dict[str, list[FreeDevice]]:
    """By node, the devices that are shared and have some thousandths left."""
    on = {"device__node": node_id} if node_id else {"device__node__pool": pool_id}
    parts = DeviceClaim.objects.filter(
        **on, milli__lt=WHOLE, device__kind=kind, device__healthy=True, device__retiring_at=None
    )
    rows = parts.values_list(
        *("device__node_id", "device_id", "device__index"),
        "replica__endpoint__project__organization_id",
    )
    found: defaultdict[str, list[FreeDevice]] = defaultdict(list)
    for node, id, index, organization_id, held in rows.annotate(held=Sum("milli")):
        if held < WHOLE:
            found[node].append(FreeDevice(id, index, kind, WHOLE - held, organization_id))
    return found


def _here(node: Node, need: Need, but: Collection[str] = ()) -> Candidate:
    there = Device.objects.filter(
        node=node, healthy=True, retiring_at=None, kind=need.kind, deviceclaim__isnull=True
    )
    rows = there.order_by("index").values_list("id", "index")
    found = [FreeDevice(id, index, need.kind) for id, index in rows if id not in but]
    if need.milli < WHOLE:
        found += partly_free(node.pool_id, need.kind, node.id).get(node.id, ())
    return Candidate(node.id, node.name, tuple(found))


def _breaks_the_last_block(
    node: Node, need: Need, here: Candidate, taken: Collection[str], now: datetime
) -> bool:
    size = node.pool.keep_block
    if not size or need.count % size == 0 or not whole_blocks(need, here, size):
        return False
    left = tuple(one for one in here.free if one.id not in taken)
    if whole_blocks(need, Candidate(node.id, node.name, left), size):
        return False
    others = Node.objects.filter(
        pool=node.pool_id,
        lease_until__gt=now,
        cordoned_at=None,
        drain_requested_at=None,
        removed_at=None,
    ).exclude(id=node.id)
    return not any(whole_blocks(need, _here(one, need, taken), size) for one in others)
