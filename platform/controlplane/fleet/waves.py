"""What comes next in the rollout of an agent's release to a pool. Pure: decides, does nothing.

Canaries first, then wave after wave, never two at once: the next one waits until every node of
the one before has reported from the new release, and for a pause after that. If a node that was
told gets worse, all halts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Policy:
    canary_share: float = 0.05  # of the nodes: the first wave, one at least
    wave_size: int = 5
    pause_s: float = 300.0
    limit_s: float = 900.0  # for one node, from being told until it reports from the release


@dataclass(frozen=True)
class Standing:
    """A node, as it is heard, and how the rollout has dealt with it."""

    id: str
    able: bool = True  # its agent brings itself to another release
    release: str = ""  # SHA-256 of what it runs
    heard: bool = True  # its lease holds
    critical_since: datetime | None = None  # the newest critical finding that it has now
    went_back: str = ""  # why it left the release again, in this attempt
    told_at: datetime | None = None
    done_at: datetime | None = None


@dataclass(frozen=True)
class Plan:
    """`done`: nodes that are now known to run it. With `halt`, a reason, nothing else holds."""

    halt: str = ""
    worse: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    tell: tuple[str, ...] = ()
    finished: bool = False


def plan(
    nodes: Sequence[Standing],
    release: str,
    policy: Policy,
    now: datetime,
    *,
    fair_from: datetime | None = None,
) -> Plan:
    """The next step towards `release` on every node that can have it.

    `fair_from`: until then a node's silence may be our own doing, and is held against nobody.
    """
    fair_from = fair_from or datetime.min.replace(tzinfo=now.tzinfo)
    judged = ((node.id, _worse(node, release, policy, now, fair_from)) for node in nodes)
    reasons = {id: why for id, why in judged if why}
    if reasons:
        named = "; ".join(f"{id}: {why}" for id, why in sorted(reasons.items())[:5])
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        return Plan(halt=named + more, worse=tuple(sorted(reasons)))
    told = [node for node in nodes if node.told_at is not None]
    arrived = [node for node in told if node.done_at is None and _runs(node, release)]
    done = tuple(sorted(node.id for node in arrived))
    if any(node.done_at is None and not _runs(node, release) for node in told):
        return Plan(done=done)
    left = [node for node in nodes if node.able and node.told_at is None]
    left = [node for node in left if node.release != release]
    if not left:
        return Plan(done=done, finished=True)
    if arrived or not _paused(told, policy, now):
        return Plan(done=done)
    fit = sorted(node.id for node in left if node.heard and node.critical_since is None)
    able = sum(node.able for node in nodes)
    size = policy.wave_size if told else max(1, math.ceil(policy.canary_share * able))
    return Plan(done=done, tell=tuple(fit[: max(1, size)]))


def _runs(node: Standing, release: str) -> bool:
    return node.heard and node.release == release


def _paused(told: Sequence[Standing], policy: Policy, now: datetime) -> bool:
    """Whether the pause after the wave before is over."""
    ends = [node.done_at for node in told if node.done_at is not None]
    return not ends or now - max(ends) >= timedelta(seconds=policy.pause_s)


def _worse(node: Standing, release: str, policy: Policy, now: datetime, fair_from: datetime) -> str:
    """Why a node that was told is worse off than before; empty: it is not."""
    if node.told_at is None:
        return ""
    if node.went_back:
        return f"went back: {node.went_back}"
    if node.critical_since is not None and node.critical_since >= node.told_at:
        return "has a new critical finding"
    if node.done_at is None:
        late = now - max(node.told_at, fair_from) > timedelta(seconds=policy.limit_s)
        return "did not come to the release in time" if late and not _runs(node, release) else ""
    if not node.heard:
        return "is silent since its update" if now >= fair_from else ""
    return "" if node.release == release else "runs another release again"
