"""What one step of the engine computes and moves on one device.

2 operations for each parameter that a token meets, 4 for each head, dimension and token that it
looks back at; each weight is read once a step however many tokens share it, of the experts those
that some token chose; a request's cache is read once for each token that it decodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from controlplane.placement.devices import Device
from controlplane.placement.memory import kv_cache, weights
from controlplane.placement.memory.engine import Arguments, Behaviour
from controlplane.placement.models import tensors
from controlplane.placement.models.layers import Attention, Experts, Latent, Recurrent
from controlplane.placement.models.model import Model
from controlplane.placement.models.tensors import Matrix

HEAD, LOOKED_UP = "head", "embed"


@dataclass(frozen=True)
class Looking:
    """What `layers` layers of one kind cost for each token looked back at, up to `limit`."""

    bytes: float
    flops: float
    limit: int | None = None


@dataclass(frozen=True)
class Work:
    """Of the whole model on one of its tensor-parallel ranks; the pipeline's stages summed."""

    token_flops: float  # of a token, in its matrices, without head and experts
    routed_flops: float  # of a token, in the experts that it chose
    head_flops: float  # of a token that is sampled
    fixed_bytes: float  # weights that each step reads
    routed_bytes: float  # of all experts
    chosen: float  # share of the experts that one token chooses
    looking: tuple[Looking, ...]
    state_bytes: float  # that a request's step reads and writes beside its cache
    layers: int
    hidden: int
    plain_bytes: int  # of an element of the hidden state
    ranks: int
    stages: int
    shares: int = 1  # engines that step together: each its own requests, the experts in common
    picked: int = 0  # experts that a token goes to, where those are spread over all shares

    def expert_bytes(self, tokens: float) -> float:
        """Of the experts that so many tokens of each share choose, as if each chose at random."""
        if not self.routed_bytes:
            return 0.0
        missed = float((1 - self.chosen) ** (tokens * self.shares))
        return self.routed_bytes * (1 - missed)

    def cache_bytes(self, context: float) -> float:
        """That one more token of a request reads with so many tokens before it."""
        return self.state_bytes + sum(
            each.bytes * min(context, each.limit or context) for each in self.looking
        )

    def attention_flops(self, start: float, tokens: float) -> float:
        """Of `tokens` tokens of one prompt behind `start` others."""
        total = 0.0
        for each in self.looking:
            middle = start + tokens / 2
            total += each.flops * tokens * min(middle, each.limit or middle)
        return total


def count(model: Model, arguments: Arguments, device: Device, behaviour: Behaviour) -> Work:
    """`arguments` are resolved. Raises `Refusal` for what the engine would not load."""
    plain = weights.element_bytes(model, arguments)
    ranks = arguments.tensor_parallel_size
    token = head = fixed = routed = experts = 0.0
    chosen = _chosen(model)
    for matrix in tensors.of(model):
        size = weights.matrix_bytes(matrix, model, arguments, device, behaviour, plain)
        flops = 2 * matrix.parameters / _share(matrix, ranks)
        if matrix.split == "experts":
            routed += size
            experts += flops * chosen
        elif matrix.module == HEAD:
            head, fixed = flops, fixed + size
        elif matrix.module != LOOKED_UP:
            token, fixed = token + flops, fixed + size
    if model.tied and model.generates:  # the embeddings serve as the head
        head = 2 * model.vocabulary * model.hidden / ranks
        fixed += model.vocabulary * model.hidden * plain / ranks
    return Work(
        token_flops=token,
        routed_flops=experts,
        head_flops=head,
        fixed_bytes=fixed,
        routed_bytes=routed,
        chosen=chosen,
        looking=tuple(_looking(model, arguments)),
        state_bytes=_states(model, arguments),
        layers=len(model.layers),
        hidden=model.hidden,
        plain_bytes=plain,
        ranks=ranks,
        stages=arguments.pipeline_parallel_size,
        shares=arguments.data_parallel_size,
        picked=_picked(model),
    )


def _share(matrix: Matrix, ranks: int) -> int:
    if matrix.split == "none":
        return 1
    return min(ranks, matrix.heads) if matrix.split == "kv" else ranks


def _chosen(model: Model) -> float:
    experts = [each.feed for each in model.layers if isinstance(each.feed, Experts)]
    return experts[0].per_token / experts[0].count if experts else 1.0


def _picked(model: Model) -> int:
    return max(
        (each.feed.per_token for each in model.layers if isinstance(each.feed, Experts)), default=0
    )


def _looking(model: Model, arguments: Arguments) -> Iterator[Looking]:
    found: dict[int | None, Looking] = {}
    for layer in model.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            size = kv_cache.token_bytes(mixer, model, arguments)
            flops = 2 * mixer.heads * (mixer.head_dim + mixer.value_dim)
            limit = mixer.window or mixer.chunk
        elif isinstance(mixer, Latent):
            # Decoding looks into the latent space; prompts do, too, in what they cost here.
            size = kv_cache.latent_bytes(mixer, model, arguments)
            flops = 2 * mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.value_dim)
            limit = None
        else:
            continue
        so_far = found.get(limit, Looking(0, 0, limit))
        found[limit] = replace(
            so_far,
            bytes=so_far.bytes + size,
            flops=so_far.flops + flops / arguments.tensor_parallel_size,
        )
    yield from found.values()


def _states(model: Model, arguments: Arguments) -> float:
    sizes = (
        kv_cache.state_bytes(layer.mixer, model, arguments)
        for layer in model.layers
        if isinstance(layer.mixer, Recurrent)
    )
    return 2.0 * sum(sizes)  # read and written
