"""What a master hands down: to the workers that it forks, and to itself when it starts anew."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

STATE = "STOA_GATEWAY_STATE"  # the descriptor of a State, for a master that starts anew


@dataclass(frozen=True)
class Inherited:
    """What one worker gets. The numbers are descriptors that it owns from then on."""

    slot: int = 0  # 0 to slots - 1; who replaces a worker gets its slot
    slots: int = 1
    listeners: tuple[int, ...] = ()  # bound, not yet listening; none: it binds its own
    metrics: int | None = None  # the same, shared by all workers
    channel: int | None = None  # to the master (gateway.channel)
    # Memory that all workers map (memfd), by name. It outlives each of them and every reload.
    memory: Mapping[str, int] = field(default_factory=dict)


class Member(msgspec.Struct):
    """A worker, as its master remembers it."""

    pid: int
    slot: int
    generation: int
    channel: int
    ready: bool
    leaving: bool  # it was told to drain
    figures: bytes


class State(msgspec.Struct):
    """All that a master must know of itself after it has started anew."""

    generation: int
    address: tuple[str, int]
    listeners: list[list[int]]  # per slot, one for each address of the host
    metrics_address: tuple[str, int]
    metrics: int | None
    memory: dict[str, tuple[int, int]]  # descriptor and size
    workers: list[Member]
    retired: bytes  # figures of workers that have ended

    def descriptors(self) -> list[int]:
        found = [fd for group in self.listeners for fd in group]
        found += [fd for fd, _ in self.memory.values()]
        found += [worker.channel for worker in self.workers]
        return found if self.metrics is None else [*found, self.metrics]


def save(state: State) -> int:
    """A descriptor that outlives an exec, like those that `state` names."""
    memory = os.memfd_create("state", 0)
    os.write(memory, msgspec.msgpack.encode(state))
    for fd in state.descriptors():
        os.set_inheritable(fd, True)
    return memory


def load(memory: int) -> State:
    state = msgspec.msgpack.decode(os.pread(memory, os.fstat(memory).st_size, 0), type=State)
    os.close(memory)
    for fd in state.descriptors():
        os.set_inheritable(fd, False)
    return state
