"""What an engine is to the platform. Pure, and without anything but the wire's own types."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from controlplane.fleet import wire

Value = bool | int | float | str | None

# GET that path of a running engine: status and body. Raises OSError or HTTPException.
Ask = Callable[[str], tuple[int, bytes]]


class SpecError(ValueError):
    """An engine argument that cannot be; the message names it."""


class Refused(ValueError):
    """A setting that a tenant may not have: which, and why, for a person."""

    def __init__(self, setting: str, message: str, code: str = "engine_arg_invalid") -> None:
        super().__init__(message)
        self.setting, self.code = setting, code


class Way(StrEnum):
    """How an engine can be run."""

    PROCESS = "process"  # from an environment that the agent installs, behind walls of its own
    CONTAINER = "container"  # from an image


@dataclass(frozen=True)
class Can:
    """What an engine can do. `proofs`: what an endpoint on it may promise."""

    openai: bool = True
    adapters: bool = False  # LoRA, loaded and unloaded while it runs
    sleep: bool = False
    share: bool = False  # be kept to a part of a device's memory
    standby: bool = False  # forked from a process that has done its imports
    gangs: bool = False  # stand on several nodes
    recipes: bool = False  # those for families of models speak of its settings
    proofs: frozenset[wire.Capability] = frozenset()


@dataclass(frozen=True)
class Recipe:
    """How an environment is made, from requirements/engine-NAME.lock. `torch`: a CPU build that no
    lock can name, since its hash differs from source to source; `alias`: a name that the engine's
    own command looks itself up by; `libraries`: shared ones that it takes for granted, and the
    Debian package that has each."""

    version: str
    torch: str = ""
    alias: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """What an engine's namespace has: loopback, or the way to the others of its gang."""

    address: str = "127.0.0.1"
    interface: str = "lo"
    master: str = ""  # of a gang: where rank 0 is
    master_port: int = 29_501  # where its members first meet


@dataclass(frozen=True)
class Place:
    """Where and on what an engine is started. Paths are those that the engine itself sees."""

    model: Path
    home: Path  # its own, and gone with it
    scratch: Path  # its own; short, for it holds unix sockets
    device_kind: str
    socket: Path | None = None  # where it listens; without one on `port` of loopback
    port: int = 8000
    kept: Path | None = None  # what outlives it; in `home` where there is none
    template: Path | None = None  # a chat template for a model that brings none
    threads: int = 1  # of computation, on a CPU
    added: Mapping[str, Value] = field(default_factory=dict)  # by us, unless the endpoint says it
    network: Network = field(default_factory=Network)

    @property
    def gpu(self) -> bool:
        return self.device_kind.startswith("nvidia-")


@dataclass(frozen=True)
class Shape:
    """On what an endpoint's replica stands: `device_count` devices of each of its nodes."""

    device_count: int = 1
    device_kind: str = ""
    node_count: int = 1


@dataclass(frozen=True)
class Figures:
    """What an engine's own metrics say, under our names; None where it says nothing of it."""

    running: int | None = None  # requests that it computes
    waiting: int | None = None  # requests that it has taken and not begun
    kv_cache_usage: float | None = None  # 0 to 1


class Engine:
    """One kind of engine. Methods are pure but for what they `ask` of a running one."""

    name: ClassVar[str]
    ways: ClassVar[frozenset[Way]]
    can: ClassVar[Can]
    # In an image; an environment has it from `entry`.
    program: ClassVar[Sequence[str]] = ()
    # What follows `python -I` in its environment; {launcher} is the agent's folder of that name.
    entry: ClassVar[Sequence[str]] = ()
    environments: ClassVar[Mapping[str, Recipe]] = {}
    metrics_path: ClassVar[str] = "/metrics"
    shutdown_s: ClassVar[float] = 3.0  # for what still runs when it is told to end

    def serves(self, device_kind: str) -> bool:
        """Whether it runs on devices of that kind."""
        return True

    def environment_for(self, device_kind: str) -> str:
        """The environment that serves a kind of device. Raises SpecError where none does."""
        raise SpecError(f"{self.name} runs from an image only")

    def arguments(self, spec: wire.ReplicaSpec, place: Place) -> list[str]:
        """What follows `program`. Raises SpecError."""
        raise NotImplementedError

    def variables(self, spec: wire.ReplicaSpec, place: Place) -> dict[str, str]:
        """What it has in its environment beside what every engine has (`offline`)."""
        return {}

    def files(self, spec: wire.ReplicaSpec, place: Place) -> dict[Path, str]:
        """Files that it is started with, by their path in `home`. Raises SpecError."""
        return {}

    def health_path(self, spec: wire.ReplicaSpec) -> str:
        """A GET that answers 200 once it is loaded."""
        return "/health"

    def infers(self, spec: wire.ReplicaSpec) -> bool:
        """Whether an inference of OpenAI's API proves it; else its health alone does."""
        return self.can.openai

    def busy(self, ask: Ask, connected: Callable[[], int | None]) -> bool | None:
        """Whether it has requests to answer; None: nobody can say.

        `connected`: connections that are open to it. An idle one lasts for seconds, so who
        counts them drains longer than need be, and never too short.
        """
        count = connected()
        return None if count is None else count > 0

    def figures(self, body: bytes) -> Figures:
        """What an answer of `metrics_path` says."""
        return Figures()

    def can_sleep(self, spec: wire.ReplicaSpec, device_kind: str) -> bool:
        """Whether it, asleep, gives its device's memory back."""
        return False

    def takes_adapters(self, spec: wire.ReplicaSpec) -> bool:
        """Whether it has room for LoRA adapters; which, it is told while it runs."""
        return False

    def check(self, args: Mapping[str, object], shape: Shape) -> dict[str, Value]:
        """A tenant's settings in their final form. Raises Refused."""
        raise NotImplementedError


def offline() -> dict[str, str]:
    """For every engine: no model hub, and nothing told to anybody."""
    return {
        # The weights are here already, and an engine behind its walls reaches no hub.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }
