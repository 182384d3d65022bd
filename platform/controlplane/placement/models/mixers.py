"""The mixer of each layer, as config.json describes it."""

from controlplane.placement.models.families import Family
from controlplane.placement.models.fields import Fields
from controlplane.placement.models.layers import Attention, Latent, Mixer
from controlplane.placement.models.recurrent import RECURRENT
from controlplane.placement.refusals import Refusal

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
# Names that configurations give to the layers that are told apart here.
KINDS = {
    "attention": FULL,
    "full": FULL,
    "global_attention": FULL,
    "sliding": SLIDING,
    "local_attention": SLIDING,
    "window_attention": SLIDING,
    "linear_attention": "linear_attention",
    "gated_delta_net": "linear_attention",
    "indexed_attention": FULL,  # sparse latent attention, whose indexer is read beside it
}
# What a family means by a name that others use for something else.
OWN: dict[str, dict[str, str]] = {
    "granitemoehybrid": {"mamba": "mamba2", "linear_attention": "mamba2"},
    "bamba": {"mamba": "mamba2", "linear_attention": "mamba2"},
    "nemotron_h": {"mamba": "mamba2", "linear_attention": "mamba2"},
    "kimi_linear": {"linear_attention": "kda"},
    "mamba": {"linear_attention": "mamba"},
    "falcon_mamba": {"linear_attention": "mamba"},
    "mamba2": {"linear_attention": "mamba2"},
    "jamba": {"linear_attention": "mamba"},
    "lfm2": {"linear_attention": "conv"},
    "lfm2_moe": {"linear_attention": "conv"},
    "falcon_h1": {"hybrid": "parallel_mamba2", "linear_attention": "parallel_mamba2"},
}


def kinds(config: Fields, family: Family, model_type: str) -> list[str]:
    """The kind of each layer, in their order."""
    stated = config.get("layer_types", "layers_block_type", "attn_layer_types")
    count = layers(config)
    if stated is not None:
        if len(stated) != count:
            raise Refusal(f"layer_types for each of {count} layers, not for {len(stated)}")
        names = KINDS | OWN.get(model_type, {})
        return [names.get(name, name) for name in stated]
    if pattern := config.get("hybrid_override_pattern", "hybrid_layer_pattern"):
        return _letters(str(pattern), count)
    if interval := config.get("full_attention_interval"):
        return [FULL if i % interval == interval - 1 else "linear_attention" for i in range(count)]
    if model_type == "jamba":
        period = config.number("attn_layer_period", default=8)
        offset = config.number("attn_layer_offset", default=4)
        return [FULL if i % period == offset else "mamba" for i in range(count)]
    if model_type in ("mamba", "falcon_mamba", "mamba2"):
        return [model_type.replace("falcon_", "")] * count
    if model_type == "bamba":
        attends = config.get("attn_layer_indices") or []
        return [FULL if i in attends else "mamba2" for i in range(count)]
    if model_type == "falcon_h1":
        return ["parallel_mamba2"] * count
    if model_type == "lfm2" and (attends := config.get("full_attn_idxs")) is not None:
        return [FULL if i in attends else "conv" for i in range(count)]
    if linear := config.within("linear_attn_config"):
        attends = linear.get("full_attn_layers") or []  # counted from one
        return [FULL if i + 1 in attends else "kda" for i in range(count)]
    return _sliding(config, family, count)


def layers(config: Fields) -> int:
    """How many there are; a hybrid may state no number beside their kinds."""
    of_each = config.get("layers_block_type", "hybrid_override_pattern", "layer_types")
    names = ("num_hidden_layers", "n_layer", "num_layers", "decoder_layers")
    return config.number(*names, default=len(of_each) if of_each else None)


def _letters(pattern: str, count: int) -> list[str]:
    """Nemotron-H: M a Mamba-2 layer, * attention, - a dense and E a sparse feed-forward layer."""
    names = {"M": "mamba2", "*": FULL, "-": "mlp", "E": "moe"}
    unknown = sorted(set(pattern) - set(names))
    if unknown or len(pattern) != count:
        raise Refusal(f"layer letter {unknown[0]!r}" if unknown else "a letter for each layer")
    return [names[letter] for letter in pattern]


