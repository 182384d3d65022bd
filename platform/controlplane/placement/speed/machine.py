"""How long one step takes: the roofline of its parts, under factors of efficiency.

Matrices and experts each take the longer of computing and reading; attention to what is cached
reads; all-reduces wait for the link; the rest is a constant for each layer, step and request.
"""

import math
from dataclasses import dataclass, replace

from controlplane.placement.devices import Device, Throughput
from controlplane.placement.models.quantization import Quantization
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed.factors import Factors
from controlplane.placement.speed.work import Work

SWITCHED_BYTES_S = 100e9  # links slower than this are no NVLink but the host's bus
# From one stage of a pipeline to the next, on another node: a line of 100 Gbit.
HOP_BYTES_S, HOP_S = 12.5e9, 30e-6
BUS_PENALTY = 3.0  # an all-reduce over it starts later: 60 us against 20 (serving research)
# Tokens of one expert from which its matrices compute as fast as they will; of fewer, tiles are
# padded: half as fast with a quarter. Chosen with every sparse row of the measurements in view.
EXPERT_ROWS = 256
FEW = ("fp8_tensor", "fp8_channel", "fp8_block", "int8_channel")
FOUR = ("nvfp4", "mxfp4")


@dataclass(frozen=True)
class Batch:
    """What one step holds: `decoding` requests with `context` tokens each on average before them,
    and `prompt` tokens of `prompts` requests behind `start` others."""

    decoding: float
    context: float
    prompt: float = 0
    start: float = 0
    prompts: float = 0


@dataclass(frozen=True)
class Machine:
    """One lane of an engine. `slower` multiplies each step: what was learned, or a margin."""

    work: Work
    device: Throughput
    factors: Factors
    flops: float  # a second, for the matrices' type
    slower: float = 1.0

    def with_margin(self) -> "Machine":
        """One that 95 of 100 are not slower than."""
        return replace(self, slower=self.slower * (1 + self.factors.margin))

    def seconds(self, batch: Batch) -> float:
        tokens = batch.decoding + batch.prompt
        if tokens <= 0:
            return 0.0
        took = self._matrices(batch, tokens) + self._experts(tokens)
        took += self._cache(batch) + self._prompt(batch) + self._reduces(tokens)
        took += self.work.layers * self.factors.layer_s + self.factors.step_s
        took += (batch.decoding + batch.prompts) * self.factors.request_s
        return took * self.slower

    def _matrices(self, batch: Batch, tokens: float) -> float:
        sampled = batch.decoding + batch.prompts
        operations = tokens * self.work.token_flops + sampled * self.work.head_flops
        return max(
            operations / (self.flops * self.factors.compute),
            self.work.fixed_bytes / (self.device.memory_bytes_s * self.factors.weights),
        )

    def _experts(self, tokens: float) -> float:
        work = self.work
        if not work.routed_bytes:
            return 0.0
        filled = min(1.0, math.sqrt(tokens * work.shares * work.chosen / EXPERT_ROWS))
        return max(
            tokens * work.routed_flops / (self.flops * self.factors.experts_compute * filled),
            work.expert_bytes(tokens) / (self.device.memory_bytes_s * self.factors.experts),
        )

    def _cache(self, batch: Batch) -> float:
        read = batch.decoding * self.work.cache_bytes(batch.context)
        return read / (self.device.memory_bytes_s * self.factors.cache)

    def _prompt(self, batch: Batch) -> float:
        if not batch.prompt:
            return 0.0
        each = batch.prompt / max(batch.prompts, 1)
        operations = self.work.attention_flops(batch.start, each) * max(batch.prompts, 1)
        return operations / (self.device.bf16_flops * self.factors.attention)

    def _reduces(self, tokens: float) -> float:
        work = self.work
        moved = tokens * work.hidden * work.plain_bytes
        link = self.device.link_bytes_s * self.factors.link
        took = (work.stages - 1) * (HOP_S + moved / HOP_BYTES_S)
        if work.ranks > 1:
            share = 2 * (work.ranks - 1) / work.ranks
            each = self._round_s(work.ranks) + share * moved / link
            took += (2 if work.shares == 1 else 1) * work.layers * each
        if work.shares > 1:
            # Each token goes to its experts' devices and comes back.
            each = self._round_s(work.shares * work.ranks) + work.picked * moved / work.ranks / link
            took += 2 * work.layers * each
        return took

    def _round_s(self, members: int) -> float:
        """Latency grows with those who must be heard: one more round each time they double."""
        wait = self.factors.reduce_s * (members.bit_length() - 1)
        return wait * BUS_PENALTY if self.device.link_bytes_s < SWITCHED_BYTES_S else wait


def machine(work: Work, device: Device, quantization: Quantization, factors: Factors) -> Machine:
    """Raises `Refusal` for a device of which no speed is known."""
    if device.throughput is None:
        raise Refusal(f"the checked speed of device {device.name!r}")
    return Machine(work, device.throughput, factors, _flops(device.throughput, quantization))


def _flops(device: Throughput, quantization: Quantization) -> float:
    """Of the matrices: weights with no arithmetic of their own are widened to 16 bits first."""
    if quantization.scheme in FOUR and device.fp4_flops:
        return device.fp4_flops
    if quantization.scheme in FEW and device.fp8_flops:
        return device.fp8_flops
    return device.bf16_flops
