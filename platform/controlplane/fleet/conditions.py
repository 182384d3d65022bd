"""A node's conditions, named as Kubernetes names a node's. Pure.

`Ready` and what is positive is well when True; pressure when False. `Unknown`: nothing was heard.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controlplane.fleet.wire import Severity


class Status(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Condition:
    type: str
    status: Status
    reason: str
    message: str = ""
    since: datetime | None = None  # when it became so, where that is known

    @property
    def well(self) -> bool:
        return self.status is (Status.FALSE if self.type in _BAD_WHEN_TRUE else Status.TRUE)


@dataclass(frozen=True)
class Wrong:
    """A finding that holds now."""

    check: str
    severity: Severity
    text: str
    since: datetime
    device: int | None = None


@dataclass(frozen=True)
class Facts:
    """Of a node, as its row has them."""

    heard: bool
    unheard_since: datetime | None = None
    gpus: bool = False
    cordoned_at: datetime | None = None
    draining_since: datetime | None = None
    why: str = ""  # the check for which the policy took it out of service


_BAD_WHEN_TRUE = ("DiskPressure", "MemoryPressure")
# Type -> the checks it is about, and the reason when none of them finds anything.
_ABOUT: dict[str, tuple[tuple[str, ...], str]] = {
    "DiskPressure": (("disk_",), "NodeHasNoDiskPressure"),
    "MemoryPressure": (("memory_",), "NodeHasSufficientMemory"),
    "GPUHealthy": (("gpu_", "device_"), "NoCriticalFinding"),
    "ClockSynchronized": (("clock_",), "OffsetIsSmall"),
}


def conditions(facts: Facts, findings: Iterable[Wrong]) -> list[Condition]:
    """Ready first; GPUHealthy only of a node with GPUs. A critical finding makes one so."""
    found = [one for one in findings if one.severity is Severity.CRITICAL]
    made = [_ready(facts), _schedulable(facts)]
    for type, (prefixes, well) in _ABOUT.items():
        if type == "GPUHealthy" and not facts.gpus:
            continue
        if not facts.heard:
            made.append(Condition(type, Status.UNKNOWN, "NodeStatusUnknown", "", None))
            continue
        about = [one for one in found if one.check.startswith(prefixes)]
        made.append(_about(type, about, well))
    return made


def _about(type: str, wrong: list[Wrong], well: str) -> Condition:
    bad, good = Status.FALSE, Status.TRUE
    if type in _BAD_WHEN_TRUE:
        bad, good = good, bad
    if not wrong:
        return Condition(type, good, well)
    first = min(wrong, key=lambda one: one.since)
    reason = "".join(word.capitalize() for word in first.check.split("_"))
    return Condition(type, bad, reason, "; ".join(one.text for one in wrong)[:500], first.since)


def _ready(facts: Facts) -> Condition:
    if facts.heard:
        return Condition("Ready", Status.TRUE, "AgentReports")
    return Condition(
        "Ready", Status.UNKNOWN, "NodeStatusUnknown", "its agent is silent", facts.unheard_since
    )


def _schedulable(facts: Facts) -> Condition:
    message = f"because of {facts.why}" if facts.why else ""
    if facts.draining_since:
        return Condition("Schedulable", Status.FALSE, "Draining", message, facts.draining_since)
    if facts.cordoned_at:
        return Condition("Schedulable", Status.FALSE, "Cordoned", message, facts.cordoned_at)
    return Condition("Schedulable", Status.TRUE, "TakesReplicas")
