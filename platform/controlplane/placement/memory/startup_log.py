"""What vLLM prints of its memory while it starts, in the forms of its versions since 0.5."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NUMBER = r"(-?[\d,]+(?:\.\d+)?)"
_UNIT = r"\s*Gi?B"
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "engine_version",
        re.compile(r"(?:server version|LLM engine \(v?|vLLM version)\s*v?([\d.]+\w*)"),
    ),
    ("weights_gib", re.compile(rf"[Mm]odel loading took {_NUMBER}{_UNIT}")),
    ("weights_gib", re.compile(rf"Loading model weights took {_NUMBER}{_UNIT}")),
    ("weights_gib", re.compile(rf"[Mm]odel weights takes? {_NUMBER}{_UNIT}")),
    ("weights_gib", re.compile(rf"Actual usage is {_NUMBER} GiB for weight\b")),
    ("consumed_gib", re.compile(rf"Actual usage is {_NUMBER} GiB for consumed")),
    ("activations_gib", re.compile(rf"{_NUMBER} GiB for peak activation")),
    ("activations_gib", re.compile(rf"activation peak memory takes {_NUMBER}{_UNIT}")),
    ("non_torch_gib", re.compile(rf"{_NUMBER} GiB for non-torch")),
    ("non_torch_gib", re.compile(rf"non_torch_memory takes {_NUMBER}{_UNIT}")),
    ("graphs_gib", re.compile(rf"{_NUMBER} GiB for CUDAGraph")),
    ("graphs_gib", re.compile(rf"Graph capturing finished in .*took {_NUMBER}{_UNIT}")),
    ("kv_gib", re.compile(rf"Available KV cache memory: {_NUMBER}{_UNIT}")),
    ("kv_gib", re.compile(rf"reserved for KV Cache is {_NUMBER}{_UNIT}")),
    ("kv_tokens", re.compile(rf"KV cache size: {_NUMBER} tokens")),
    ("blocks", re.compile(rf"# (?:GPU|CUDA|cuda) blocks: {_NUMBER}")),
    ("max_model_len", re.compile(rf"Maximum concurrency for {_NUMBER} tokens")),
    ("concurrency", re.compile(rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x")),
    ("block_size", re.compile(rf"attention block size to {_NUMBER} tokens")),
)
# Several ranks print their own: the fullest decides.
_LARGEST = ("weights_gib", "consumed_gib", "activations_gib", "non_torch_gib", "graphs_gib")
_SMALLEST = ("kv_gib", "kv_tokens", "blocks", "concurrency")


@dataclass(frozen=True)
class Printed:
    """None: not printed. GiB of one device; tokens and concurrency as the engine counts them."""

    engine_version: str | None = None
    weights_gib: float | None = None
    consumed_gib: float | None = None  # weights and what is not torch's
    activations_gib: float | None = None
    non_torch_gib: float | None = None
    graphs_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    blocks: int | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    concurrency: float | None = None


def read(lines: Iterable[str]) -> Printed:
    found: dict[str, list[float]] = {}
    engine_version = None
    for line in lines:
        for name, form in _FORMS:
            for match in form.finditer(line):
                if name == "engine_version":
                    engine_version = engine_version or match[1]
                else:
                    found.setdefault(name, []).append(float(match[1].replace(",", "")))
    chosen = {name: _of_ranks(name, values) for name, values in found.items()}
    return Printed(
        engine_version=engine_version,
        weights_gib=chosen.get("weights_gib"),
        consumed_gib=chosen.get("consumed_gib"),
        activations_gib=chosen.get("activations_gib"),
        non_torch_gib=chosen.get("non_torch_gib"),
        graphs_gib=chosen.get("graphs_gib"),
        kv_gib=chosen.get("kv_gib"),
        kv_tokens=_whole(chosen.get("kv_tokens")),
        blocks=_whole(chosen.get("blocks")),
        block_size=_whole(chosen.get("block_size")),
        max_model_len=_whole(chosen.get("max_model_len")),
        concurrency=chosen.get("concurrency"),
    )


def _of_ranks(name: str, values: list[float]) -> float:
    if name in _LARGEST:
        return max(values)
    return min(values) if name in _SMALLEST else values[-1]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
