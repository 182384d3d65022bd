"""What a replica asks about its devices before a start; reaper/devices.py answers."""

from collections.abc import Collection
from typing import Protocol

from controlplane.fleet import wire
from workers.agent.engines import Running


class Verdict(Protocol):
    """`why` is empty for devices that are clean; `over`: waiting will not help."""

    @property
    def why(self) -> str: ...
    @property
    def over(self) -> bool: ...


class Cleanliness(Protocol):
    """What proves devices clean. Blocking."""

    def prove(self, spec: wire.ReplicaSpec, beside: Collection[str] = ()) -> Verdict: ...

    def started(self, spec: wire.ReplicaSpec, running: Running) -> None: ...
