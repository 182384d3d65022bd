"""Weights on one device, however many share them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.placement.devices import GIB, find
from controlplane.placement.memory import safetensors, weights
from controlplane.placement.memory.engine import Arguments, Behaviour, version
from controlplane.placement.models import reading
from tests.benchmarks.memory import truth
from tests.placement.test_models import LLAMA

CONFIGS = Path(truth.__file__).parent / "configs"


def weigh(name: str, gpu: str = "h100", engine: str = "0.25.1", **flags: Any) -> float:
    model = reading.read(truth.configuration(CONFIGS, name))
    behaviour = Behaviour(version(engine))
    arguments = Arguments(**flags).resolved(find(gpu), behaviour, model.max_position)
    return weights.estimate(model, arguments, find(gpu), behaviour).bytes.p50


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIGS.glob("*.json")))
def test_shares_are_smaller_and_together_no_less_than_the_whole(name: str) -> None:
    whole = weigh(name)
    shares = [weigh(name, tensor_parallel_size=ranks) for ranks in (2, 4, 8)]
    assert whole > shares[0] > shares[1] > shares[2]
    assert all(
        share * ranks >= 0.995 * whole for share, ranks in zip(shares, (2, 4, 8), strict=True)
    )
    staged = weigh(name, pipeline_parallel_size=2)
    assert whole / 2 <= staged < whole


def test_expert_parallel_ranks_each_hold_their_experts() -> None:
    split: dict[str, Any] = {
        "tensor_parallel_size": 8,
        "data_parallel_size": 2,
        "enable_expert_parallel": True,
    }
    both = weigh("DeepSeek-R1-AWQ", **split)
    assert both < 0.65 * weigh("DeepSeek-R1-AWQ", tensor_parallel_size=8)


def test_a_prediction_layer_loads_only_for_speculation() -> None:
    alone = weigh("DeepSeek-R1-AWQ")
    assert weigh("DeepSeek-R1-AWQ", speculative_method="mtp") > alone + 5 * GIB


def test_adapters_take_room_beside() -> None:
    alone = weigh("Llama-3.1-8B-Instruct")
    with_room = weigh("Llama-3.1-8B-Instruct", max_loras=4, max_lora_rank=64)
    # 168 million parameters at rank 64: four of them.
    assert with_room - alone == pytest.approx(4 * 167.8e6 * 2, rel=0.02)


def test_towers_stay_out_where_only_the_language_is_served() -> None:
    both = weigh("Qwen2.5-VL-7B")
    assert both - weigh("Qwen2.5-VL-7B", language_model_only=True) == pytest.approx(
        0.677e9 * 2, rel=0.02
    )


def test_the_kernels_padding_is_counted() -> None:
    assert weigh("gpt-oss-20b", "a100-80", "0.19.0") / GIB == pytest.approx(13.72, rel=0.01)
    assert weigh("gpt-oss-120b", "h100", "0.25.1") / GIB == pytest.approx(61.29, rel=0.01)


names = st.tuples(
    st.sampled_from(("", "mtp.", "model.", "vision_tower.", "model.visual.", "encoder.")),
    st.one_of(st.just(""), st.integers(0, 12).map(lambda layer: f"layers.{layer}.")),
    st.sampled_from(("", "x.visual.")),
    st.sampled_from(("q_proj.weight", "lm_head.weight", "norm")),
).map("".join)


@given(st.dictionaries(names, st.integers(0, 1000)), st.booleans(), st.booleans(), st.booleans())
def test_groups_of_tensors_load_as_the_tensors_do(
    sizes: dict[str, int], tied: bool, drafts: bool, language: bool
) -> None:
    model = reading.read({**LLAMA, "tie_word_embeddings": tied, "num_hidden_layers": 7})
    method = "mtp" if drafts else None
    arguments = Arguments(speculative_method=method, language_model_only=language)
    grouped = safetensors.summed(sizes)
    assert weights.loaded(grouped, model, arguments) == weights.loaded(sizes, model, arguments)
    assert safetensors.summed(grouped) == grouped
    assert sum(grouped.values()) == sum(sizes.values())
