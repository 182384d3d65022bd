"""How many bytes a matrix takes under each public layout of quantised weights.

Sources: the checkpoint formats of AutoAWQ, GPTQ, compressed-tensors, ModelOpt, OCP MX and
bitsandbytes, as vLLM's loaders hold them on the device.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from controlplane.placement.models.patterns import Patterns
from controlplane.placement.refusals import Refusal

BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float": 4,
    "half": 2,
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
}


@dataclass(frozen=True)
class Quantization:
    """One layout, and what it leaves alone. `scheme` is one of SCHEMES."""

    scheme: str = "none"
    bits: int = 16
    group: int = 128
    block: tuple[int, int] = (128, 128)
    zeros: bool = False
    ordered: bool = False  # GPTQ's act-order keeps an index for each row
    skipped: tuple[str, ...] = ()  # modules as the checkpoint names them, or re:…
    only: tuple[str, ...] = ()  # those that are quantised, where it is not all of them
    experts_only: bool = False
    sure: bool = True  # False: the checkpoint does not say what it leaves alone

    def leaves(self, module: str) -> bool:
        """Whether this module (`layers.3.mlp.experts`) keeps the model's own type."""
        if self.scheme == "none":
            return True
        if "." not in module:  # embeddings, head, router, norms, biases: never quantised
            return True
        if self.experts_only and not module.endswith(".experts"):
            return True
        if not (self.only or self.skipped):
            return False
        called = [module, *(module.replace(own, other) for own, other in ALIASES if own in module)]
        if self.only and not any(self._chosen.mean(name) for name in called):
            return True
        return any(self._kept.mean(name) for name in called)

    @cached_property
    def _kept(self) -> Patterns:
        return Patterns(self.skipped)

    @cached_property
    def _chosen(self) -> Patterns:
        return Patterns(self.only)

    def bytes(self, rows: int, columns: int, plain: int) -> int:
        """Of a matrix of `rows` outputs and `columns` inputs; `plain`: of an element without."""
        return SCHEMES[self.scheme](self, rows, columns, plain)


# What checkpoints of some families call what is one thing here.
ALIASES = (
    ("shared_expert.", "shared_experts."),
    ("in_proj_qkvz", "in_proj_qkv"),
    ("in_proj_qkvz", "in_proj_z"),
    ("in_proj_ba", "in_proj_b"),
    ("in_proj_ba", "in_proj_a"),
    (".mlp.experts", ".mlp.experts.0.up_proj"),
    (".mlp.", ".feed_forward."),
    (".mlp.experts", ".block_sparse_moe.experts"),
)


def _plain(_: Quantization, rows: int, columns: int, plain: int) -> int:
    return rows * columns * plain


def _tensor(_: Quantization, rows: int, columns: int, __: int) -> int:
    return rows * columns + 4


def _channel(_: Quantization, rows: int, columns: int, __: int) -> int:
    return rows * columns + 4 * rows


def _blocks(q: Quantization, rows: int, columns: int, _: int) -> int:
    return rows * columns + 4 * math.ceil(rows / q.block[0]) * math.ceil(columns / q.block[1])


def _packed(q: Quantization, rows: int, columns: int, _: int) -> int:
    groups = math.ceil(columns / q.group) if q.group > 0 else 1
    zeros = rows * groups * q.bits // 8 if q.zeros else 0
    index = 4 * columns if q.ordered else 0
    return rows * columns * q.bits // 8 + 2 * rows * groups + zeros + index


def _nvfp4(_: Quantization, rows: int, columns: int, __: int) -> int:
    return rows * columns // 2 + rows * math.ceil(columns / 16) + 8


def _mxfp4(_: Quantization, rows: int, columns: int, __: int) -> int:
    return rows * columns // 2 + rows * math.ceil(columns / 32)


def _nf4(_: Quantization, rows: int, columns: int, __: int) -> int:
    return rows * columns // 2 + 4 * math.ceil(rows * columns / 64)


SCHEMES = {
    "none": _plain,
    "fp8_tensor": _tensor,
    "fp8_channel": _channel,
    "fp8_block": _blocks,
    "int8_channel": _channel,
    "awq": _packed,
    "gptq": _packed,
    "packed": _packed,
    "nvfp4": _nvfp4,
    "mxfp4": _mxfp4,
    "bitsandbytes_4bit": _nf4,
    "bitsandbytes_8bit": _channel,
}

NONE = Quantization()


def read(config: Mapping[str, Any]) -> Quantization:
    """The layout that a config.json states. Raises `Refusal` for a method that is not known."""
    stated = config.get("quantization_config") or config.get("compression_config")
    if not stated:
        return NONE
    method = str(stated.get("quant_method") or stated.get("quant_algo") or "").lower()
    reader = _READERS.get(method)
    if reader is None:
        raise Refusal(f"the layout of quantization method {method or 'without a name'!r}")
    return reader(stated)


def _skipped(stated: Mapping[str, Any]) -> tuple[str, ...]:
    for key in (
        "modules_to_not_convert",
        "ignore",
        "ignored_layers",
        "exclude_modules",
        "llm_int8_skip_modules",
    ):
        if names := stated.get(key):
            return tuple(str(name) for name in names)
    return ()


