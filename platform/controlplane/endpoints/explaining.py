"""Why a replica stands where it does, or why none can take it: each node's word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q

from controlplane.endpoints import placing
from controlplane.endpoints.board import Board
from controlplane.endpoints.models import Endpoint, PlacementNote, Replica
from controlplane.endpoints.states import State
from controlplane.fleet.models import Device, Node
from controlplane.placement.choose import Refusal
from controlplane.placement.gang import GangPlacement

NOT_DRAWN = "it was not among those that were drawn of a large pool"


@dataclass(frozen=True)
class Explained:
    """`rejected`: node id to why not; the empty id says what holds of all of them together.

    `node_ids` and `devices` are what it holds; of one that waits, `node_ids` is where it would go
    now. `at` is when it was decided, or asked.
    """

    at: datetime
    node_ids: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)


def explain(replica: Replica, now: datetime) -> Explained:
    """Of a replica that waits it is asked now, and nothing is taken."""
    if replica.state == State.REQUESTED:
        return _asked(replica, now)
    note = PlacementNote.objects.filter(replica=replica).first()
    held = Device.objects.filter(deviceclaim__replica=replica).order_by("node_id", "index")
    members = tuple(replica.members.order_by("rank").values_list("node_id", flat=True))
    chosen = members or ((replica.node_id,) if replica.node_id else ())
    if note is None:  # it holds nothing any more, or was placed before there were such notes
        return Explained(replica.state_at, chosen, tuple(held))
    return Explained(note.at, chosen, tuple(held), _named(replica.endpoint, note, chosen))


def _named(endpoint: Endpoint, note: PlacementNote, chosen: Sequence[str]) -> dict[str, str]:
    """By node, as choosing words it."""
    reasons = {node_id: why for why, nodes in note.rejected.items() for node_id in nodes}
    there = Node.objects.filter(pool=endpoint.pool_id, created_at__lte=note.at)
    there = there.filter(Q(removed_at=None) | Q(removed_at__gt=note.at)).exclude(id__in=chosen)
    return {
        node_id: f"{name}: {reasons.get(node_id, NOT_DRAWN)}"
        for node_id, name in there.values_list("id", "name")
    }


def _asked(replica: Replica, now: datetime) -> Explained:
    answer = placing.ask(replica, Board(now))
    if isinstance(answer, Refusal):
        return Explained(now, rejected=answer.reasons)
    nodes = answer.node_ids if isinstance(answer, GangPlacement) else (answer.node_id,)
    return Explained(now, nodes, rejected=answer.rejected)
