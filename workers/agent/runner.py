"""What the loop asks of whoever runs engines; node_runner.py answers."""

import ssl
from collections.abc import Callable
from typing import Protocol

from controlplane.fleet import wire
from workers.agent.engines import Running
from workers.agent.model_facts import ModelFacts


class CannotStart(Exception):
    """An engine that cannot be started; `reason` is an endpoints.states.Reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Door(Protocol):
    """The control plane, for whoever fetches. Blocking."""

    def source(self, request: wire.SourceRequest, cancelled: Callable[[], bool]) -> wire.Source:
        """Raises weights.errors.ModelError."""

    def secrets(self, request: wire.SecretsRequest, cancelled: Callable[[], bool]) -> wire.Secrets:
        """What one start from an image needs: to be kept nowhere. Raises as `source` does."""

    def signed(self, path: str) -> tuple[str, dict[str, str], ssl.SSLContext]:
        """Address, headers and TLS of a GET below the agents' prefix."""


class Progress(Protocol):
    """Told while a fetch goes on: words, and bytes of the weights (0: not known)."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None: ...


class Runner(Protocol):
    """All but `alive` may block; the loop calls them in threads."""

    @property
    def model_facts(self) -> ModelFacts:
        """What it read of the models that it brought."""

    def here(self, spec: wire.ReplicaSpec) -> bool:
        """Whether nothing has to be brought to start it."""

    def connect(self, door: Door) -> None:
        """How to ask the control plane where models are; called before the first fetch."""

    def fetch(
        self, spec: wire.ReplicaSpec, progress: Progress, cancelled: Callable[[], bool]
    ) -> str:
        """Bring the engine's environment and the weights. Their revision; empty: they have none.

        Raises CannotStart.
        """

    def pull(self, pull: wire.Pull, progress: Progress, cancelled: Callable[[], bool]) -> str:
        """Bring a model into the cache; its revision. Raises CannotStart."""

    def forget(self, replica_id: str) -> None:
        """Nothing of this replica runs any more, or will: others may have its room."""

    def start(self, spec: wire.ReplicaSpec) -> Running:
        """Start the engine's process, marked as `processes.marks` says. Raises CannotStart."""

    def alive(self, running: Running) -> bool:
        """Whether that very process runs; cheap, never blocks."""

    def listening(self, running: Running) -> bool:
        """Whether it answers at all."""

    def probe(self, running: Running, spec: wire.ReplicaSpec) -> str | None:
        """None when the smallest inference succeeded, else what is wrong."""

    def prove(self, running: Running, spec: wire.ReplicaSpec) -> wire.Proof:
        """Have the engine show what its endpoint promises. Raises CannotStart when it cannot do
        it, OSError when it does not answer."""

    def adapt(
        self, running: Running, spec: wire.ReplicaSpec, cancelled: Callable[[], bool]
    ) -> list[wire.AdapterReport]:
        """Give a running engine the adapters of `spec` and no others; how each is. What one
        lacks is said in its report. Raises OSError when the engine does not answer."""

    def stop(self, running: Running, grace_s: float) -> None:
        """SIGTERM, up to `grace_s` to end, then SIGKILL to all of it; 0: SIGKILL alone. Also
        tidies after an engine that is dead. Nothing is left when it returns; raises when
        something is."""

    def close(self, running: Running) -> None:
        """Let nobody connect to it any more; what is open goes on. Safe to repeat."""

    def can_sleep(self, running: Running, spec: wire.ReplicaSpec) -> bool:
        """Whether the engine, asleep, gives its device's memory back. Never blocks."""

    def busy(self, running: Running) -> bool | None:
        """Whether it has requests to answer; None: it does not say."""

    def sleep(self, running: Running) -> str | None:
        """None when it sleeps, or why it does not. Safe to repeat."""

    def wake(self, running: Running) -> str | None:
        """None when it is awake, else what is wrong. Safe to repeat."""

    def allow(self, running: Running, spec: wire.ReplicaSpec) -> None:
        """From here on it may reach outside what `spec` says. Raises OSError."""

    def reached(self, running: Running) -> list[wire.EgressCount]:
        """What it reached outside, or tried to. Never blocks for long."""

    def exit_reason(self, running: Running) -> str:
        """Why an engine that is not alive ended."""

    def engine_report(self, running: Running) -> wire.EngineReport:
        """What the engine printed while it started."""

    def tidy(self, keep: set[str]) -> None:
        """Remove what engines left that are none of these replicas'; none of them runs."""

    def tend(self) -> None:
        """Called now and then while nothing starts: see to the standby engines."""

    def standbys(self) -> set[int]:
        """Pids of the standby engines, which carry our mark and serve no replica."""
