"""How long each phase of a replica's start took: the bar on an endpoint's page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.endpoints.models import Replica, Transition
from controlplane.endpoints.states import COMING, State

WIDTH = 1000.0  # of the whole bar
_SEEN = 6.0  # the least width with which a phase can still be seen


@dataclass(frozen=True)
class Phase:
    """One state on the way up. `x` and `width` are in units of the bar."""

    state: str
    seconds: float
    x: float
    width: float
    running: bool


@dataclass(frozen=True)
class Start:
    replica: Replica
    phases: tuple[Phase, ...]
    total_s: float
    outcome: str  # the state that ended it; empty while it is under way


def measure(replica: Replica, transitions: Sequence[Transition], now: datetime) -> Start:
    """The newest start of `replica` from its transitions, oldest first, and the clock."""
    begins = [n for n, row in enumerate(transitions) if row.from_state == State.ASLEEP]
    if begins:
        transitions = [row for row in transitions[begins[-1] :] if row.from_state != State.ASLEEP]
    spent: list[tuple[str, float, bool]] = []
    outcome = ""
    for row in transitions:
        if row.from_state:
            spent.append((row.from_state, row.seconds, False))
        if row.to_state not in COMING:
            outcome = row.to_state
            break
    if not outcome and replica.state in COMING:
        spent.append((replica.state, max(0.0, (now - replica.state_at).total_seconds()), True))
    return Start(
        replica=replica,
        phases=_laid_out(spent),
        total_s=sum(seconds for _, seconds, _ in spent),
        outcome=outcome,
    )


def newest(replicas: Sequence[Replica]) -> Replica | None:
    """The start to show: the one under way, else the last one that came to serve, else the last."""
    ordered = sorted(replicas, key=lambda one: one.id, reverse=True)
    for wanted in (COMING, {State.READY, State.UNREACHABLE, State.DRAINING}):
        for replica in ordered:
            if replica.state in wanted:
                return replica
    return ordered[0] if ordered else None


def _laid_out(spent: Sequence[tuple[str, float, bool]]) -> tuple[Phase, ...]:
    """Widths in proportion to the seconds; short phases stay visible, the sum stays WIDTH."""
    total = sum(seconds for _, seconds, _ in spent)
    raw = [max(_SEEN, WIDTH * seconds / total if total else WIDTH) for _, seconds, _ in spent]
    scale = WIDTH / sum(raw) if raw else 1.0
    phases, x = [], 0.0
    for (state, seconds, running), width in zip(spent, raw, strict=True):
        phases.append(Phase(state, seconds, round(x, 2), round(width * scale, 2), running))
        x += width * scale
    return tuple(phases)
