"""Choose the node and the devices for one replica, and say why not the others. Pure.

Hard limits first. Of the nodes that remain: the one with fewest replicas of the same endpoint,
which already holds the weights (in memory rather than on disk), whose smallest aligned block will
do, where fragmentation grows least.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from controlplane.placement import blocks
from controlplane.placement.mix import UNKNOWN, WHOLE, Mix
from controlplane.placement.nodes import (
    CONTAINERS,
    WALLS,
    Candidate,
    Need,
    Weights,
    devices,
    fit,
    obstacle,
    whole_blocks,
)


@dataclass(frozen=True, slots=True)
class Fitting:
    """A node that can take it: the lowest rank is the best."""

    rank: tuple[int, int, int, float]  # siblings, weights, block, cost
    node: Candidate


class Rejected(Mapping[str, str]):
    """Why each node but the chosen ones was not taken, by its id. The words are made when they
    are read."""

    def __init__(
        self,
        refused: Mapping[str, tuple[str, str]],
        fitting: Sequence[Fitting],
        won: Sequence[Fitting],
    ) -> None:
        """`refused`: id to name and obstacle; `fitting` has those that won too."""
        self._refused, self._fitting, self._won = refused, fitting, won
        self._lost: dict[str, Fitting] | None = None

    def __getitem__(self, node_id: str) -> str:
        lost = self._losers.get(node_id)
        if lost is None:
            return ": ".join(self._refused[node_id])
        return f"{lost.node.name}: {_outdone(lost, self._won[-1])}"

    def __iter__(self) -> Iterator[str]:
        yield from self._refused
        yield from self._losers

    def __len__(self) -> int:
        return len(self._refused) + len(self._losers)

    def by_reason(self) -> dict[str, list[str]]:
        """The same the other way round, the nodes' names left out: a few reasons, many ids."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for node_id, (_, why) in self._refused.items():
            found[why].append(node_id)
        words: dict[object, str] = {}
        for node_id, lost in self._losers.items():
            if lost.rank not in words:
                words[lost.rank] = _outdone(lost, self._won[-1])
            found[words[lost.rank]].append(node_id)
        return dict(found)

    @property
    def _losers(self) -> dict[str, Fitting]:
        if self._lost is None:
            won = {one.node.node_id for one in self._won}
            by_id = {one.node.node_id: one for one in self._fitting}
            self._lost = {id: one for id, one in by_id.items() if id not in won}
        return self._lost


def nobody() -> Rejected:
    return Rejected({}, (), ())


@dataclass(frozen=True)
class Placement:
    node_id: str
    device_ids: tuple[str, ...]
    rejected: Rejected = field(default_factory=nobody, compare=False, repr=False)


@dataclass(frozen=True)
class Refusal:
    """Nobody can take it now. `reasons`: node id to why not, in a person's words."""

    reasons: Mapping[str, str] = field(default_factory=dict)
    walls_missing: bool = False  # the only obstacle on some node: it will not pass by waiting
    containers_missing: bool = False  # no node that has the devices runs images

    def __str__(self) -> str:
        if not self.reasons:
            return "the pool has no node"
        said = sorted(set(self.reasons.values()))
        return "; ".join(said[:5])


def choose(need: Need, candidates: Iterable[Candidate], mix: Mix = UNKNOWN) -> Placement | Refusal:
    """The best node for it, or why none. `mix`: what is asked for besides, which decides what a
    free device is worth."""
    survey = look(need, candidates, mix)
    if not survey.fitting:
        return survey.refusal()
    (won,) = survey.best(1)
    taken = devices(need, won.node, mix)
    return Placement(won.node.node_id, taken, survey.rejected((won,)))


@dataclass(frozen=True, slots=True)
class Survey:
    need: Need
    fitting: list[Fitting]
    refused: dict[str, tuple[str, str]]  # of those that cannot take it: name, obstacle
    walls_missing: bool
    containers_missing: bool

    def refusal(self) -> Refusal:
        reasons = {id: f"{name}: {why}" for id, (name, why) in self.refused.items()}
        return Refusal(reasons, self.walls_missing, self.containers_missing)

    def rejected(self, won: Sequence[Fitting]) -> Rejected:
        return Rejected(self.refused, self.fitting, won)

    def best(self, count: int) -> list[Fitting]:
        """So many nodes, the best first. Between equals the lot decides."""
        if count == 1:
            rank = min([one.rank for one in self.fitting])
            return [min((one for one in self.fitting if one.rank == rank), key=self._lot)]
        return sorted(self.fitting, key=lambda one: (one.rank, self._lot(one)))[:count]

    def _lot(self, one: Fitting) -> tuple[int, str]:
        id = one.node.node_id
        return (crc32(f"{self.need.lot}{id}".encode()) if self.need.lot else 0), id