def _sliding(config: Fields, family: Family, count: int) -> list[str]:
    window = config.get("sliding_window", "window_size")
    slides = family.slides
    if slides == "chunked":
        if not config.get("attention_chunk_size"):
            return [FULL] * count
        no_rope = config.get("no_rope_layers")
        if no_rope:
            return [CHUNKED if roped else FULL for roped in no_rope]
        interval = config.number("no_rope_layer_interval", default=4)
        return [FULL if (i + 1) % interval == 0 else CHUNKED for i in range(count)]
    if slides == "modernbert":
        interval = config.number("global_attn_every_n_layers", default=3)
        return [FULL if i % interval == 0 else SLIDING for i in range(count)]
    if (
        not window
        or slides == "no"
        or (slides == "optional" and not config.truth("use_sliding_window"))
    ):
        return [FULL] * count
    if slides == "optional":
        first = config.number("max_window_layers", default=count)
        return [SLIDING if i >= first else FULL for i in range(count)]
    if slides == "even":
        return [SLIDING if i % 2 == 0 else FULL for i in range(count)]
    if slides == "pattern":
        every = config.number("sliding_window_pattern", default=family.pattern)
        return [FULL if (i + 1) % every == 0 else SLIDING for i in range(count)]
    return [SLIDING] * count


def mixer(config: Fields, family: Family, kind: str, index: int) -> Mixer | None:
    """Raises `Refusal` with the name of a kind of layer that is not known."""
    if kind in ("mlp", "moe"):
        return None
    if kind in RECURRENT:
        return RECURRENT[kind](config)
    if kind not in (FULL, SLIDING, CHUNKED):
        raise Refusal(f"layer type {kind!r}")
    if config.get("kv_lora_rank"):
        return _latent(config, index)
    return attention(config, family, kind, index)


def _indexes(config: Fields, index: int) -> bool:
    """Whether the layer has an indexer of its own, or goes by that of one before."""
    if kinds := config.get("indexer_types"):
        return bool(kinds[index] == "full")
    if pattern := config.get("index_topk_pattern"):
        return bool(pattern[index] != "S")
    every = config.number("index_topk_freq", default=1)
    first = config.number("index_skip_topk_offset", default=2)
    return max(index - first + 1, 0) % every == 0


def _latent(config: Fields, index: int) -> Latent:
    own = _indexes(config, index)
    return Latent(
        heads=config.number("num_attention_heads"),
        query_rank=config.get("q_lora_rank"),
        kv_rank=config.number("kv_lora_rank"),
        nope_dim=config.number("qk_nope_head_dim"),
        rope_dim=config.number("qk_rope_head_dim"),
        value_dim=config.number("v_head_dim"),
        index_heads=config.number("index_n_heads", default=0) if own else 0,
        index_dim=config.number("index_head_dim", default=0) if own else 0,
        sparse=bool(config.get("index_topk")),
    )


def head_dim(config: Fields, family: Family) -> int:
    if stated := config.get("head_dim", "attention_head_dim"):
        return int(stated)
    if family.head_dim:
        return family.head_dim
    hidden = config.number("hidden_size", "n_embd", "d_model")
    return hidden // config.number("num_attention_heads", "n_head", "decoder_attention_heads")


def attention(config: Fields, family: Family, kind: str, index: int) -> Attention:
    heads = config.number("num_attention_heads", "n_head", "decoder_attention_heads")
    if each := config.get("num_attention_heads_per_layer"):
        heads = int(each[index])
    kv_heads = config.number("num_key_value_heads", "num_kv_heads", default=heads)
    if config.truth("multi_query") and not config.truth("new_decoder_architecture"):
        kv_heads = 1
    dim = head_dim(config, family)
    if kind == FULL:  # Gemma 4 keeps wider and fewer heads where it looks at everything
        dim = config.number("global_head_dim", default=dim)
        kv_heads = config.number("num_global_key_value_heads", default=kv_heads)
    bias = config.truth("attention_bias", "qkv_bias", "use_bias", default=family.query_bias)
    if family.query_bias and config.get("attention_bias") is None:
        bias = True
    shared = config.number("num_kv_shared_layers", default=0)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        value_dim=config.number("v_head_dim", default=dim),
        window=config.number("sliding_window", "window_size", "local_attention")
        if kind == SLIDING
        else None,
        chunk=config.number("attention_chunk_size") if kind == CHUNKED else None,
        causal=family.causal,
        bias=bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        head_norm=family.head_norm or config.truth("use_qk_norm"),
        output_gate=config.truth("attn_output_gate", default=family.output_gate),
        key_is_value=config.truth("attention_k_eq_v") and kind == FULL,
        shares_cache=bool(shared) and index >= layers(config) - shared,
    )
