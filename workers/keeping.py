"""What the operator's machines need done as time passes: health, maintenance, leaving for good.

Each may run anywhere, at once, and be killed at any line; what fails is told and does not stop
the others.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from controlplane.endpoints import decommissioning, maintenance, observe, pulse
from controlplane.fleet import agent_rollouts, health

log = logging.getLogger(__name__)


def _roll_agents_out(*, now: datetime) -> int:
    since = pulse.listening_since(now=now, gap_s=observe.pulse_gap_s())
    return agent_rollouts.tend(now=now, listening_since=since)


_EACH: tuple[Callable[..., int], ...] = (
    health.tend,
    maintenance.tend,
    decommissioning.tend,
    _roll_agents_out,
)


def tend(now: datetime) -> int:
    """The number of steps that took effect."""
    done = 0
    for one in _EACH:
        try:
            done += one(now=now)
        except Exception:
            log.exception("%s.%s failed", one.__module__, one.__name__)
    return done
