"""The matrices of a model, and how tensor and expert parallelism split each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from controlplane.placement.models.layers import (
    Attention,
    CrossAttention,
    Dense,
    FeedForward,
    Latent,
    Layer,
    Mixer,
    Recurrent,
)
from controlplane.placement.models.model import Model

Split = Literal["ranks", "kv", "experts", "vocabulary", "none"]


@dataclass(frozen=True)
class Matrix:
    """`count` matrices of `rows` outputs and `columns` inputs.

    `module` is where it stands as checkpoints name it (`layers.3.mlp.experts`), for what a
    quantisation leaves alone. `heads` are the key and value heads of a split by `kv`.
    """

    module: str
    rows: int
    columns: int
    split: Split
    count: int = 1
    heads: int = 0
    side: Literal["rows", "columns"] = "rows"
    layer: int | None = None

    @property
    def parameters(self) -> int:
        return self.rows * self.columns * self.count


def vector(module: str, elements: int, split: Split = "none", layer: int | None = None) -> Matrix:
    return Matrix(module, elements, 1, split, layer=layer)


def of(model: Model, *, drafting: bool = False) -> Iterator[Matrix]:
    """Every matrix and vector of the language model and its encoder; towers are not among them."""
    hidden = model.hidden
    yield Matrix("embed", model.vocabulary, hidden, "vocabulary")
    if not model.tied and model.generates:
        yield Matrix("head", model.vocabulary, hidden, "vocabulary")
    if model.learned_positions:
        yield Matrix("embed", model.max_position, hidden, "none")
    for index, layer in enumerate(model.layers):
        yield from _layer(layer, f"layers.{index}", hidden, index)
    for index, layer in enumerate(model.encoder):
        yield from _layer(layer, f"encoder.layers.{index}", hidden, None)
    if model.encoder_positions:
        yield Matrix("embed", model.encoder_positions, hidden, "none")
    yield vector("norm", hidden)
    if model.extra:
        yield vector("embed", model.extra, "ranks")
    if drafting:
        for index, layer in enumerate(model.drafting):
            at = len(model.layers) + index
            yield Matrix("mtp", hidden, 2 * hidden, "none", layer=at)
            yield from _layer(layer, f"layers.{at}", hidden, at)


def _layer(layer: Layer, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    if layer.norms:
        yield vector("norm", layer.norms * hidden, layer=index)
    if layer.mixer is not None:
        yield from _mixer(layer.mixer, at, hidden, index)
    if layer.cross is not None:
        yield from _mixer(layer.cross, f"{at}.cross", hidden, index)
    if layer.feed is not None:
        yield from _feed(layer.feed, at, hidden, index)


def _mixer(mixer: Mixer, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    if isinstance(mixer, Latent):
        yield from _latent(mixer, f"{at}.self_attn", hidden, index)
    elif isinstance(mixer, Recurrent):
        yield from _recurrent(mixer, at, hidden, index)
    elif isinstance(mixer, CrossAttention):
        plain = Attention(
            mixer.heads,
            mixer.kv_heads,
            mixer.head_dim,
            mixer.head_dim,
            bias=mixer.bias,
            output_bias=mixer.bias,
        )
        yield from _attention(plain, f"{at}.attn", hidden, index)
    else:
        yield from _attention(mixer, f"{at}.self_attn", hidden, index)


def _attention(mixer: Attention, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    queries = mixer.heads * mixer.head_dim
    keys = mixer.kv_heads * mixer.head_dim
    values = mixer.kv_heads * mixer.value_dim
    doubled = 2 if mixer.output_gate else 1
    yield Matrix(f"{at}.q_proj", doubled * queries, hidden, "ranks", layer=index)
    if not mixer.shares_cache:
        yield Matrix(f"{at}.k_proj", keys, hidden, "kv", heads=mixer.kv_heads, layer=index)
        # One projection for both is held twice: the engine's fused matrix has room for each.
        yield Matrix(f"{at}.v_proj", values, hidden, "kv", heads=mixer.kv_heads, layer=index)
    outputs = mixer.heads * mixer.value_dim
    yield Matrix(f"{at}.o_proj", hidden, outputs, "ranks", side="columns", layer=index)
    if mixer.bias:
        yield vector("bias", queries + keys + values, "ranks", index)
    if mixer.output_bias:
        yield vector("bias", hidden, layer=index)
    if mixer.head_norm:
        yield vector("norm", 2 * mixer.head_dim, layer=index)


def _latent(mixer: Latent, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    head = mixer.nope_dim + mixer.rope_dim
    if mixer.query_rank:
        yield Matrix(f"{at}.q_a_proj", mixer.query_rank, hidden, "none", layer=index)
        yield Matrix(f"{at}.q_b_proj", mixer.heads * head, mixer.query_rank, "ranks", layer=index)
    else:
        yield Matrix(f"{at}.q_proj", mixer.heads * head, hidden, "ranks", layer=index)
    width = mixer.kv_rank + mixer.rope_dim
    yield Matrix(f"{at}.kv_a_proj_with_mqa", width, hidden, "none", layer=index)
    rows = mixer.heads * (mixer.nope_dim + mixer.value_dim)
    yield Matrix(f"{at}.kv_b_proj", rows, mixer.kv_rank, "ranks", layer=index)
    # The engine keeps that matrix a second time, taken apart for decoding in the latent space.
    yield vector("absorbed", rows * mixer.kv_rank, "ranks", index)
    outputs = mixer.heads * mixer.value_dim
    yield Matrix(f"{at}.o_proj", hidden, outputs, "ranks", side="columns", layer=index)
    yield vector("norm", (mixer.query_rank or 0) + mixer.kv_rank, layer=index)
    if mixer.index_dim:
        inputs = mixer.query_rank or hidden
        rows = mixer.index_heads * mixer.index_dim
        yield Matrix(f"{at}.indexer.wq_b", rows, inputs, "none", layer=index)
        yield Matrix(f"{at}.indexer.wk", mixer.index_dim, hidden, "none", layer=index)
        yield Matrix(f"{at}.indexer.weights_proj", mixer.index_heads, hidden, "none", layer=index)


def _recurrent(mixer: Recurrent, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    delta = mixer.kind == "gated delta net"
    name = "linear_attn" if "delta" in mixer.kind else "mixer"
    inputs = ("qkvz", "ba") if delta else tuple(str(n) for n in range(len(mixer.projections)))
    for number, (rows, columns) in enumerate(mixer.projections):
        last = number == len(mixer.projections) - 1
        side: Literal["rows", "columns"] = "columns" if rows == hidden else "rows"
        part = "out_proj" if last else f"in_proj_{inputs[number]}"
        yield Matrix(f"{at}.{name}.{part}", rows, columns, "ranks", side=side, layer=index)
    yield vector("bias", mixer.small, "ranks", index)


def _feed(feed: FeedForward, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    if isinstance(feed, Dense):
        yield from _dense(feed, f"{at}.mlp", hidden, index)
        return
    yield Matrix("router", feed.count, hidden, "none", layer=index)
    if feed.router_bias:
        yield vector("router", feed.count, layer=index)
    width = feed.latent or hidden
    if feed.latent:
        yield Matrix(f"{at}.mlp.latent_in", width, hidden, "none", layer=index)
        yield Matrix(f"{at}.mlp.latent_out", hidden, width, "none", layer=index)
    ways = 2 if feed.gated else 1
    experts = f"{at}.mlp.experts"
    yield Matrix(experts, ways * feed.width, width, "experts", feed.count, layer=index)
    yield Matrix(experts, width, feed.width, "experts", feed.count, side="columns", layer=index)
    if feed.bias:
        yield vector("bias", feed.count * (ways * feed.width + hidden), "ranks", index)
    if feed.shared_width:
        shared = Dense(feed.shared_width, feed.gated)
        yield from _dense(shared, f"{at}.mlp.shared_expert", hidden, index)
    if feed.shared_gate and feed.shared_width:
        yield Matrix("shared_gate", 1, hidden, "none", layer=index)
    if feed.dense_width:
        yield from _dense(Dense(feed.dense_width, feed.gated), f"{at}.mlp", hidden, index)


def _dense(feed: Dense, at: str, hidden: int, index: int | None) -> Iterator[Matrix]:
    names = ("gate_proj", "up_proj") if feed.gated else ("up_proj",)
    for name in names:
        yield Matrix(f"{at}.{name}", feed.width, hidden, "ranks", layer=index)
    yield Matrix(f"{at}.down_proj", hidden, feed.width, "ranks", side="columns", layer=index)
    if feed.bias:
        yield vector("bias", feed.width + hidden, layer=index)
