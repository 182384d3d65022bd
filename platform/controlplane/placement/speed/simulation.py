"""A queue in front of one lane, step by step: what load does to the time to the first token.

The engine's own rules: who came first is served first, while there is a place and room in the
cache; prompts are taken in chunks of what a step has left for them beside those that decode.
Between two events nothing changes but contexts, so such steps are taken at once. The same
requests give the same answer.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from controlplane.placement.speed.load import Request
from controlplane.placement.speed.machine import Batch, Machine


@dataclass(frozen=True)
class Limits:
    """Of one lane: requests at once, tokens of a step, tokens that its cache holds."""

    sequences: int
    batched: int
    tokens: float


@dataclass(frozen=True)
class Served:
    """Seconds of one request: until its first token, until its last, and for each between."""

    arrived_s: float
    admitted_s: float  # when the engine had a place for it
    first_s: float
    last_s: float
    output: int
    prompt: int

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

    @property
    def e2e_s(self) -> float:
        return self.last_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """None: it has one token alone."""
        if self.output < 2:
            return None
        return (self.last_s - self.first_s) / (self.output - 1)


@dataclass
class _Reading:
    request: Request
    admitted_s: float
    read: int = 0  # tokens of its prompt so far


@dataclass(order=True)
class _Running:
    ends: int  # the step after which it has its last token
    number: int
    of: _Reading = field(compare=False)
    first_s: float = field(compare=False)


@dataclass
class _Lane:
    machine: Machine
    limits: Limits
    waiting: deque[Request]
    now: float = 0.0
    step: int = 0
    number: int = 0
    context: float = 0.0  # tokens of all that decode
    held: float = 0.0  # tokens that those inside will hold on average
    running: list[_Running] = field(default_factory=list)
    reading: deque[_Reading] = field(default_factory=deque)
    served: list[Served] = field(default_factory=list)


def run(machine: Machine, limits: Limits, requests: Iterable[Request]) -> list[Served]:
    """By the time of their last token. Requests that the cache never holds run alone."""
    lane = _Lane(machine, limits, deque(requests))
    while lane.waiting or lane.reading or lane.running:
        if not lane.reading and not lane.running:
            lane.now = max(lane.now, lane.waiting[0].at_s)
        _admit(lane)
        if lane.reading:
            _mixed_step(lane)
        else:
            _decode_steps(lane)
    return lane.served


def _holds(request: Request) -> float:
    """Tokens of its cache in the mean of its life: the engine takes pages as they fill."""
    return request.cached + request.prompt + request.output / 2


def _admit(lane: _Lane) -> None:
    while lane.waiting and lane.waiting[0].at_s <= lane.now:
        inside = len(lane.running) + len(lane.reading)
        need = _holds(lane.waiting[0])
        if inside and (inside >= lane.limits.sequences or lane.held + need > lane.limits.tokens):
            return
        lane.held += need
        lane.reading.append(_Reading(lane.waiting.popleft(), lane.now))


def _mixed_step(lane: _Lane) -> None:
    decoding = len(lane.running)
    room = max(lane.limits.batched - decoding, 1)
    taken, pieces, before = 0, 0, 0.0
    finished: list[_Reading] = []
    while lane.reading and room > 0:
        first = lane.reading[0]
        part = min(first.request.prompt - first.read, room)
        before += (first.request.cached + first.read) * part
        taken, room, pieces = taken + part, room - part, pieces + 1
        first.read += part
        if first.read < first.request.prompt:
            break
        finished.append(lane.reading.popleft())
    lane.now += lane.machine.seconds(
        Batch(
            decoding,
            lane.context / decoding if decoding else 0.0,
            taken,
            before / taken,
            pieces,
        )
    )
    _grow(lane, 1)
    for each in finished:
        _first_token(lane, each)


def _first_token(lane: _Lane, of: _Reading) -> None:
    request = of.request
    if request.output == 1:
        _leave(lane, of, lane.now)
        return
    lane.number += 1
    ends = lane.step + request.output - 1
    heapq.heappush(lane.running, _Running(ends, lane.number, of, lane.now))
    lane.context += request.cached + request.prompt


def _decode_steps(lane: _Lane) -> None:
    """As many as nothing happens in: nobody ends, nobody arrives who has a place."""
    decoding = len(lane.running)
    steps = lane.running[0].ends - lane.step
    mean = lane.context / decoding
    took = lane.machine.seconds(Batch(decoding, mean + steps / 2))
    if lane.waiting and lane.waiting[0].at_s > lane.now:
        until = lane.waiting[0].at_s - lane.now
        if steps * took > until:
            steps = max(1, min(steps, int(until / took) + 1))
            took = lane.machine.seconds(Batch(decoding, mean + steps / 2))
    lane.now += steps * took
    _grow(lane, steps)


def _grow(lane: _Lane, steps: int) -> None:
    lane.step += steps
    lane.context += steps * len(lane.running)
    while lane.running and lane.running[0].ends <= lane.step:
        ended = heapq.heappop(lane.running)
        request = ended.of.request
        lane.context -= request.cached + request.prompt + request.output - 1
        _leave(lane, ended.of, ended.first_s)


def _leave(lane: _Lane, of: _Reading, first_s: float) -> None:
    request = of.request
    lane.held -= _holds(request)
    beside = lane.machine.factors.first_s
    lane.served.append(
        Served(
            arrived_s=request.at_s,
            admitted_s=of.admitted_s,
            first_s=first_s + beside,
            last_s=lane.now + beside,
            output=request.output,
            prompt=request.cached + request.prompt,
        )
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The least value that so large a share does not exceed; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
