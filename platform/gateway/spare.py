"""Lines of batches: they take what nobody else wants, and give it back when somebody does.

A line comes with the control plane's pass in place of a key, and runs in the name of the key that
made its batch. It never waits here: where somebody else waits, or a replica has less than its
share to spare, it is refused at once and comes again. While lines run and somebody begins to wait
for their endpoint, the newest of them are cut off, one for each who waits, whichever worker's it is
(`cuts`); nothing of a line leaves before it is whole, so that one that was cut is charged nothing.
"""

import asyncio
from typing import Protocol

from billing import passes
from gateway import errors
from gateway.admission import Admission
from gateway.cuts import Cuts
from gateway.directory import Directory, Endpoint, Key
from gateway.loads import Place

PREFIX = b"stoa-batch-"
_LOOK_S = 0.02


class LineKey(Key, frozen=True, gc=False):
    """A batch's key for one line of it. `paid`: its answer was charged already."""

    request_id: str = ""
    paid: bool = False


def key_of(directory: Directory, pass_key: bytes, secret: bytes, now: float) -> LineKey | None:
    """The key that the pass names, if the directory still has it: a revoked one is gone there.

    Its networks count where the batch was made; a runner is the control plane's own.
    """
    if not secret.startswith(PREFIX):
        return None
    said = passes.claims(pass_key, secret[len(PREFIX) :], now=now)
    if said is None:
        return None
    key = directory.keys.find(bytes.fromhex(said["hash"]))
    if key is None or key.id != said["key"]:
        return None
    fields = {name: getattr(key, name) for name in Key.__struct_fields__}
    until = said["until"] if key.expires_at is None else min(said["until"], key.expires_at)
    fields |= {"expires_at": until, "networks": ()}
    return LineKey(**fields, request_id=said["request"], paid=said["paid"])


class Cuttable(Protocol):
    """A line's exchange."""

    @property
    def place(self) -> Place: ...
    def preempted(self) -> None: ...


class Spare:
    """One worker's lines under way. `share` of each replica is the most that they may fill."""

    def __init__(self, admission: Admission, share: float, cuts: Cuts) -> None:
        self._admission = admission
        self._share = share
        self._cuts = cuts
        self._running: dict[str, dict[int, Cuttable]] = {}  # by endpoint; the newest last
        self._timer: asyncio.TimerHandle | None = None
        self.cut = 0  # so far

    def check(self, endpoint: Endpoint, place: Place, name: str) -> None:
        """Raises 503 where a line may not go now."""
        if not endpoint.replicas:
            raise errors.endpoint_starting(name, self._admission.wakes.retry_after(endpoint))
        if self._admission.crowded(endpoint) or not self._roomy(endpoint, place):
            raise errors.no_spare_capacity(name)

    def _roomy(self, endpoint: Endpoint, place: Place) -> bool:
        return any(
            self._admission.loads.spare(one, place, self._share) for one in endpoint.replicas
        )

    def began(self, endpoint_id: str, line: Cuttable) -> None:
        self._running.setdefault(endpoint_id, {})[id(line)] = line
        self._look_soon()

    def ended(self, endpoint_id: str, line: Cuttable) -> None:
        lines = self._running.get(endpoint_id)
        if lines is not None and lines.pop(id(line), None) is not None and not lines:
            del self._running[endpoint_id]

    def load(self, endpoint_id: str) -> tuple[int, int]:
        """Sequences and tokens that lines hold at its replicas: no reason to have more of them."""
        places = [line.place for line in self._running.get(endpoint_id, {}).values()]
        return sum(one.sequences for one in places), sum(one.taken for one in places)

    def _look_soon(self) -> None:
        if self._timer is None and (self._running or self._cuts):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._cuts:
            self._cuts.forget()
        for line in self._wanted():
            self.cut += 1
            line.preempted()
        self._look_soon()

    def _wanted(self) -> list[Cuttable]:
        return [line for endpoint_id in self._running for line in self._newest(endpoint_id)]

    def _newest(self, endpoint_id: str) -> list[Cuttable]:
        waiting = self._admission.waiting_for(endpoint_id)
        if not waiting:
            return []
        lines = list(self._running[endpoint_id].values())
        count = self._cuts.take(endpoint_id, waiting, len(lines))
        return lines[len(lines) - count :]
