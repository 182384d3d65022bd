"""Who gives up a device that replicas share, for one that finds none free.

Only all of its replicas together free a device. Where one needs no more than a share, and the
device serves its organization, one of them may be enough.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.placement.mix import WHOLE
from controlplane.placement.nodes import Need
from controlplane.placement.preempt import Holder, Tier


@dataclass(frozen=True, slots=True)
class Part:
    """Thousandths of a device that a replica holds. `going`: it is on its way out."""

    node_id: str
    device_id: str
    replica_id: str
    organization_id: str
    milli: int
    going: bool
    since: float  # when it came into its state, as Unix seconds


def yielding(
    parts: Iterable[Part], tier_of: Mapping[str, Tier], need: Need
) -> tuple[list[str], list[Holder]]:
    """The node of each device that comes free by itself, far enough for `need`, and who else could
    be made to go. `tier_of`: who may have to."""
    devices: defaultdict[str, list[Part]] = defaultdict(list)
    for part in parts:
        devices[part.device_id].append(part)
    freed: list[str] = []
    holders: list[Holder] = []
    for there in devices.values():
        staying = [part for part in there if not part.going]
        lacking = _most(there, need) - (WHOLE - sum(part.milli for part in staying))
        if lacking <= 0:
            freed.append(there[0].node_id)
        else:
            holders += _holders(staying, lacking, tier_of)
    return freed, holders


def _most(there: list[Part], need: Need) -> int:
    """What has to be free of the device."""
    return need.milli if there[0].organization_id == need.organization_id else WHOLE


def _holders(staying: list[Part], lacking: int, tier_of: Mapping[str, Tier]) -> list[Holder]:
    able = [part for part in staying if part.replica_id in tier_of]
    if alone := [part for part in able if part.milli >= lacking]:
        return [_holder((part,), tier_of) for part in alone]
    return [_holder(tuple(able), tier_of)] if sum(part.milli for part in able) >= lacking else []


def _holder(parts: tuple[Part, ...], tier_of: Mapping[str, Tier]) -> Holder:
    """Of several all go: as late as the one that goes last."""
    first, *others = sorted(parts, key=lambda part: part.replica_id)
    return Holder(
        replica_id=first.replica_id,
        node_id=first.node_id,
        tier=max(tier_of[part.replica_id] for part in parts),
        devices=1,
        since=min(part.since for part in parts),
        others=tuple(part.replica_id for part in others),
    )
