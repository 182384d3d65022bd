"""The kinds of layer that a prediction knows. Sizes are the whole model's, before it is split.

A layer is a mixer (what looks at other tokens, and keeps a cache for it) and a feed-forward part.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    Over everything before it, or over the last `window` tokens, or over the chunk of `chunk`
    tokens that it stands in. `causal` is False where it looks both ways and so keeps no cache.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    chunk: int | None = None
    causal: bool = True
    bias: bool = False
    output_bias: bool = False
    head_norm: bool = False  # a norm on queries and keys
    output_gate: bool = False  # the query projection is twice as wide
    key_is_value: bool = False  # one projection serves as both
    shares_cache: bool = False  # reads the cache of an earlier layer, has none of its own


@dataclass(frozen=True)
class CrossAttention:
    """A decoder's attention to what the encoder said."""

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: one compressed key and value for all heads."""

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    index_heads: int = 0  # of a sparse indexer, with a key of `index_dim` for each token
    index_dim: int = 0
    sparse: bool = False  # by an indexer, its own or an earlier layer's


@dataclass(frozen=True)
class Recurrent:
    """A state of fixed size in the place of a cache that grows: Mamba, gated delta net, and others.

    `convolution` channels keep `kernel` - 1 past inputs, `state` are the elements of the recurrent
    state; both are split over tensor-parallel ranks. `parameters` are the projections'.
    """

    kind: str
    convolution: int
    kernel: int
    state: int
    state_bytes: int | None  # of each element of the state; None: as the model's own
    projections: tuple[tuple[int, int], ...]  # (rows, columns) of each matrix
    small: int = 0  # parameters in vectors
    groups: int = 1  # of a Mamba-2 layer: those fewer than ranks are repeated
    group_state: int = 0  # channels that one more group costs
    speculates: bool = True  # the convolution keeps the inputs of drafted tokens too


@dataclass(frozen=True)
class Dense:
    width: int
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True)
class Experts:
    count: int
    per_token: int
    width: int
    shared_width: int = 0
    gated: bool = True
    bias: bool = False
    shared_gate: bool = False
    router_bias: bool = False
    dense_width: int = 0  # a dense part beside the experts
    latent: int = 0  # width that experts work in, where it is not the model's


Mixer = Attention | CrossAttention | Latent | Recurrent
FeedForward = Dense | Experts


@dataclass(frozen=True)
class Layer:
    """One layer. A hybrid may leave one of the two out; a decoder of two parts has a cross, too."""

    mixer: Mixer | None
    feed: FeedForward | None
    cross: CrossAttention | None = None
    norms: int = 2
