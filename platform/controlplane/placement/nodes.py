"""What a replica needs, what a node has free, and whether the one fits the other. Pure."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from controlplane.placement import blocks
from controlplane.placement.mix import UNKNOWN, WHOLE, Mix, Shape


class Weights(IntEnum):
    """Where a node has the weights of the model that is to be placed."""

    NONE = 0
    DISK = 1
    MEMORY = 2


@dataclass(frozen=True, slots=True)
class Need:
    """`shared`: the node may serve other organizations too, so engines must be walled off.

    `lot` decides between nodes that are equal in all else: who are placed at once, each with a lot
    of its own, do not all run for the same node. Empty: the lowest id.
    """

    kind: str
    count: int
    organization_id: str
    shared: bool = False
    image: bool = False  # it is started from an image
    milli: int = WHOLE  # thousandths of each device; less than all only of one
    cpu_milli: int = 0
    memory_mib: int = 0
    region: str = ""  # where it has to stay; empty: anywhere
    lot: str = field(default="", compare=False)

    @property
    def shape(self) -> Shape:
        return Shape(self.count, self.milli, self.cpu_milli, self.memory_mib)


@dataclass(frozen=True, slots=True)
class FreeDevice:
    """`milli`: thousandths that are free. Where others are taken, `organization_id` took them:
    nobody else gets the rest."""

    id: str
    index: int
    kind: str
    milli: int = WHOLE
    organization_id: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as it stands. `siblings`: replicas of the same endpoint that it already runs.

    `closed` is why it takes nobody now (`cordoned`, `draining`, `unreachable`), else empty;
    `organization_id` is the only one that it serves, else empty. `keep_block`: of the pool's
    aligned blocks of so many devices one stays free for those that need all of it; 0: none.
    """

    node_id: str
    name: str
    free: tuple[FreeDevice, ...]
    total: int = 0  # healthy devices of the kind, free or not
    closed: str = ""
    organization_id: str = ""
    walled: bool = True
    containers: bool = True  # it runs images
    siblings: int = 0
    region: str = ""
    weights: Weights = Weights.NONE
    shares: bool = False  # its pool lets replicas share a device
    can_share: bool = True  # its agent knows how they do
    keep_block: int = 0
    sick: int = 0  # devices of the kind that take nobody
    held: tuple[FreeDevice, ...] = ()  # free too, and reserved for somebody else
    awaited: int = 0  # those that will be for somebody else once they are free
    cpu_milli: int = 0  # free
    memory_mib: int = 0  # free
    # What was found out about it before, for whoever asks again. A copy begins with nothing.
    known: dict[object, Any] = field(default_factory=dict, init=False, compare=False, repr=False)


CONTAINERS = "it runs no images: neither podman nor Docker is there"
WALLS = "it cannot wall engines off from each other, and its pool serves several organizations"
NOT_SHARED = "its pool does not let replicas share a device"
CANNOT_SHARE = "its agent is too old for replicas that share a device"


def obstacle(need: Need, node: Candidate) -> str:
    """Why the node would not take it even if all its devices were free; empty where it would."""
    if node.organization_id and node.organization_id != need.organization_id:
        return "it serves another organization"
    if need.region and node.region != need.region:
        return f"it stands in region {node.region or 'unknown'}, not in {need.region}"
    if node.total < need.count:
        sick = f" that are healthy, and {node.sick} that are not" if node.sick else ""
        return f"has {node.total} of {need.count} devices of kind {need.kind}{sick}"
    if need.image and not node.containers:
        return CONTAINERS
    if node.closed:
        return node.closed
    if need.shared and not node.walled:
        return WALLS
    if need.milli < WHOLE and not node.shares:
        return NOT_SHARED
    if need.milli < WHOLE and not node.can_share:
        return CANNOT_SHARE
    return ""


@dataclass(frozen=True, slots=True)
class Stock:
    """Devices that an organization could have a part of, by index, and how much of each."""

    devices: tuple[FreeDevice, ...]
    milli: tuple[int, ...]
    whole: int

    def where_whole(self) -> dict[int, int]:
        """Index to place in `devices`."""
        return {one.index: at for at, one in enumerate(self.devices) if one.milli == WHOLE}


def stock(need: Need, node: Candidate) -> Stock:
    key = (need.kind, need.organization_id)
    found: Stock | None = node.known.get(key)
    if found is None:
        open_to = ("", need.organization_id)
        mine = [
            one for one in node.free if one.kind == need.kind and one.organization_id in open_to
        ]
        mine.sort(key=lambda one: one.index)
        milli = tuple([one.milli for one in mine])
        found = node.known[key] = Stock(tuple(mine), milli, milli.count(WHOLE))
    return found


def fit(need: Need, shape: Shape, node: Candidate, mix: Mix) -> tuple[int, float] | str:
    """The block that it would break (0 where it takes one device), and what that costs the mix;
    or what the node is short of now. `shape` is the need's."""
    cpu, memory, here = node.cpu_milli, node.memory_mib, stock(need, node)
    if need.cpu_milli > cpu:
        return f"{cpu / 1000:g} processor cores free, {need.cpu_milli / 1000:g} needed"
    if need.memory_mib > memory:
        return f"{memory} MiB of memory free, {need.memory_mib} needed"
    if need.milli < WHOLE:
        most = max(here.milli, default=0)
        if most < need.milli:
            return f"{most} of the {need.milli} thousandths of a device of kind {need.kind} free"
        return 0, mix.share(here.milli, shape, cpu, memory)[0]
    if here.whole < need.count:
        kept = f" and {len(node.held)} reserved" if node.held else ""
        there = f"{here.whole} of {node.total} devices of kind {need.kind} free"
        return f"{there}{kept}, {need.count} needed"
    if need.count == 1:
        return 0, mix.share(here.milli, shape, cpu, memory)[0]
    _, block = blocks.take(here.where_whole(), need.count)
    return block, mix.block(here.milli, shape, cpu, memory)


def devices(need: Need, node: Candidate, mix: Mix = UNKNOWN) -> tuple[str, ...]:
    """Ids of the devices that it should take there; empty where not enough are free."""
    here = stock(need, node)
    if need.milli < WHOLE:
        if max(here.milli, default=0) < need.milli:
            return ()
        _, place = mix.share(here.milli, need.shape, node.cpu_milli, node.memory_mib)
        if here.milli[place] < WHOLE:
            return (here.devices[place].id,)
    if here.whole < need.count:
        return ()
    where = here.where_whole()
    indexes, _ = blocks.take(where, need.count)
    return tuple(here.devices[where[index]].id for index in indexes)


def whole_blocks(need: Need, node: Candidate, size: int) -> int:
    """How many aligned blocks of so many devices of the kind are free there, reserved or not."""
    there = (*node.free, *node.held)
    whole = [one.index for one in there if one.kind == need.kind and one.milli == WHOLE]
    return blocks.whole(whole, size) if len(whole) >= size else 0
