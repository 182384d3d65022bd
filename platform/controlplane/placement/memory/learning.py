"""What engines printed corrects what is predicted next.

The formulas leave out what no configuration says: the CUDA context, libraries' workspaces,
communication buffers. What they leave is the *residual*: bytes that a start took beyond weights,
activations and captured graphs by the formula. It is the median of the residuals nearest in kind:
same version, architecture, device and backend; without the backend; the version and device; the
version; any version that accounts alike. Each rung counts only with residuals of its own.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from controlplane.placement.devices import GIB
from controlplane.placement.memory.engine import Arguments, Behaviour, Version, version
from controlplane.placement.memory.estimates import Estimate

# Where nothing was ever measured: a context and a workspace; buffers of one more rank (NCCL's
# as NVIDIA's aiconfigurator has them).
COLD_BYTES, COLD_SPREAD_BYTES = int(0.15 * GIB), int(0.6 * GIB)
CONTEXT_BYTES = int(0.3 * GIB)
RANK_BYTES = 342 << 20
# A graph of one size, as the engine reckons it: 0.92 GiB for 51 (Llama 3.1 8B, H100, 0.32.0).
GRAPH_BYTES = int(0.018 * GIB)
FLOOR_BYTES = int(0.12 * GIB)  # spread that is never undercut: versions of driver and libraries
TWO_SIGMA = 2.0
NORMAL = 1.4826  # from a median deviation to a standard one


@dataclass(frozen=True)
class Start:
    """One start of an engine, measured: `residual_bytes` beyond the formula on one device, and its
    weights over those of the formula."""

    engine_version: str
    architecture: str
    device: str
    backend: str
    ranks: int
    residual_bytes: float
    weights_ratio: float = 1.0
    source: str = ""

    @property
    def version(self) -> Version:
        return version(self.engine_version)


@dataclass(frozen=True)
class Key:
    """What a prediction is for."""

    engine_version: str
    architecture: str
    device: str
    backend: str
    ranks: int


def cold(behaviour: Behaviour, ranks: int) -> Estimate:
    """Without any measurement."""
    total = COLD_BYTES
    if behaviour.profiled_context:
        total += CONTEXT_BYTES
    if ranks > 1:
        total += RANK_BYTES
    return Estimate(total, total + COLD_SPREAD_BYTES)


def graphs(arguments: Arguments, behaviour: Behaviour) -> int:
    """Bytes that the engine sets aside for graphs; `arguments` are resolved."""
    return arguments.captured * GRAPH_BYTES if behaviour.estimates_graphs else 0


def residual(starts: Iterable[Start], key: Key, behaviour: Behaviour) -> Estimate:
    """Bytes beyond weights, activations and graphs on one device."""
    known = list(starts)
    base = cold(behaviour, key.ranks)
    for alike in _rungs(key, behaviour):
        nearest = [start.residual_bytes for start in known if alike(start)]
        if nearest:
            return _blend(nearest, base)
    return base


def ratio(starts: Iterable[Start], key: Key) -> tuple[float, int]:
    """What weights were over the formula's, and in how many starts: a kernel's own layout.

    Of the same architecture and backend; on the same device and version where there are any.
    """
    alike = [
        start
        for start in starts
        if start.architecture == key.architecture
        and start.backend == key.backend
        and (start.ranks > 1) == (key.ranks > 1)
    ]
    own = version(key.engine_version)
    near = [each for each in alike if each.device == key.device and each.version == own]
    if not near:
        return 1.0, 0
    return statistics.median(each.weights_ratio for each in near), len(near)


def _blend(values: Sequence[float], base: Estimate) -> Estimate:
    """The median, drawn to what holds without measurement as long as they are few.

    Not the mean: one start beside a neighbour that held the device would spoil it.
    """
    count = len(values)
    middle = statistics.median(values)
    blended = (middle * count + base.p50) / (count + 1)
    if count == 1:
        return Estimate(blended, max(blended, middle) + (base.p95 - base.p50) / 2)
    deviation = NORMAL * statistics.median(abs(value - middle) for value in values)
    spread = max(FLOOR_BYTES, TWO_SIGMA * deviation * math.sqrt(1 + 1 / count))
    few = (base.p95 - base.p50) / (count + 1)
    return Estimate(blended, blended + spread + few)


def _rungs(key: Key, behaviour: Behaviour) -> list[Callable[[Start], bool]]:
    own = version(key.engine_version)
    several = key.ranks > 1

    def ranks(start: Start) -> bool:
        return (start.ranks > 1) == several

    def device(start: Start) -> bool:
        return ranks(start) and start.version == own and start.device == key.device

    def model(start: Start) -> bool:
        return device(start) and start.architecture == key.architecture

    def alike(start: Start) -> bool:
        other = Behaviour(start.version)
        return (
            ranks(start)
            and other.profiled_context == behaviour.profiled_context
            and other.estimates_graphs == behaviour.estimates_graphs
        )

    return [
        lambda start: model(start) and start.backend == key.backend,
        model,
        device,
        lambda start: ranks(start) and start.version == own,
        alike,
    ]


@cache
def published() -> tuple[Start, ...]:
    """Starts that were measured elsewhere and published, as residuals of these formulas."""
    text = files("controlplane.placement.memory").joinpath("starts.json").read_text()
    return tuple(Start(**each) for each in json.loads(text)["starts"])
