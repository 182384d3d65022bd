"""What a version of vLLM does with memory, and the arguments that change it, by vLLM's own names.

Each bound was read in vLLM's source of the versions around it (0.6.4, 0.8.5, 0.9.2, 0.10.2, 0.11.0,
0.13.0, 0.16.0, 0.17.1, 0.19.0, 0.20.0, 0.21.0, 0.25.1, 0.27.1, 0.29.0, 0.32.0).
"""

import re
from dataclasses import dataclass, fields, replace
from typing import Any

from controlplane.placement.devices import GIB, Device
from controlplane.placement.refusals import Refusal

Version = tuple[int, int, int]
LATEST: Version = (0, 32, 0)
LARGEST_GRAPH = 512  # sequences; larger batches run without a graph


def version(text: str) -> Version:
    """Of `0.11.0`, `v0.26.1rc1.dev156+g0eec`, `0.6.x`. Raises `Refusal`."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise Refusal("the engine's version")
    return int(found[1]), int(found[2]), int(found[3] or 0)


@dataclass(frozen=True)
class Behaviour:
    """How one version measures and prints."""

    version: Version

    @property
    def profiled_context(self) -> bool:
        """Whether the CUDA context counts against the budget: what was in use before was not
        subtracted until 0.9."""
        return self.version < (0, 9, 0)

    @property
    def first_engine(self) -> bool:
        """V0, which batches whole prompts unless they may be longer than 32,768 tokens."""
        return self.version < (0, 8, 0)

    @property
    def sorts_vocabulary(self) -> bool:
        """Whether the sampler's profiling run sorts all logits: until a kernel in 0.17."""
        return self.version < (0, 17, 0)

    @property
    def estimates_graphs(self) -> bool:
        """Whether memory for CUDA graphs is measured beforehand and taken from the budget."""
        return self.version >= (0, 20, 0)

    @property
    def second_runner(self) -> bool:
        """Whether every model runs on the second model runner, which samples in one kernel and
        keeps counts of each sequence's tokens; before 0.29 some did, by their architecture."""
        return self.version >= (0, 29, 0)

    @property
    def utilization(self) -> float:
        return 0.92 if self.version >= (0, 20, 0) else 0.9

    @property
    def group_slack(self) -> float:
        """Up to which ratio of layer counts groups of a hybrid are padded to the larger."""
        if self.version >= (0, 19, 0):
            return 1.5
        return 1.25 if self.version >= (0, 12, 0) else 1.0

    @property
    def groups_kinds(self) -> bool:
        """Whether a hybrid's layers are given blocks by kind: before, all as if they looked at
        everything."""
        return self.version >= (0, 9, 0)

    @property
    def tokens_by_concurrency(self) -> bool:
        """Whether "KV cache size" is concurrency times max_model_len, not blocks over groups."""
        return self.version >= (0, 21, 0)


UNKNOWN_FLAG = "an argument of vLLM that changes memory, not {!r}"


@dataclass(frozen=True)
class Arguments:
    """Of `vllm serve`, as far as they change memory. None: vLLM's default."""

    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    enable_expert_parallel: bool = False
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_memory_bytes: int | None = None
    dtype: str = "auto"
    quantization: str | None = None
    runner: str = "auto"  # pooling: embeddings and scores, with no sampler
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    disable_hybrid_kv_cache_manager: bool = False
    language_model_only: bool = False
    mamba_ssm_cache_dtype: str = "auto"
    num_speculative_tokens: int = 0
    speculative_method: str | None = None  # mtp | eagle | eagle3 | ngram | draft_model …
    draft_weights_bytes: int = 0
    max_loras: int = 0
    max_lora_rank: int = 16
    api_server: bool = True  # False: the LLM class, whose defaults differ

    @property
    def ranks(self) -> int:
        """Devices that one copy of the model takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def captured(self) -> int:
        """Sizes of batches that graphs are captured for; of resolved arguments."""
        if self.enforce_eager:
            return 0
        most = min(2 * (self.max_num_seqs or 256), LARGEST_GRAPH)
        sizes = (1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, 16))
        return sum(1 for size in sizes if size <= most)

    def resolved(self, device: Device, behaviour: Behaviour, max_position: int) -> "Arguments":
        """With vLLM's defaults for this device in place of what is None."""
        large = device.memory_bytes >= 70 * GIB and not device.ampere
        length = self.max_model_len or max_position
        if length < 1:
            raise Refusal("a positive max_model_len")
        if behaviour.first_engine:
            large = False
        sequences = self.max_num_seqs or (1024 if large and behaviour.version >= (0, 9, 0) else 256)
        batched = self.max_num_batched_tokens or self._batched(device, behaviour, large, length)
        return replace(
            self,
            max_model_len=length,
            gpu_memory_utilization=self.gpu_memory_utilization or behaviour.utilization,
            max_num_seqs=sequences,
            max_num_batched_tokens=batched,
            block_size=self.block_size or 16,
        )

    def _batched(self, device: Device, behaviour: Behaviour, large: bool, length: int) -> int:
        if behaviour.first_engine:
            return 2048 if length > 32768 else max(length, 2048)
        if device.memory_bytes >= 160 * GIB and behaviour.version >= (0, 26, 0):
            return 16384
        if large:
            return 8192 if self.api_server else 16384
        return 2048 if self.api_server else 8192


def arguments(stated: dict[str, object]) -> Arguments:
    """From names as vLLM spells them, with dashes or without. Raises `Refusal` for unknown ones."""
    types = {
        each.name: getattr(each.type, "__name__", str(each.type)) for each in fields(Arguments)
    }
    found: dict[str, Any] = {}
    for name, value in stated.items():
        plain = name.lstrip("-").replace("-", "_")
        if plain not in types:
            raise Refusal(UNKNOWN_FLAG.format(name))
        found[plain] = _typed(plain, types[plain], value)
    return Arguments(**found)


SUFFIXES = {"k": 1000, "m": 10**6, "g": 10**9, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _typed(name: str, kind: str, value: object) -> object:
    text = str(value)
    try:
        if kind.startswith("bool"):
            return value if isinstance(value, bool) else text.lower() in ("", "1", "true", "yes")
        if kind.startswith("int"):
            factor = SUFFIXES.get(text[-1:], 1)
            number = float(text[:-1] if factor > 1 else text) * factor
            if number != int(number) or number < 0:
                raise ValueError
            return int(number)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        raise Refusal(f"a number as {name}, not {text!r}") from None
    return text


KV_BYTES: dict[str, float] = {
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "fp8_inc": 1,
    "fp8_ds_mla": 1,
    "int8_per_token_head": 1,
    "fp8_per_token_head": 1,
    "bfloat16": 2,
    "float16": 2,
    "half": 2,
    "float": 4,
    "float32": 4,
    "nvfp4": 0.5625,
}
