"""The cache of keys, values and states: its pages, groups, blocks, and how many requests they hold.

As vLLM's kv_cache_interface.py and kv_cache_utils.py have it: every layer has a page of a block of
tokens; layers of one kind form groups of equal size; a block is a page of each layer of one group;
all groups draw from one pool of blocks.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

from controlplane.placement.memory import weights
from controlplane.placement.memory.engine import KV_BYTES, Arguments, Behaviour
from controlplane.placement.models.layers import Attention, CrossAttention, Latent, Recurrent
from controlplane.placement.models.model import Model
from controlplane.placement.models.quantization import BYTES
from controlplane.placement.refusals import Refusal

SCALE_BYTES = 4  # of a head and token, where scales are kept for each
SPARSE_LATENT_BYTES = 656  # a token in the fp8 layout of sparse latent attention
ALIGNMENT = 16  # tokens that a hybrid's block is a multiple of


@dataclass(frozen=True)
class Kind:
    """One kind of page. `token_bytes` on one device; a state has `state_bytes` instead."""

    token_bytes: float = 0
    window: int | None = None
    chunk: int | None = None
    encoder: int | None = None
    state_bytes: int = 0
    block_size: int = 16
    page_bytes: int = 0


@dataclass(frozen=True)
class Group:
    kind: Kind
    layers: int


@dataclass(frozen=True)
class Cache:
    """How a model's cache is laid out on one device. `token_bytes`: what one more token costs."""

    groups: tuple[Group, ...]
    block_bytes: int
    token_bytes: float
    arguments: Arguments
    behaviour: Behaviour
    aligned: bool  # states are kept at block ends for prefix caching

    def blocks(self, available_bytes: float) -> int:
        return max(0, int(available_bytes // self.block_bytes)) if self.block_bytes else 1

    def blocks_of_a_request(self, length: int) -> int:
        return sum(self._needed(group.kind, length) for group in self.groups)

    def request_bytes(self, length: int) -> int:
        return self.blocks_of_a_request(length) * self.block_bytes

    def _needed(self, kind: Kind, length: int) -> int:
        batched = self.arguments.max_num_batched_tokens or 2048
        size = kind.block_size * self.arguments.decode_context_parallel_size
        if kind.state_bytes:
            kept = 2 if self.aligned else 1
            return kept + self.arguments.num_speculative_tokens
        if kind.encoder is not None:
            return math.ceil(kind.encoder / kind.block_size)
        if kind.window is not None:
            return math.ceil(min(kind.window - 1 + batched, length) / kind.block_size) + 1
        if kind.chunk is not None:
            return math.ceil(min(kind.chunk + batched, length) / kind.block_size)
        return math.ceil(length / size)

    def concurrency(self, available_bytes: float, length: int) -> float:
        """Requests of `length` tokens that fit at once."""
        if not self.groups:
            return math.inf
        return self.blocks(available_bytes) / self.blocks_of_a_request(length)

    def tokens(self, available_bytes: float, length: int) -> int:
        """What the engine prints as "KV cache size": of a hybrid no true capacity."""
        if not self.groups:
            return 0
        if self.behaviour.tokens_by_concurrency:
            return int(self.concurrency(available_bytes, length) * length)
        smallest = min(group.kind.block_size for group in self.groups)
        shared = self.blocks(available_bytes) // len(self.groups)
        return shared * smallest * self.arguments.decode_context_parallel_size

    def longest(self, available_bytes: float, limit: int) -> int:
        """The largest length up to `limit` of which one request fits; 0: none."""
        low, high = 0, limit
        blocks = self.blocks(available_bytes)
        while low < high:
            middle = (low + high + 1) // 2
            if self.blocks_of_a_request(middle) <= blocks:
                low = middle
            else:
                high = middle - 1
        return low


def lay_out(model: Model, arguments: Arguments, behaviour: Behaviour) -> Cache:
    """`arguments` are resolved. Raises `Refusal` for a cache that is not known."""
    kinds = _kinds(model, arguments, behaviour)
    token_bytes = sum(
        kind.token_bytes * count
        for kind, count in kinds.items()
        if not (kind.window or kind.chunk or kind.encoder or kind.state_bytes)
    )
    aligned = bool(arguments.enable_prefix_caching) and model.recurrent
    if not kinds:
        return Cache((), 0, 0, arguments, behaviour, aligned)
    if not behaviour.groups_kinds or arguments.disable_hybrid_kv_cache_manager:
        kinds = _as_full(kinds)
    if len(kinds) > 1 and _one_table(kinds):
        return _packed(kinds, token_bytes, arguments, behaviour)
    unified = _unify(kinds)
    size = _group_size(list(unified.values()), behaviour)
    groups = [
        Group(kind, size) for kind, count in unified.items() for _ in range(math.ceil(count / size))
    ]
    page = next(iter(unified)).page_bytes
    return Cache(tuple(groups), page * size, token_bytes, arguments, behaviour, aligned)


def _kinds(model: Model, arguments: Arguments, behaviour: Behaviour) -> Counter[Kind]:
    """The kinds of page on the fullest device and how many layers have each."""
    found: Counter[Kind] = Counter()
    layers = model.layers + (model.drafting if weights.drafts(arguments) else ())
    for layer in layers:
        for mixer in (layer.mixer, layer.cross):
            if mixer is not None and (kind := _kind(mixer, model, arguments)) is not None:
                found[kind] += 1
        if isinstance(layer.mixer, Latent) and layer.mixer.index_dim:
            found[_page(Kind(_index_bytes(layer.mixer)), arguments)] += 1
    if arguments.speculative_method in ("eagle", "eagle3"):
        # A head of one layer like the model's, with a cache of its own.
        like = next((k for k in found if not k.state_bytes and not k.window), None)
        if like is not None:
            found[like] += 1
    stages = arguments.pipeline_parallel_size
    return Counter({kind: math.ceil(count / stages) for kind, count in found.items()})


def _kind(
    mixer: Attention | CrossAttention | Latent | Recurrent, model: Model, arguments: Arguments
) -> Kind | None:
    if isinstance(mixer, Recurrent):
        return Kind(state_bytes=state_bytes(mixer, model, arguments))
    if isinstance(mixer, Latent):
        return _page(Kind(latent_bytes(mixer, model, arguments)), arguments)
    if isinstance(mixer, CrossAttention):
        as_self = Attention(mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.head_dim)
        size = token_bytes(as_self, model, arguments)
        return _page(Kind(size, encoder=model.encoder_positions), arguments)
    if not mixer.causal or mixer.shares_cache:
        return None
    size = token_bytes(mixer, model, arguments)
    return _page(Kind(size, window=mixer.window, chunk=mixer.chunk), arguments)


def _page(kind: Kind, arguments: Arguments) -> Kind:
    size = arguments.block_size or 16
    return replace(kind, block_size=size, page_bytes=int(kind.token_bytes * size))


def _kv_type(model: Model, arguments: Arguments) -> str:
    if arguments.kv_cache_dtype != "auto":
        return arguments.kv_cache_dtype
    if model.kv_dtype is not None:
        return model.kv_dtype
    return model.dtype if arguments.dtype == "auto" else arguments.dtype


def _kv_bytes(name: str) -> float:
    if name in KV_BYTES:
        return KV_BYTES[name]
    if name in BYTES:
        return BYTES[name]
    raise Refusal(f"the layout of kv_cache_dtype {name!r}")


def token_bytes(mixer: Attention, model: Model, arguments: Arguments) -> float:
    """Bytes of one token in one layer on one device: heads fewer than ranks are held by several."""
    name = _kv_type(model, arguments)
    heads = max(1, mixer.kv_heads // arguments.tensor_parallel_size)
    scales = 2 * SCALE_BYTES if name.endswith("per_token_head") else 0
    return heads * ((mixer.head_dim + mixer.value_dim) * _kv_bytes(name) + scales)


def latent_bytes(mixer: Latent, model: Model, arguments: Arguments) -> float:
    """One latent head, whole on every rank."""
    name = _kv_type(model, arguments)
    if mixer.sparse and name.startswith("fp8"):
        return SPARSE_LATENT_BYTES
    return (mixer.kv_rank + mixer.rope_dim) * _kv_bytes(name)


def _index_bytes(mixer: Latent) -> float:
    return mixer.index_dim + SCALE_BYTES * math.ceil(mixer.index_dim / 128)


def state_bytes(mixer: Recurrent, model: Model, arguments: Arguments) -> int:
    ranks = arguments.tensor_parallel_size
    plain = weights.element_bytes(model, arguments)
    own = mixer.state_bytes or plain
    if arguments.mamba_ssm_cache_dtype != "auto":
        own = BYTES.get(arguments.mamba_ssm_cache_dtype, own)
    missing = ranks - mixer.groups if mixer.groups % ranks and mixer.group_state else 0
    channels = mixer.convolution + max(missing, 0) * mixer.group_state
    kept = mixer.kernel - 1
    if mixer.speculates:
        kept += arguments.num_speculative_tokens
    return channels // ranks * kept * plain + mixer.state // ranks * own


def _as_full(kinds: Counter[Kind]) -> Counter[Kind]:
    found: Counter[Kind] = Counter()
    for kind, count in kinds.items():
        found[replace(kind, window=None, chunk=None)] += count
    return found


def _one_table(kinds: Counter[Kind]) -> bool:
    """Whether all layers need the same slots, so that pages of several sizes make one block."""
    tables = {(kind.window, kind.chunk, kind.encoder, bool(kind.state_bytes)) for kind in kinds}
    return tables == {(None, None, None, False)}


def _packed(
    kinds: Counter[Kind], token_bytes: float, arguments: Arguments, behaviour: Behaviour
) -> Cache:
    size = sum(kind.page_bytes * count for kind, count in kinds.items())
    group = Group(next(iter(kinds)), sum(kinds.values()))
    return Cache((group,), size, token_bytes, arguments, behaviour, aligned=False)


def _unify(kinds: Counter[Kind]) -> Counter[Kind]:
    """Pages of one size: blocks of smaller pages get longer, states are padded."""
    state = max((kind.state_bytes for kind in kinds), default=0)
    attention = [kind for kind in kinds if not kind.state_bytes]
    if state and not attention:
        return Counter({replace(kind, page_bytes=state): count for kind, count in kinds.items()})
    if state:
        widest = max(kind.token_bytes for kind in attention)
        length = ALIGNMENT * math.ceil(state / (ALIGNMENT * widest))
        length = max(length, attention[0].block_size)
        kinds = Counter({_lengthened(kind, length): count for kind, count in kinds.items()})
    page = max(max(kind.page_bytes, kind.state_bytes) for kind in kinds)
    found: Counter[Kind] = Counter()
    for kind, count in kinds.items():
        longer = kind.block_size
        if not kind.state_bytes and page % kind.page_bytes == 0:
            longer *= page // kind.page_bytes
        found[replace(kind, block_size=longer, page_bytes=page)] += count
    return found


def _lengthened(kind: Kind, length: int) -> Kind:
    if kind.state_bytes:
        return kind
    return replace(kind, block_size=length, page_bytes=int(kind.token_bytes * length))


def _group_size(counts: list[int], behaviour: Behaviour) -> int:
    if max(counts) < min(counts) * behaviour.group_slack:
        return max(counts)
    return min(counts)
