"""What this worker holds for an endpoint now: what autoscaling is decided from.

Looked up when a row about it is written, so a request costs nothing more for it.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.loads import Loads, Place
from gateway.pools import Pools
from gateway.prefixes import TOKEN_BYTES


class Demand(NamedTuple):
    """Of requests on replicas and of those that wait.

    `uncached_tokens`: of prompts, not prefilled yet and in no cache, as far as one knows;
    `kv_tokens`: that they hold or will hold; `running`: sequences; `pressed`: it is more than the
    ready replicas take at once, or prefill within the endpoint's `ttft_target_s`; `prefill_tps`:
    tokens a second of a replica; None: not known yet.
    """

    uncached_tokens: int = 0
    kv_tokens: int = 0
    running: int = 0
    pressed: bool = False
    prefill_tps: float | None = None


NOTHING = Demand()


class Demands:
    """`waiting`: what those ask for who wait for an endpoint; `lines`: sequences and tokens that
    lines of batches hold there. All lines together count as one request: they keep an endpoint
    awake, and are no reason for a second replica."""

    def __init__(
        self,
        loads: Loads,
        pools: Pools,
        waiting: Callable[[str], Iterable[Place]],
        lines: Callable[[str], tuple[int, int]],
    ) -> None:
        self._loads = loads
        self._pools = pools
        self._waiting = waiting
        self._lines = lines

    def of(self, endpoint_id: str) -> Demand:
        now = asyncio.get_running_loop().time()
        uncached = kv = running = 0
        seconds = 0.0
        paces: list[float] = []
        pool = self._pools.find(endpoint_id)
        lanes = pool.lanes if pool is not None else []
        for lane in lanes:
            tokens, sequences = self._loads.ours(lane.id)
            kv, running = kv + tokens, running + sequences
            if lane.in_flight:
                backlog = lane.backlog(now)
                uncached += int(backlog) // TOKEN_BYTES
                seconds += backlog * lane.pace if lane.known else 0.0
            if lane.known:
                paces.append(lane.pace)
        of_lines, held = self._lines(endpoint_id)
        running, kv = max(running - of_lines, min(of_lines, 1)), max(0, kv - held)
        places = list(self._waiting(endpoint_id))
        for place in places:
            uncached += place.prompt
            kv += place.tokens
            running += place.sequences
        tps = len(paces) / (sum(paces) * TOKEN_BYTES) if paces else None
        target_s = pool.endpoint.ttft_target_s if pool is not None and pool.endpoint else 0.0
        pressed = bool(places) or seconds > target_s * len(lanes)
        return Demand(uncached, kv, running, pressed, tps)
