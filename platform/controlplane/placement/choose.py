"""Choose the node and the devices for one replica: hard limits first, then spread."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Need:
    """`shared`: the node may serve other organizations too, so engines must be walled off."""

    kind: str
    count: int
    organization_id: str
    shared: bool = False
    image: bool = False  # it is started from an image


@dataclass(frozen=True)
class FreeDevice:
    id: str
    index: int
    kind: str


@dataclass(frozen=True)
class Candidate:
    """A node as it stands. `siblings`: replicas of the same endpoint that it already runs.

    `closed` is why it takes nobody now (`cordoned`, `draining`, `unreachable`), else empty;
    `organization_id` is the only one that it serves, else empty.
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


@dataclass(frozen=True)
class Placement:
    node_id: str
    device_ids: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Nobody can take it now. `reasons`: node id to why not, in a person's words."""

    reasons: dict[str, str] = field(default_factory=dict)
    walls_missing: bool = False  # the only obstacle on some node: it will not pass by waiting
    containers_missing: bool = False  # no node that has the devices runs images

    def __str__(self) -> str:
        if not self.reasons:
            return "the pool has no node"
        said = sorted(set(self.reasons.values()))
        return "; ".join(said[:5])


def choose(need: Need, candidates: Iterable[Candidate]) -> Placement | Refusal:
    """The node with fewest siblings, then most free devices of the kind; lowest indexes first."""
    reasons: dict[str, str] = {}
    fitting: list[tuple[int, int, str, tuple[str, ...]]] = []
    walls_missing = False
    runs_images = False
    for node in candidates:
        free = sorted((d for d in node.free if d.kind == need.kind), key=lambda d: d.index)
        if why_not := obstacle(need, node, len(free)):
            reasons[node.node_id] = f"{node.name}: {why_not}"
            walls_missing |= why_not == WALLS
            runs_images |= why_not != CONTAINERS and node.total >= need.count
            continue
        devices = tuple(device.id for device in free[: need.count])
        fitting.append((node.siblings, -len(free), node.node_id, devices))
    if not fitting:
        return Refusal(reasons, walls_missing, need.image and not runs_images)
    _, _, node_id, devices = min(fitting)
    return Placement(node_id, devices)


CONTAINERS = "it runs no images: neither podman nor Docker is there"
WALLS = "it cannot wall engines off from each other, and its pool serves several organizations"


def obstacle(need: Need, node: Candidate, free: int) -> str:
    """Why the node does not take it with so many devices free; empty where it does."""
    if node.organization_id and node.organization_id != need.organization_id:
        return "it serves another organization"
    if node.total < need.count:
        return f"has {node.total} of {need.count} devices of kind {need.kind}"
    if need.image and not node.containers:
        return CONTAINERS
    if node.closed:
        return node.closed
    if need.shared and not node.walled:
        return WALLS
    if free < need.count:
        return f"{free} of {node.total} devices of kind {need.kind} free, {need.count} needed"
    return ""
