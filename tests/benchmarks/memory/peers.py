"""What other tools say of the same rows.

GPUStack's published rule for vLLM: weights x 1.2 and a footprint of 2 GiB (its documentation's
examples: 7B 19.0 GiB, 72B 164.5 GiB). The others fetch a checkpoint's headers from a hub: they
are asked nothing here, since no test leaves this machine.
"""

from dataclasses import dataclass

from tests.benchmarks.memory.truth import Row

FACTOR, FOOTPRINT_GIB = 1.2, 2.0
OFFLINE = ("accelerate estimate-memory", "hf-mem")
NO_ANSWER = "no answer offline"


@dataclass(frozen=True)
class Said:
    kv_gib: float
    fits: bool


def gpustack(row: Row) -> Said | None:
    """None: the row lacks what the rule needs."""
    if row.memory_gib is None or row.weights_gib is None:
        return None
    budget = row.memory_gib * (row.utilization or 0.9)
    left = budget - FACTOR * row.weights_gib - FOOTPRINT_GIB
    return Said(left, left > 0)
