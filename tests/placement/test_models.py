"""What a config.json says of a model, and what it may not leave open."""

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.placement.models import quantization, reading, tensors
from controlplane.placement.models.layers import Attention, Experts, Latent, Recurrent
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal
from tests.benchmarks.memory import truth

CONFIGS = Path(truth.__file__).parent / "configs"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
# Parameters of each, in thousands of millions, as their publishers count them.
PUBLISHED = {
    "Llama-3.1-8B-Instruct": 8.030261248,
    "Qwen2.5-1.5B-Instruct": 1.543714304,
    "Qwen2.5-14B-Instruct": 14.770033664,
    "Qwen3-32B": 32.762123264,
    "Qwen3-Coder-30B-A3B-Instruct": 30.532122624,
    "gpt-oss-120b": 116.829156672,
    "Muse-Glimmer-30B-FP8-block": 29.776626688,
}


def count(model: Model) -> int:
    """Of the checkpoint: what the engine makes beside it is not in there."""
    language = sum(each.parameters for each in tensors.of(model) if each.module != "absorbed")
    return language + sum(tower.parameters for tower in model.towers)


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_parameters_are_those_that_were_published(name: str, billions: float) -> None:
    stated = truth.configuration(CONFIGS, name)
    assert count(reading.read(stated)) / 1e9 == pytest.approx(billions, rel=0.001)


def test_every_fixture_says_where_its_facts_are_from() -> None:
    files = list(CONFIGS.glob("*.json"))
    assert len(files) > 25
    for file in files:
        assert len(json.loads(file.read_text())["_source"]) > 10, file.name


def test_deepseek_is_latent_and_sparse_behind_three_dense_layers() -> None:
    model = reading.read(truth.configuration(CONFIGS, "DeepSeek-R1-AWQ"))
    assert model.latent and model.sparse
    feeds = [isinstance(layer.feed, Experts) for layer in model.layers]
    assert feeds == [False] * 3 + [True] * 58
    assert count(model) / 1e9 == pytest.approx(671.026, rel=0.0005)
    assert len(model.drafting) == 1 and isinstance(model.drafting[0].mixer, Latent)


def test_a_hybrid_alternates_states_and_attention() -> None:
    model = reading.read(truth.configuration(CONFIGS, "Qwen3.5-35B-A3B"))
    states = [isinstance(layer.mixer, Recurrent) for layer in model.layers]
    assert states == ([True] * 3 + [False]) * 10
    assert model.hybrid and model.recurrent and not model.plain and model.towers


def test_windows_follow_each_familys_pattern() -> None:
    def windows(**changed: Any) -> list[int | None]:
        model = reading.read({**LLAMA, "sliding_window": 512, **changed})
        return [m.window for layer in model.layers if isinstance(m := layer.mixer, Attention)]

    assert windows() == [None] * 4
    assert windows(model_type="mistral") == [512] * 4
    assert windows(model_type="gemma2", head_dim=8) == [512, None, 512, None]
    assert windows(model_type="cohere2") == [512, 512, 512, None]
    assert windows(model_type="qwen2") == [None] * 4
    assert windows(model_type="qwen2", use_sliding_window=True, max_window_layers=2) == [
        None,
        None,
        512,
        512,
    ]
    chunked = reading.read({**LLAMA, "model_type": "llama4_text", "attention_chunk_size": 256})
    mixers = [layer.mixer for layer in chunked.layers]
    assert [m.chunk for m in mixers if isinstance(m, Attention)] == [256, 256, 256, None]


def test_jamba_and_nemotron_place_their_states() -> None:
    jamba = reading.read({**LLAMA, "model_type": "jamba", "attn_layer_period": 4,
                          "attn_layer_offset": 2, "mamba_expand": 2, "mamba_d_state": 16,
                          "mamba_d_conv": 4, "mamba_dt_rank": 8})  # fmt: skip
    assert [isinstance(layer.mixer, Attention) for layer in jamba.layers] == [
        False,
        False,
        True,
        False,
    ]
    nemotron = reading.read({**LLAMA, "model_type": "nemotron_h",
                             "hybrid_override_pattern": "M-*-", "mamba_num_heads": 8,
                             "mamba_head_dim": 16, "ssm_state_size": 32,
                             "n_groups": 2})  # fmt: skip
    assert [(type(layer.mixer).__name__, layer.feed is not None) for layer in nemotron.layers] == [
        ("Recurrent", False),
        ("NoneType", True),
        ("Attention", False),
        ("NoneType", True),
    ]


