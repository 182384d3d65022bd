"""Who gives up devices for a replica that finds none free, and in which order. Pure.

Those that sleep first, then those that only compute batches, then those that an endpoint has
beyond its minimum; whoever serves people within the minimum never does.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    ASLEEP = 0
    BATCH = 1
    ABOVE_MINIMUM = 2


@dataclass(frozen=True, slots=True)
class Holder:
    """A replica that may have to go. `devices`: of the needed kind, on that node; `since`: when it
    came into its state, as Unix seconds. The longest goes first of those that sleep, the newest of
    those that serve."""

    replica_id: str
    node_id: str
    tier: Tier
    devices: int
    since: float
    others: tuple[str, ...] = ()  # that hold parts of the same device, and go with it

    @property
    def order(self) -> tuple[int, float, str]:
        return self.tier, self.since if self.tier is Tier.ASLEEP else -self.since, self.replica_id


@dataclass(frozen=True, slots=True)
class Room:
    """The node on which the devices come free. `victims` is empty where they do so anyway."""

    node_id: str
    victims: tuple[Holder, ...] = ()


def make_room(
    count: int, free: Mapping[str, int], going: Mapping[str, int], holders: Iterable[Holder]
) -> Room | None:
    """Where `count` devices can be had, and who has to go for it; None: nowhere.

    `free`: of the needed kind, by the node that would take the replica; `going`: those that come
    free by themselves. Nobody of a higher tier goes while those of a lower one are enough
    somewhere; of nodes alike in that, the one on which fewest devices are missing.
    """
    missing = {node_id: count - there - going.get(node_id, 0) for node_id, there in free.items()}
    waiting = [node_id for node_id, lacking in missing.items() if lacking <= 0]
    if waiting:
        return Room(min(waiting, key=lambda one: (-free[one], one)))
    here: defaultdict[str, list[Holder]] = defaultdict(list)
    for holder in sorted(holders, key=lambda one: one.order):
        here[holder.node_id].append(holder)
    for tier in Tier:
        rooms = []
        for node_id, lacking in missing.items():
            able = [one for one in here[node_id] if one.tier <= tier]
            if sum(one.devices for one in able) >= lacking:
                rooms.append(Room(node_id, _victims(able, lacking)))
        if rooms:
            return min(rooms, key=lambda one: (missing[one.node_id], len(one.victims), one.node_id))
    return None


def _victims(holders: Sequence[Holder], lacking: int) -> tuple[Holder, ...]:
    """The first of them that are enough, without those that the later ones make needless."""
    chosen: list[Holder] = []
    for holder in holders:
        if lacking <= 0:
            break
        chosen.append(holder)
        lacking -= holder.devices
    for holder in list(chosen):
        if lacking + holder.devices <= 0:
            chosen.remove(holder)
            lacking += holder.devices
    return tuple(chosen)
