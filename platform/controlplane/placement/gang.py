"""Choose the nodes for one replica that stands on several: all of them, or none. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from controlplane.placement.choose import (
    Fitting,
    Refusal,
    Rejected,
    Survey,
    breaks_blocks,
    kept_block,
    last_block,
    look,
    nobody,
)
from controlplane.placement.mix import UNKNOWN, Mix
from controlplane.placement.nodes import Candidate, Need, whole_blocks


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
    won = _won(survey, node_count)
    if len(won) < node_count:
        few = f"{len(won)} of {node_count} nodes that are needed at once can take it"
        lacking = {one.node.node_id: f"{one.node.name}: it alone could" for one in survey.fitting}
        reasons = survey.refusal().reasons
        return Refusal({"": few, **reasons, **lacking}, survey.walls_missing)
    return GangPlacement(tuple(one.node.node_id for one in won), survey.rejected(won))


def _won(survey: Survey, node_count: int) -> list[Fitting]:
    """The best, as many as there are; but together they leave the block that the policy keeps."""
    need, won = survey.need, list[Fitting]()
    size = kept_block(need, (one.node for one in survey.fitting))
    if not size:
        return survey.best(node_count)
    holders = {one.node.node_id for one in survey.fitting if whole_blocks(need, one.node, size)}
    intact = len(holders)
    for one in survey.best(len(survey.fitting)):
        breaks = one.node.node_id in holders and breaks_blocks(need, one.node, size)
        if breaks and intact == 1:
            survey.refused[one.node.node_id] = one.node.name, last_block(size)
            survey.fitting.remove(one)
        elif len(won) < node_count:
            won.append(one)
            intact -= breaks
    return won
