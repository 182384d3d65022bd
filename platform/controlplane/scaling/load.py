"""The signal: how much of its replicas an endpoint's load fills, as the gateways count it.

A GPU's own utilization says nothing (a decoding engine keeps it near 100 % with one request as
with fifty), nor does a KV cache that keeps old prefixes: what is in flight does.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """All that gateways hold for one endpoint now: what runs, and what waits for room.

    `uncached_tokens`: of prompts, not prefilled yet and in no cache; `kv_tokens`: that the requests
    hold or will hold in a KV cache; `running`: sequences.
    """

    uncached_tokens: int = 0
    kv_tokens: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica can do; None is not known and does not count.

    `prefill_tps`: tokens a second; `ttft_target_s`: within which prompts should be prefilled.
    """

    prefill_tps: float | None = None
    ttft_target_s: float = 1.0
    kv_tokens: int | None = None
    max_num_seqs: int | None = None


def utilization(load: Load, capacity: Capacity) -> float:
    """The load in replicas: the scarcest of prefill, KV cache and sequences. 0 only at no load."""
    shares = [0.0]
    if capacity.prefill_tps:
        shares.append(load.uncached_tokens / (capacity.prefill_tps * capacity.ttft_target_s))
    if capacity.kv_tokens:
        shares.append(load.kv_tokens / capacity.kv_tokens)
    if capacity.max_num_seqs:
        shares.append(load.running / capacity.max_num_seqs)
    return max(shares)
