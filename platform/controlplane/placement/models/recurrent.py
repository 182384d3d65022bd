"""Layers with a state of fixed size. Shapes as vLLM's MambaStateShapeCalculator has them."""

from collections.abc import Callable

from controlplane.placement.models.fields import Fields
from controlplane.placement.models.layers import Recurrent

HALF, SINGLE = 2, 4
STATE_BYTES = {"float32": SINGLE, "bfloat16": HALF, "float16": HALF}


def _state_bytes(config: Fields) -> int | None:
    """Of an element of the recurrent state; None: as the rest of the model."""
    return STATE_BYTES.get(str(config.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype")))


def gated_delta(config: Fields) -> Recurrent:
    """Qwen3-Next and Qwen3.5: q, k, v through one convolution, a matrix for each value head."""
    hidden = config.number("hidden_size")
    keys = config.number("linear_num_key_heads") * config.number("linear_key_head_dim")
    heads = config.number("linear_num_value_heads")
    value_dim = config.number("linear_value_head_dim")
    values = heads * value_dim
    channels = 2 * keys + values
    kernel = config.number("linear_conv_kernel_dim", default=4)
    return Recurrent(
        "gated delta net",
        convolution=channels,
        kernel=kernel,
        state=heads * value_dim * config.number("linear_key_head_dim"),
        state_bytes=_state_bytes(config),
        projections=((channels + values, hidden), (2 * heads, hidden), (hidden, values)),
        small=channels * kernel + 2 * heads + value_dim,
    )


def kimi_delta(config: Fields) -> Recurrent:
    """Kimi Linear: a gate for each channel, and the state always in single precision."""
    hidden = config.number("hidden_size")
    linear = config.within("linear_attn_config") or config
    heads, dim = linear.number("num_heads"), linear.number("head_dim")
    width = heads * dim
    kernel = linear.number("short_conv_kernel_size", default=4)
    low = (dim, hidden), (width, dim)  # a projection through one head's width
    return Recurrent(
        "kimi delta attention",
        convolution=3 * width,
        kernel=kernel,
        state=heads * dim * dim,
        state_bytes=SINGLE,
        projections=((3 * width, hidden), (heads, hidden), (hidden, width), *low, *low),
        small=3 * width * kernel + heads + width + dim,
        speculates=False,
    )


def mamba1(config: Fields) -> Recurrent:
    hidden = config.number("hidden_size", "d_model")
    expand = config.number("mamba_expand", "expand", default=2)
    inner = config.number("intermediate_size", default=hidden * expand)
    if config.get("mamba_expand"):  # Jamba: intermediate_size is its feed-forward part's
        inner = hidden * expand
    state = config.number("mamba_d_state", "state_size", default=16)
    kernel = config.number("mamba_d_conv", "conv_kernel", default=4)
    rank = config.get("mamba_dt_rank", "time_step_rank")
    rank = -(-hidden // 16) if rank in (None, "auto") else int(rank)
    return Recurrent(
        "mamba",
        convolution=inner,
        kernel=kernel,
        state=inner * state,
        state_bytes=_state_bytes(config),
        projections=(
            (2 * inner, hidden),
            (rank + 2 * state, inner),
            (inner, rank),
            (hidden, inner),
        ),
        small=inner * (kernel + 3) + inner * state,
        speculates=False,
    )


def mamba2(config: Fields) -> Recurrent:
    hidden = config.number("hidden_size")
    heads = config.number("mamba_num_heads", "mamba_n_heads", "num_heads")
    dim = config.get("mamba_head_dim", "mamba_d_head", "head_dim")
    expand = config.number("mamba_expand", "expand", default=2)
    dim = hidden * expand // heads if dim in (None, "auto") else int(dim)
    inner = config.number("mamba_d_ssm", default=heads * dim)
    groups = config.number("mamba_n_groups", "n_groups", default=1)
    state = config.number("mamba_d_state", "ssm_state_size", "state_size", default=128)
    kernel = config.number("mamba_d_conv", "conv_kernel", default=4)
    channels = inner + 2 * groups * state
    return Recurrent(
        "mamba2",
        convolution=channels,
        kernel=kernel,
        state=heads * dim * state,
        state_bytes=_state_bytes(config),
        projections=((inner + channels + heads, hidden), (hidden, inner)),
        small=channels * (kernel + 1) + 3 * heads + inner,
        groups=groups,
        group_state=2 * state,
    )


def short_convolution(config: Fields) -> Recurrent:
    """LFM2: a gated convolution with no other state."""
    hidden = config.number("hidden_size")
    inner = config.number("conv_dim", default=hidden)
    kernel = config.number("conv_L_cache", default=3)
    return Recurrent(
        "short convolution",
        convolution=inner,
        kernel=kernel,
        state=0,
        state_bytes=None,
        projections=((3 * inner, hidden), (hidden, inner)),
        small=inner * kernel,
        speculates=False,
    )


RECURRENT: dict[str, Callable[[Fields], Recurrent]] = {
    "linear_attention": gated_delta,
    "kda": kimi_delta,
    "mamba": mamba1,
    "mamba2": mamba2,
    "conv": short_convolution,
}
