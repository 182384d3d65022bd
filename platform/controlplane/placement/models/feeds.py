"""The feed-forward part of each layer, as config.json describes it."""

from controlplane.placement.models.families import Family
from controlplane.placement.models.fields import Fields
from controlplane.placement.models.layers import Dense, Experts, FeedForward


def _count(config: Fields) -> int:
    if config.get("enable_moe_block") is False:
        return 0
    return config.number(
        "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", default=0
    )


def sparse(config: Fields, index: int) -> bool:
    """Whether layer `index` has experts."""
    if not _count(config):
        return False
    if kinds := config.get("mlp_layer_types"):
        return bool(kinds[index] == "sparse")
    if index in (config.get("mlp_only_layers") or []):
        return False
    if index < config.number("first_k_dense_replace", "moe_layer_start_index", default=0):
        return False
    if (frequency := config.get("moe_layer_freq")) is not None:
        return bool(frequency[index]) if isinstance(frequency, list) else index % frequency == 0
    if step := config.get("interleave_moe_layer_step"):
        return (index + 1) % int(step) == 0
    if step := config.get("expert_layer_period"):
        return index % int(step) == config.number("expert_layer_offset", default=0)
    step = config.number("decoder_sparse_step", default=1)
    return step > 0 and (index + 1) % step == 0


def feed(config: Fields, family: Family, kind: str, index: int) -> FeedForward | None:
    if kind in ("mamba", "mamba2") and config.get("state_size"):
        return None  # pure Mamba: such a layer is a mixer and nothing else
    if kind == "moe" or (kind != "mlp" and sparse(config, index)):
        return _experts(config, family)
    return dense(config, family)


def dense(config: Fields, family: Family) -> Dense:
    hidden = config.number("hidden_size", "n_embd", "d_model")
    width = config.number(
        "intermediate_size_mlp",
        "intermediate_size",
        "shared_intermediate_size",
        "ffn_dim",
        "decoder_ffn_dim",
        "n_inner",
        "ffn_hidden_size",
        default=0 if family.gated else 4 * hidden,
    )
    if config.get("block_auto_adjust_ff_dim"):  # LFM2 states the width before its rounding
        width = int(width * 2 / 3 * float(config.get("block_ffn_dim_multiplier") or 1.0))
        multiple = config.number("block_multiple_of", default=256)
        width = -(-width // multiple) * multiple
    return Dense(width, family.gated, config.truth("mlp_bias", default=family.mlp_bias))


def _experts(config: Fields, family: Family) -> Experts:
    width = config.number("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
    shared = config.number(
        "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0
    )
    return Experts(
        count=_count(config),
        per_token=config.number(
            "num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "experts_per_token"
        ),
        width=width,
        shared_width=config.number(
            "shared_expert_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "shared_intermediate_size",
            default=width if family.shared_expert else shared * width,
        ),
        gated=family.gated,
        bias=family.expert_bias,
        shared_gate=family.shared_gate,
        router_bias=family.router_bias,
        dense_width=config.number("intermediate_size") if config.get("enable_moe_block") else 0,
        latent=config.number("moe_latent_size", default=0),
    )
