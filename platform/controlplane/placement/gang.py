"""Choose the nodes for one replica that stands on several: all of them, or none. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from controlplane.placement.choose import Refusal, Rejected, look, nobody
from controlplane.placement.mix import UNKNOWN, Mix
from controlplane.placement.nodes import Candidate, Need


@dataclass(frozen=True)
class GangPlacement:
    """The nodes by rank. Each holds as many devices as the need says."""

    node_ids: tuple[str, ...]
    rejected: Rejected = field(default_factory=nobody, compare=False, repr=False)


UNABLE = "it cannot join a gang, which needs root, /dev/net/tun and a relay"


def choose_gang(
    need: Need,
    node_count: int,
    candidates: Iterable[Candidate],
    able: Collection[str],
    mix: Mix = UNKNOWN,
) -> GangPlacement | Refusal:
    """The best nodes, as `choose` orders them; `able`: ids of those that can join a gang at all.
    `need` is of each node."""
    survey = look(need, candidates, mix)
    for one in survey.fitting:
        if one.node.node_id not in able:
            survey.refused[one.node.node_id] = one.node.name, UNABLE
    survey.fitting[:] = [one for one in survey.fitting if one.node.node_id in able]
    if len(survey.fitting) < node_count:
        few = f"{len(survey.fitting)} of {node_count} nodes that are needed at once can take it"
        lacking = {one.node.node_id: f"{one.node.name}: it alone could" for one in survey.fitting}
        reasons = survey.refusal().reasons
        return Refusal({"": few, **reasons, **lacking}, survey.walls_missing)
    won = survey.best(node_count)
    return GangPlacement(tuple(one.node.node_id for one in won), survey.rejected(won))
