"""The cache's blocks, by vLLM's own figures and by what must hold for any model."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.placement.devices import GIB, find
from controlplane.placement.memory import kv_cache
from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.memory.kv_cache import Cache
from controlplane.placement.models import reading
from tests.benchmarks.memory import truth
from tests.placement.test_models import LLAMA

CONFIGS = Path(truth.__file__).parent / "configs"


def cache(config: dict[str, Any], engine: str = "0.25.1", **flags: Any) -> Cache:
    model = reading.read(config)
    behaviour = Behaviour(version(engine))
    arguments = Arguments(**flags).resolved(find("h100"), behaviour, model.max_position)
    return kv_cache.lay_out(model, arguments, behaviour)


def named(name: str, engine: str = "0.25.1", **flags: Any) -> Cache:
    return cache(truth.configuration(CONFIGS, name), engine, **flags)


# Bytes of one token in all layers, and what engines printed of hybrids: (model, flags, engine,
# GiB, length, requests at once).
PRINTED: list[tuple[str, dict[str, Any], str, float, int, float]] = [
    ("gpt-oss-120b", {"max_num_batched_tokens": 1024}, "0.25.1", 10.52, 131072, 2.31),
    ("Muse-Glimmer-30B-FP8-block", {"max_num_batched_tokens": 16384}, "0.25.1", 7.88, 131072, 3.41),
    (
        "Qwen3.6-35B-A3B-NVFP4",
        {"kv_cache_dtype": "fp8", "enable_prefix_caching": True},
        "0.24.0",
        5.98,
        131072,
        4.33,
    ),
    (
        "Qwen3.6-35B-A3B-NVFP4",
        {"speculative_method": "mtp", "num_speculative_tokens": 3},
        "0.25.1",
        74.22,
        262144,
        12.84,
    ),
    (
        "Qwen3.8-27B-NVFP4",
        {"speculative_method": "mtp", "num_speculative_tokens": 3},
        "0.25.1",
        76.4,
        262144,
        8.36,
    ),
    (
        "Qwen3.8-27B-FP8",
        {"kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "enable_prefix_caching": True},
        "0.24.0",
        4.99,
        131072,
        2.31,
    ),
    ("Qwen3.5-35B-A3B", {"enforce_eager": True}, "0.17.1", 15.58, 8192, 70.27),
]


@pytest.mark.parametrize(("name", "flags", "engine", "gib", "length", "printed"), PRINTED)
def test_a_hybrid_holds_as_many_requests_as_the_engine_printed(
    name: str, flags: dict[str, Any], engine: str, gib: float, length: int, printed: float
) -> None:
    found = named(name, engine, max_model_len=length, **flags)
    assert found.concurrency(gib * GIB, length) == pytest.approx(printed, abs=0.011)


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [
        ("Llama-3.1-8B-Instruct", 131072),
        ("Qwen3-32B", 262144),
        ("Llama-3.3-70B-Instruct-FP8-dynamic", 327680),
        ("Qwen3-Coder-30B-A3B-Instruct", 98304),
        ("gpt-oss-120b", 36864),
        ("DeepSeek-R1-AWQ", 70272),
    ],
)
def test_a_token_takes_what_its_layers_keep(name: str, bytes_: int) -> None:
    assert named(name).token_bytes == bytes_


def test_latent_attention_is_not_split_and_heads_are() -> None:
    split: dict[str, Any] = {"tensor_parallel_size": 8}
    assert named("DeepSeek-R1-AWQ", **split).token_bytes == 70272
    assert named("Llama-3.1-8B-Instruct", **split).token_bytes == 131072 / 8
    few = {**LLAMA, "num_key_value_heads": 2}
    assert cache(few, **split).token_bytes == cache(few, tensor_parallel_size=2).token_bytes


def test_shared_indexers_keep_no_keys_of_their_own() -> None:
    sparse = {**truth.configuration(CONFIGS, "DeepSeek-R1-AWQ"), "model_type": "deepseek_v32",
              "index_topk": 2048, "index_n_heads": 64, "index_head_dim": 128}  # fmt: skip
    every = cache(sparse, kv_cache_dtype="fp8")
    assert every.token_bytes == 61 * (656 + 132)
    half = cache({**sparse, "indexer_types": ["full", "shared"] * 30 + ["full"]})
    assert half.token_bytes == 70272 + 31 * 132


def test_versions_print_the_tokens_of_a_hybrid_differently() -> None:
    old = named("gpt-oss-120b", "0.17.1", max_model_len=131072)
    new = named("gpt-oss-120b", "0.25.1", max_model_len=131072)
    assert old.concurrency(10 * GIB, 131072) == new.concurrency(10 * GIB, 131072)
    assert new.tokens(10 * GIB, 131072) > 1.8 * old.tokens(10 * GIB, 131072)


def test_without_the_hybrid_manager_every_layer_keeps_everything() -> None:
    whole = named("gpt-oss-120b", disable_hybrid_kv_cache_manager=True)
    assert len(whole.groups) == 1
    assert whole.request_bytes(131072) == 2 * 36864 * 131072


def test_an_encoder_has_no_cache() -> None:
    found = cache({**LLAMA, "model_type": "bert", "architectures": ["BertModel"]})
    assert found.groups == () and found.tokens(GIB, 512) == 0


WINDOWS = {**LLAMA, "model_type": "gemma2", "head_dim": 8, "sliding_window": 64}
STATES = {
    **LLAMA,
    "model_type": "qwen3_next",
    "full_attention_interval": 4,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([LLAMA, WINDOWS, STATES]),
    layers=st.sampled_from([4, 8, 12, 20]),
    mebibytes=st.integers(1, 4096),
    length=st.integers(1, 4096),
    ranks=st.sampled_from([1, 2, 4]),
)
def test_blocks_never_take_more_than_there_is_and_the_longest_fits(
    shape: dict[str, Any], layers: int, mebibytes: int, length: int, ranks: int
) -> None:
    found = cache(
        {**shape, "num_hidden_layers": layers}, max_model_len=length, tensor_parallel_size=ranks
    )
    available = mebibytes << 20
    assert found.blocks(available) * found.block_bytes <= available
    assert found.request_bytes(length) >= found.token_bytes * length
    longest = found.longest(available, 4096)
    if longest:
        assert found.concurrency(available, longest) >= 1
    if longest < 4096:
        assert found.concurrency(available, longest + 1) < 1
    more = found.concurrency(available + (64 << 20), length)
    assert more >= found.concurrency(available, length)