def look(need: Need, candidates: Iterable[Candidate], mix: Mix = UNKNOWN) -> Survey:
    """What each node says to it."""
    refused: dict[str, tuple[str, str]] = {}
    fitting: list[Fitting] = []
    walls_missing = runs_images = False
    shape = need.shape
    # Plain values: their hash is taken once for each node.
    key = (
        *(need.kind, need.organization_id, need.count, need.milli),
        *(need.cpu_milli, need.memory_mib, mix),
    )
    for node in candidates:
        why_not = obstacle(need, node)
        if not why_not:
            found: tuple[int, float] | str | None = node.known.get(key)
            if found is None:
                found = node.known[key] = fit(need, shape, node, mix)
            if not isinstance(found, str):
                fitting.append(Fitting((node.siblings, -node.weights, *found), node))
                continue
            why_not = found
        refused[node.node_id] = node.name, why_not
        walls_missing |= why_not is WALLS
        runs_images |= why_not is not CONTAINERS and node.total >= need.count
    fitting = _but_the_last_block(need, fitting, refused)
    return Survey(need, fitting, refused, walls_missing, need.image and not runs_images)


def _but_the_last_block(
    need: Need, fitting: list[Fitting], refused: dict[str, tuple[str, str]]
) -> list[Fitting]:
    """Without the node whose devices are the last whole block, where the pool's policy keeps one
    and the replica would break it."""
    size = kept_block(need, (one.node for one in fitting))
    if not size:
        return fitting
    stay = {node.node_id for node in but_the_kept(need, 1, [one.node for one in fitting])}
    for one in fitting:
        if one.node.node_id not in stay:
            refused[one.node.node_id] = one.node.name, last_block(size)
    return [one for one in fitting if one.node.node_id in stay]


def kept_block(need: Need, nodes: Iterable[Candidate]) -> int:
    """Devices of the block that the pool's policy keeps from such a replica; 0: it keeps none."""
    size = max((one.keep_block for one in nodes), default=0)
    return size if size and need.count % size else 0


def but_the_kept(need: Need, node_count: int, nodes: Sequence[Candidate]) -> list[Candidate]:
    """Without a node whose block the pool's policy keeps, where as many as are needed would leave
    none whole."""
    size = kept_block(need, nodes)
    holders = [one for one in nodes if whole_blocks(need, one, size)] if size else []
    if len(holders) > node_count or not all(breaks_blocks(need, one, size) for one in holders):
        return list(nodes)
    return [one for one in nodes if not any(one is kept for kept in holders[:1])]


def last_block(size: int) -> str:
    return f"its pool keeps one whole block of {size} devices free, and this is the last"


def breaks_blocks(need: Need, node: Candidate, size: int) -> bool:
    """Whether the node, which has aligned blocks of so many devices free, would have none left."""
    taken = set(devices(need, node))
    left = replace(node, free=tuple(one for one in node.free if one.id not in taken))
    return not whole_blocks(need, left, size)


def _outdone(lost: Fitting, won: Fitting) -> str:
    """The first thing in which the chosen node is better."""
    name, rank, best = won.node.name, lost.rank, won.rank
    if rank[0] != best[0]:
        return f"{rank[0]} replicas of the endpoint run there, on {name} {best[0]}"
    if rank[1] != best[1]:
        return f"{_WEIGHTS[Weights(-rank[1])]}, {name} {_WEIGHTS[Weights(-best[1])]}"
    if rank[2] != best[2]:
        return f"would break {_block(rank[2])}, {name} {_block(best[2])}"
    if rank[3] != best[3]:
        cost, least = rank[3] / WHOLE, best[3] / WHOLE
        return f"would cost {cost:.4f} of a device in fragments, {name} {least:.4f}"
    return f"as good as {name}: the lot fell on that"


def _block(size: int) -> str:
    return "several blocks" if size == blocks.UNALIGNED else f"a block of {size}"


_WEIGHTS = {
    Weights.NONE: "does not hold the weights",
    Weights.DISK: "has the weights on disk",
    Weights.MEMORY: "has the weights in memory",
}
