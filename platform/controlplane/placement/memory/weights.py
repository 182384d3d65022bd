"""Bytes of weights on one device: what vLLM prints as "Model loading took"."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.placement.devices import Device
from controlplane.placement.memory.engine import Arguments, Behaviour
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.safetensors import DRAFT, HEAD, layer_of, visual
from controlplane.placement.models import tensors
from controlplane.placement.models.model import Model
from controlplane.placement.models.quantization import BYTES
from controlplane.placement.models.tensors import Matrix
from controlplane.placement.refusals import Refusal

DRAFTS = ("mtp", "deepseek_mtp", "qwen3_next_mtp", "qwen3_5_mtp")


@dataclass(frozen=True)
class Weights:
    bytes: Estimate  # on the fullest device
    parameters: int  # of the whole model


def element_bytes(model: Model, arguments: Arguments) -> int:
    name = model.dtype if arguments.dtype == "auto" else arguments.dtype
    if name not in BYTES:
        raise Refusal(f"dtype {name!r}")
    return BYTES[name]


def drafts(arguments: Arguments) -> bool:
    return arguments.speculative_method in DRAFTS


def estimate(
    model: Model,
    arguments: Arguments,
    device: Device,
    behaviour: Behaviour,
    stored: int | None = None,
) -> Weights:
    """`stored` are the exact bytes of all tensors that load, from the safetensors headers."""
    plain = element_bytes(model, arguments)
    counted = _language(model, arguments, device, behaviour, plain)
    towers = 0 if arguments.language_model_only else sum(t.parameters for t in model.towers)
    language = sum(each.parameters for each in tensors.of(model, drafting=drafts(arguments)))
    tower_bytes = math.ceil(towers * plain / arguments.tensor_parallel_size)
    beside = _tables(model, arguments, plain) + _loras(model, arguments, plain)
    beside += arguments.draft_weights_bytes
    beside += _repacked(model, arguments, device, behaviour, plain)
    total = counted + tower_bytes + beside
    if stored is not None:
        whole = _whole(arguments)
        alone = _language(model, whole, device, behaviour, plain) + towers * plain
        total = math.ceil((counted + tower_bytes) * stored / max(alone, 1)) + beside
    return Weights(Estimate(total, total * _margin(model, device, stored)), language + towers)


def _whole(arguments: Arguments) -> Arguments:
    return Arguments(dtype=arguments.dtype, speculative_method=arguments.speculative_method)


def _margin(model: Model, device: Device, stored: int | None) -> float:
    """Of the p95: how sure the layout is."""
    if not model.quantization.sure and stored is None:
        return 1.6
    if model.quantization.scheme == "mxfp4" and device.capability is not None:
        return 1.07  # layouts of the kernels differ
    return 1.02 if model.towers else 1.012


def _language(
    model: Model, arguments: Arguments, device: Device, behaviour: Behaviour, plain: int
) -> int:
    """Of the fullest pipeline stage: the last one has the head, the first the embeddings."""
    stages = arguments.pipeline_parallel_size
    per_stage = [0] * stages
    count = len(model.layers)
    for matrix in tensors.of(model, drafting=drafts(arguments)):
        size = matrix_bytes(matrix, model, arguments, device, behaviour, plain)
        if matrix.layer is not None:
            stage = min(matrix.layer * stages // max(count, 1), stages - 1)
        else:
            stage = stages - 1 if matrix.module in ("head", "norm") else 0
        per_stage[stage] += size
    if model.tied and stages > 1 and model.generates:  # the last stage needs it as its head
        per_stage[-1] += _vocabulary(model.vocabulary, model.hidden, arguments, plain)
    return max(per_stage)


def _vocabulary(rows: int, columns: int, arguments: Arguments, plain: int) -> int:
    padded = math.ceil(rows / 64) * 64
    return math.ceil(padded / arguments.tensor_parallel_size) * columns * plain


def matrix_bytes(
    matrix: Matrix,
    model: Model,
    arguments: Arguments,
    device: Device,
    behaviour: Behaviour,
    plain: int,
) -> int:
    """Of one matrix (or all its copies) on one device; `plain`: of an element without layout."""
    ranks = arguments.tensor_parallel_size
    if matrix.split == "vocabulary":
        return _vocabulary(matrix.rows, matrix.columns, arguments, plain)
    rows, columns, count = matrix.rows, matrix.columns, matrix.count
    if matrix.split == "experts":
        if arguments.enable_expert_parallel:
            count = math.ceil(count / (ranks * arguments.data_parallel_size))
            ranks = 1
        if model.quantization.scheme == "mxfp4":
            rows, columns = _padded(matrix, device, behaviour, ranks)
            return count * model.quantization.bytes(rows, columns, plain)
    if matrix.split == "kv":
        ranks = min(ranks, matrix.heads)
    if matrix.split != "none":
        if matrix.side == "rows":
            rows = math.ceil(rows / ranks)
        else:
            columns = math.ceil(columns / ranks)
    if model.quantization.leaves(matrix.module):
        return count * rows * columns * plain
    return count * model.quantization.bytes(rows, columns, plain)


def _padded(matrix: Matrix, device: Device, behaviour: Behaviour, ranks: int) -> tuple[int, int]:
    """MXFP4 kernels pad what they multiply (vLLM's mxfp4.py): Marlin most, Triton least."""
    up = matrix.side == "rows"
    hidden = matrix.columns if up else matrix.rows
    width = (matrix.rows // 2 if up else matrix.columns) / ranks
    capability = device.capability or 90
    if capability < 90 or capability >= 120:
        hidden, width = _round(hidden, 256), _round(width, 128)
    elif capability >= 100:
        hidden, width = _round(hidden, 256), _round(width, 256)
    elif behaviour.version < (0, 15, 0):
        # The swizzled scales of Triton's first layout on Hopper came to as much as this.
        hidden, width = _round(hidden, 128), _round(width, 128)
    else:
        width = _round(width, 32)
    return (2 * int(width), int(hidden)) if up else (int(hidden), int(width))


def _round(size: float, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple


def _tables(model: Model, arguments: Arguments, plain: int) -> int:
    """Sines and cosines of rotary positions, and the buffers for deep visual features."""
    tables = sum(model.rotary) * plain
    deep = 0
    if any(tower.kind.startswith("qwen3_vl") for tower in model.towers):
        deep = 3 * (arguments.max_num_batched_tokens or 2048) * model.hidden * plain
    return tables + deep


def _repacked(
    model: Model, arguments: Arguments, device: Device, behaviour: Behaviour, plain: int
) -> int:
    """Marlin's layout is made beside the checkpoint's, one fused matrix at a time, and what is
    printed is the peak."""
    if model.quantization.scheme not in ("awq", "gptq", "packed") or behaviour.version < (0, 9, 0):
        return 0
    if (device.capability or 80) < 80:
        return 0
    wide = (
        2 * matrix_bytes(matrix, model, arguments, device, behaviour, plain)
        for matrix in tensors.of(model)
        if matrix.module.endswith(".gate_proj")
    )
    return max(wide, default=0)


def _loras(model: Model, arguments: Arguments, plain: int) -> int:
    """Room for adapters: two thin matrices beside each that they may change."""
    if not arguments.max_loras:
        return 0
    rank = arguments.max_lora_rank
    elements = 0
    for matrix in tensors.of(model):
        if "." not in matrix.module or matrix.split == "none":
            continue
        rows = (
            matrix.rows
            if matrix.side == "columns"
            else matrix.rows / arguments.tensor_parallel_size
        )
        columns = (
            matrix.columns / arguments.tensor_parallel_size
            if matrix.side == "columns"
            else matrix.columns
        )
        elements += math.ceil(rank * (rows + columns)) * matrix.count
    return elements * plain * arguments.max_loras


def loaded(sizes: Mapping[str, int], model: Model, arguments: Arguments) -> int:
    """Bytes of the checkpoint's tensors that the engine loads, by their names."""
    total = 0
    for name, size in sizes.items():
        if name.startswith(DRAFT) and not drafts(arguments):
            continue
        if layer_of(name) >= len(model.layers) and not drafts(arguments):
            continue  # a prediction layer behind the last one (DeepSeek, GLM)
        if model.tied and name.endswith(HEAD):
            continue
        if arguments.language_model_only and visual(name):
            continue
        total += size
    return total


def of_index(total: int, model: Model, arguments: Arguments) -> int:
    """Of an index's total bytes those that load: prediction layers are in it and stay out."""
    if not model.drafting or drafts(arguments):
        return total
    without = sum(each.parameters for each in tensors.of(model))
    return total * without // sum(each.parameters for each in tensors.of(model, drafting=True))
