"""What a family of models is like where its config.json does not say so.

Source: the configuration and modelling files of transformers and vLLM for each `model_type`.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    query_bias: bool = False  # where the config has no attention_bias
    output_bias: bool | None = None  # None: as the config's attention_bias
    head_norm: bool = False
    gated: bool = True
    mlp_bias: bool = False
    norms: int = 2
    norm_bias: bool = False
    tied: bool = False  # where the config has no tie_word_embeddings
    slides: str = "no"  # no | all | even | pattern | optional: how layers slide without layer_types
    pattern: int = 0
    head_dim: int | None = None
    output_gate: bool = False
    mixed_rope: bool = False  # M-RoPE: vLLM keeps tables of four times the positions
    causal: bool = True
    learned_positions: bool = False
    rotary: bool = True
    shared_gate: bool = False
    generates: bool = True
    router_bias: bool = False
    expert_bias: bool = False
    single: bool = False  # a layer is a mixer or a feed-forward part, never both
    shared_expert: bool = False  # one as wide as the others, that the config does not state


LLAMA = Family()
QWEN2 = Family(query_bias=True, output_bias=False, slides="optional")
QWEN3 = Family(head_norm=True, slides="optional")
GEMMA = Family(tied=True, head_dim=256)
GPT = Family(
    query_bias=True,
    output_bias=True,
    gated=False,
    mlp_bias=True,
    norm_bias=True,
    tied=True,
    learned_positions=True,
    rotary=False,
)
ENCODER = replace(GPT, causal=False, generates=False)
QWEN35 = Family(head_norm=True, output_gate=True, mixed_rope=True, head_dim=256, shared_gate=True)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": replace(LLAMA, slides="all"),
    "ministral": replace(LLAMA, slides="all"),
    "mistral3": LLAMA,
    "mixtral": replace(LLAMA, slides="all"),
    "llama4_text": replace(LLAMA, slides="chunked", shared_expert=True),
    "smollm3": LLAMA,
    "baichuan": LLAMA,
    "deepseek": LLAMA,
    "apertus": replace(LLAMA, gated=False, head_norm=True),
    "glm": replace(LLAMA, query_bias=True, output_bias=False),
    "seed_oss": replace(QWEN2, slides="no"),
    "granite": LLAMA,
    "granitemoe": LLAMA,
    "granitemoehybrid": replace(LLAMA, tied=True),
    "internlm2": LLAMA,
    "internlm3": LLAMA,
    "ernie4_5": replace(LLAMA, tied=True),
    "ernie4_5_moe": replace(LLAMA, tied=True, router_bias=True),
    "hunyuan_v1_dense": replace(LLAMA, head_norm=True),
    "exaone4": replace(LLAMA, head_norm=True, slides="pattern", pattern=4),
    "olmo2": replace(LLAMA, head_norm=True),
    "olmo3": replace(LLAMA, head_norm=True, slides="pattern", pattern=4),
    "olmoe": replace(LLAMA, head_norm=True),
    "phi3": replace(LLAMA, slides="all"),
    "phimoe": replace(LLAMA, query_bias=True, norm_bias=True),
    "minicpm": replace(LLAMA, tied=True),
    "glm4": replace(LLAMA, query_bias=True, output_bias=False, norms=4),
    "glm4_moe": replace(LLAMA, query_bias=True, output_bias=False, router_bias=True),
    "minimax_m2": replace(LLAMA, head_norm=True, router_bias=True),
    "mimo": replace(QWEN2, slides="no"),
    "nemotron": replace(LLAMA, gated=False, norm_bias=True),
    "arcee": replace(LLAMA, gated=False),
    "stablelm": replace(LLAMA, norm_bias=True),
    "starcoder2": Family(
        query_bias=True, output_bias=True, gated=False, mlp_bias=True, norm_bias=True, tied=True
    ),
    "cohere": replace(LLAMA, norms=1, tied=True),
    "cohere2": replace(LLAMA, norms=1, tied=True, slides="pattern", pattern=4),
    "qwen2": QWEN2,
    "qwen2_moe": replace(QWEN2, shared_gate=True),
    "qwen2_vl": replace(QWEN2, mixed_rope=True),
    "qwen2_vl_text": replace(QWEN2, mixed_rope=True),
    "qwen2_5_vl": replace(QWEN2, mixed_rope=True),
    "qwen2_5_vl_text": replace(QWEN2, mixed_rope=True),
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3,
    "qwen3_vl_text": replace(QWEN3, mixed_rope=True),
    "qwen3_vl_moe_text": replace(QWEN3, mixed_rope=True),
    "qwen3_next": replace(QWEN35, mixed_rope=False),
    "qwen3_5_text": QWEN35,
    "qwen3_5_moe_text": QWEN35,
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, norms=4, slides="even"),
    "gemma3_text": replace(GEMMA, norms=4, head_norm=True, slides="pattern", pattern=6),
    "gemma4_text": replace(GEMMA, norms=4, head_norm=True, slides="pattern", pattern=6),
    "gpt_oss": Family(
        query_bias=True, output_bias=True, slides="even", router_bias=True, expert_bias=True
    ),
    "deepseek_v2": LLAMA,
    "deepseek_v3": replace(LLAMA, router_bias=True),
    "deepseek_v32": replace(LLAMA, router_bias=True),
    "kimi_k2": replace(LLAMA, router_bias=True),
    "glm4_moe_lite": replace(LLAMA, router_bias=True),
    "glm_moe_dsa": replace(LLAMA, router_bias=True),
    "kimi_linear": replace(LLAMA, router_bias=True),
    "laguna": replace(LLAMA, head_norm=True, router_bias=True),
    "muse_glimmer_text": replace(LLAMA, norms=4, output_gate=True),
    "jamba": replace(LLAMA, rotary=False),
    "bamba": LLAMA,
    "falcon_h1": LLAMA,
    "nemotron_h": replace(LLAMA, gated=False, norms=1, rotary=False, single=True),
    "mamba": replace(LLAMA, norms=1, tied=True, rotary=False),
    "mamba2": replace(LLAMA, norms=1, tied=True, rotary=False),
    "falcon_mamba": replace(LLAMA, norms=1, tied=True, rotary=False),
    "lfm2": replace(LLAMA, head_norm=True, tied=True),
    "lfm2_moe": replace(LLAMA, head_norm=True, tied=True, router_bias=True),
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "opt": GPT,
    "gpt_neox": replace(GPT, learned_positions=False, rotary=True, tied=False),
    "phi": replace(GPT, learned_positions=False, rotary=True, tied=False, norms=1),
    "falcon": replace(
        GPT,
        query_bias=False,
        output_bias=False,
        mlp_bias=False,
        learned_positions=False,
        rotary=True,
    ),
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "modernbert": Family(gated=True, tied=True, causal=False, generates=False, slides="modernbert"),
    "nomic_bert": replace(ENCODER, gated=True, learned_positions=False, rotary=True),
    "whisper": replace(GPT, norms=3),
    "bart": replace(GPT, norms=3),
}

# A configuration of this type wraps a language model that it describes in a part of its own.
WRAPPERS = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
    "pixtral": "mistral",
    "internvl": "qwen2",
    "internvl_chat": "qwen2",
    "idefics3": "llama",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "muse_glimmer": "muse_glimmer_text",
    "kimi_k25": "deepseek_v3",
}