def _awq(stated: Mapping[str, Any]) -> Quantization:
    return Quantization(
        "awq",
        bits=int(stated.get("bits") or stated.get("w_bit") or 4),
        group=int(stated.get("group_size") or stated.get("q_group_size") or 128),
        zeros=bool(stated.get("zero_point", True)),
        skipped=_skipped(stated),
    )


def _gptq(stated: Mapping[str, Any]) -> Quantization:
    return Quantization(
        "gptq",
        bits=int(stated.get("bits", 4)),
        group=int(stated.get("group_size", 128)),
        zeros=not stated.get("sym", True),
        ordered=bool(stated.get("desc_act", False)),
        skipped=_skipped(stated),
        sure=not stated.get("dynamic"),
    )


def _fp8(stated: Mapping[str, Any]) -> Quantization:
    skipped = _skipped(stated)
    if block := stated.get("weight_block_size"):
        return Quantization("fp8_block", 8, block=(block[0], block[1]), skipped=skipped)
    return Quantization("fp8_tensor", 8, skipped=skipped)


def _fbgemm(stated: Mapping[str, Any]) -> Quantization:
    # Which layers keep the model's own type differs between the checkpoints of one model.
    return Quantization("fp8_channel", 8, skipped=_skipped(stated), sure=False)


def _mx(stated: Mapping[str, Any]) -> Quantization:
    return Quantization("mxfp4", 4, group=32, skipped=_skipped(stated), experts_only=True)


def _bitsandbytes(stated: Mapping[str, Any]) -> Quantization:
    scheme = "bitsandbytes_8bit" if stated.get("load_in_8bit") else "bitsandbytes_4bit"
    return Quantization(scheme, 8 if scheme.endswith("8bit") else 4, skipped=_skipped(stated))


def _modelopt(stated: Mapping[str, Any]) -> Quantization:
    inner = stated.get("quantization") or stated
    algorithm = str(inner.get("quant_algo") or "NVFP4").upper()
    skipped = _skipped(inner)
    if "NVFP4" in algorithm:
        return Quantization("nvfp4", 4, group=16, skipped=skipped, sure=bool(skipped))
    if "FP8" in algorithm:
        return Quantization("fp8_tensor", 8, skipped=skipped)
    raise Refusal(f"the layout of ModelOpt's {algorithm}")


def _compressed(stated: Mapping[str, Any]) -> Quantization:
    groups = list((stated.get("config_groups") or {}).values())
    if not groups:
        raise Refusal("the compressed-tensors checkpoint's config_groups")
    weights = groups[0].get("weights") or {}
    bits = int(weights.get("num_bits", 8))
    form = str(stated.get("format") or groups[0].get("format") or "")
    skipped = _skipped(stated)
    found = _one_group(weights, bits, form, skipped)
    targets = tuple(str(each) for each in groups[0].get("targets") or ())
    classes = {"Linear", "FusedMoE"}
    alike = all((each.get("weights") or {}) == weights for each in groups)
    return replace(found, only=() if classes & set(targets) else targets, sure=alike)


def _one_group(
    weights: Mapping[str, Any], bits: int, form: str, skipped: tuple[str, ...]
) -> Quantization:
    if "nvfp4" in form or (bits == 4 and weights.get("type") == "float"):
        return Quantization("nvfp4", 4, group=16, skipped=skipped)
    if bits == 8:
        strategy = weights.get("strategy", "channel")
        if strategy == "block":
            block = weights.get("block_structure") or (128, 128)
            return Quantization("fp8_block", 8, block=(block[0], block[1]), skipped=skipped)
        kind = "int8" if weights.get("type") == "int" else "fp8"
        if strategy == "tensor" and kind == "fp8":
            return Quantization("fp8_tensor", 8, skipped=skipped)
        return Quantization(f"{kind}_channel", 8, skipped=skipped)
    return Quantization(
        "packed",
        bits=bits,
        group=int(weights.get("group_size") or -1),
        zeros=not weights.get("symmetric", True),
        skipped=skipped,
    )


def _auto_round(stated: Mapping[str, Any]) -> Quantization:
    packing = str(stated.get("packing_format", "auto_gptq"))
    found = _awq(stated) if "awq" in packing else _gptq(stated)
    extra = tuple(
        name
        for name, said in (stated.get("extra_config") or {}).items()
        if int(said.get("bits", 4)) >= 16
    )
    return Quantization(
        found.scheme, found.bits, found.group, zeros=found.zeros, skipped=found.skipped + extra
    )


_READERS = {
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "mxfp4": _mx,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "nvfp4": _modelopt,
    "compressed-tensors": _compressed,
    "auto-round": _auto_round,
    "auto_round": _auto_round,
}


def named(flag: str) -> Quantization:
    """What `--quantization` names where the checkpoint itself is unquantised: online layouts."""
    simple = {
        "fp8": Quantization("fp8_tensor", 8),
        "bitsandbytes": Quantization("bitsandbytes_4bit", 4),
        "mxfp4": Quantization("mxfp4", 4, group=32, experts_only=True),
    }
    if flag not in simple:
        raise Refusal(f"the layout of --quantization {flag} on an unquantised checkpoint")
    return simple[flag]