def test_an_encoder_keeps_no_cache_and_has_no_head() -> None:
    model = reading.read({**LLAMA, "model_type": "bert", "architectures": ["BertModel"]})
    assert not model.generates
    assert all(isinstance(m := layer.mixer, Attention) and not m.causal for layer in model.layers)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_hidden_layers": "four"}, "num_hidden_layers"),
        ({"model_type": "unheard_of"}, "unheard_of"),
        ({"model_type": None}, "model_type"),
        ({"layer_types": ["full_attention"] * 3 + ["moonlight"]}, "moonlight"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"torch_dtype": "int3"}, "int3"),
        ({"quantization_config": {"quant_method": "vapour"}}, "vapour"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M*Z-"}, "'Z'"),
        ({"vision_config": {"model_type": "eagle_eye", "hidden_size": 8}}, "eagle_eye"),
    ],
)
def test_what_is_missing_or_unknown_is_refused_by_its_name(
    changed: dict[str, Any], fact: str
) -> None:
    with pytest.raises(Refusal) as refused:
        reading.read({**LLAMA, **changed})
    assert fact in refused.value.fact


@pytest.mark.parametrize(
    ("stated", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4 + 16 / 128),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
    ],
)
def test_a_layout_takes_the_bits_that_it_is_known_for(stated: dict[str, Any], bits: float) -> None:
    layout = quantization.read({"quantization_config": stated})
    assert layout.bytes(4096, 4096, 2) * 8 / 4096**2 == pytest.approx(bits, rel=1e-4)


def test_what_a_checkpoint_leaves_alone_keeps_its_type() -> None:
    layout = quantization.read(
        {
            "quantization_config": {
                "quant_method": "fp8",
                "modules_to_not_convert": ["model.layers.0.mlp", "re:.*self_attn.*", "lm_head"],
            }
        }
    )
    assert layout.leaves("layers.0.mlp.up_proj") and layout.leaves("layers.3.self_attn.q_proj")
    assert layout.leaves("head") and layout.leaves("router")
    assert not layout.leaves("layers.1.mlp.up_proj")


@pytest.mark.parametrize(
    ("pattern", "module", "left"),
    [
        ("model.layers.*.self_attn", "layers.3.self_attn.q_proj", True),
        ("model.layers.1", "layers.11.mlp.up_proj", False),
        ("*mlp.shared_experts*", "layers.3.mlp.shared_expert.up_proj", True),
        ("model.layers.0.linear_attn.in_proj_a", "layers.0.linear_attn.in_proj_ba", True),
        ("re:.*mlp.gate$", "layers.0.mlp.gate_proj", False),
        ("visual", "layers.0.mlp.up_proj", False),
    ],
)
def test_patterns_mean_what_checkpoints_mean_by_them(pattern: str, module: str, left: bool) -> None:
    layout = quantization.Quantization("fp8_tensor", 8, skipped=(pattern,))
    assert layout.leaves(module) is left


def test_groups_of_targets_quantise_only_those() -> None:
    group = {"targets": ["re:.*mlp.experts.*"], "weights": {"num_bits": 4, "type": "int"}}
    stated = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    layout = quantization.read({"quantization_config": stated})
    assert layout.leaves("layers.0.self_attn.q_proj") and not layout.leaves("layers.0.mlp.experts")
    assert layout.sure
    both = {"group_0": group, "group_1": {"targets": ["Linear"], "weights": {"num_bits": 8}}}
    assert not quantization.read({"quantization_config": {**stated, "config_groups": both}}).sure
