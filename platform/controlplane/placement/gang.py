"""Choose the nodes for one replica that stands on several: all of them, or none. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controlplane.placement.choose import WALLS, Candidate, Need, Refusal, obstacle


@dataclass(frozen=True)
class GangPlacement:
    """The nodes by rank. Each holds as many devices as the need says."""

    node_ids: tuple[str, ...]


def choose_gang(
    need: Need, node_count: int, candidates: Iterable[Candidate], able: Collection[str]
) -> GangPlacement | Refusal:
    """The nodes with fewest siblings, then most free devices; `able`: ids of those that can join
    a gang at all. `need` is of each node."""
    reasons: dict[str, str] = {}
    fitting: list[tuple[int, int, str]] = []
    walls_missing = False
    for node in candidates:
        free = sum(device.kind == need.kind for device in node.free)
        why_not = obstacle(need, node, free)
        if not why_not and node.node_id not in able:
            why_not = "it cannot join a gang, which needs root, /dev/net/tun and a relay"
        if why_not:
            reasons[node.node_id] = f"{node.name}: {why_not}"
            walls_missing |= why_not == WALLS
            continue
        fitting.append((node.siblings, -free, node.node_id))
    if len(fitting) < node_count:
        few = f"{len(fitting)} of {node_count} nodes that are needed at once can take it"
        return Refusal({"": few, **reasons}, walls_missing)
    return GangPlacement(tuple(id for _, _, id in sorted(fitting)[:node_count]))
