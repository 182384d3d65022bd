"""The peak of the engine's profiling run: the larger of a full batch's forward pass and of the
sampler over as many rows as there may be sequences, beside what the towers' run leaves behind and
what the sampler keeps.
"""

import math

from controlplane.placement.devices import GIB
from controlplane.placement.memory.engine import Arguments, Behaviour
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.models.layers import Dense, Experts, FeedForward, Recurrent
from controlplane.placement.models.model import Model, Tower

# Bytes for each logit alive at the sampler's peak. Sorting: the model's own logits (2), those in
# single precision (4), sorted values (4) and their places (8), the places before (8), and the
# segmented sort's second buffer of both (12). Without: logits (2 + 4), probabilities, noise (8).
# The second runner draws within a kernel: logits alone.
SORTED_BYTES, UNSORTED_BYTES, SECOND_RUNNER_BYTES = 38, 14, 6
# Of each logit of each sequence that there may be, for ever: a count, and a bit of the prompt's.
COUNTED_BYTES = 4 + 1 / 8
CHUNK_TOKENS = 32768  # that fused experts take at once
EXPERTS_DOUBT_BYTES = int(0.4 * GIB)  # of workspaces that differ between kernels of experts
TOWER_DOUBT = 3  # times what is kept, that more of it may be
TOWER_COPIES = 6  # of a tower's hidden states that are alive at once


def estimate(model: Model, arguments: Arguments, behaviour: Behaviour) -> Estimate:
    """Bytes on one device; `arguments` are resolved."""
    forward = _forward(model, arguments, behaviour)
    sampler = _sampler(model, arguments, behaviour)
    seen = () if arguments.language_model_only else model.towers
    kept = sum(_kept(tower, model, arguments) for tower in seen)
    inside = sum(_tower(tower, arguments) for tower in seen)
    peak = max(max(forward, sampler) + kept, inside + kept)
    peak += _counts(model, arguments, behaviour)
    # A tower's profile depends on its processor's limits, which config.json does not have.
    doubt = max(0.1 * peak, TOWER_DOUBT * kept + inside)
    return Estimate(peak, peak + doubt + (EXPERTS_DOUBT_BYTES if model.sparse else 0))


def _kept(tower: Tower, model: Model, arguments: Arguments) -> int:
    """Of a tower's results for the longest input, which stay while the model is profiled."""
    tokens = max(tower.tokens, arguments.max_model_len or 0) if tower.video else tower.tokens
    return 2 * tokens * model.hidden * (1 + tower.deep)


def _forward(model: Model, arguments: Arguments, behaviour: Behaviour) -> int:
    batch = arguments.max_num_batched_tokens or 2048
    ranks = arguments.tensor_parallel_size
    # Residual and output of a part; where nothing is compiled its input, too.
    compiled = not (behaviour.first_engine or arguments.enforce_eager)
    stream = (2 if compiled else 3) * model.hidden
    widest = max((_feed(layer.feed, model, arguments, batch) for layer in model.layers), default=0)
    mixing = max(
        (
            (mixer.projections[0][0] + mixer.convolution) // ranks
            for layer in model.layers
            if isinstance(mixer := layer.mixer, Recurrent)
        ),
        default=0,
    )
    return 2 * batch * (stream + max(widest, mixing))


def _feed(feed: FeedForward | None, model: Model, arguments: Arguments, batch: int) -> int:
    """Elements for each token that a feed-forward part has alive at once."""
    if feed is None:
        return 0
    ranks = arguments.tensor_parallel_size
    if isinstance(feed, Dense):
        return (3 if feed.gated else 2) * feed.width // ranks
    return _expert(feed, model, arguments, batch)


def _expert(feed: Experts, model: Model, arguments: Arguments, batch: int) -> int:
    ranks = 1 if arguments.enable_expert_parallel else arguments.tensor_parallel_size
    width = feed.width // ranks
    routed = feed.per_token * (max(2 * width, model.hidden) + width)
    share = min(batch, CHUNK_TOKENS) / batch
    shared = 3 * feed.shared_width // arguments.tensor_parallel_size
    return math.ceil(routed * share) + shared


def _sampler(model: Model, arguments: Arguments, behaviour: Behaviour) -> int:
    if not model.generates or arguments.runner == "pooling":
        return 0
    batch = arguments.max_num_batched_tokens or 2048
    rows = min(arguments.max_num_seqs or 256, batch)
    each = SORTED_BYTES if behaviour.sorts_vocabulary or rows < 8 else UNSORTED_BYTES
    if behaviour.second_runner:
        each = SECOND_RUNNER_BYTES
    held = 2 * batch * model.hidden * 2  # the forward pass's result, and a copy of it
    return rows * model.vocabulary * each + held


def _counts(model: Model, arguments: Arguments, behaviour: Behaviour) -> int:
    """For penalties: the second runner has them for each sequence, whether asked for or not."""
    if not (behaviour.second_runner and model.generates) or arguments.runner == "pooling":
        return 0
    return math.ceil((arguments.max_num_seqs or 256) * model.vocabulary * COUNTED_BYTES)


def _tower(tower: Tower, arguments: Arguments) -> int:
    widest = tower.width // arguments.tensor_parallel_size
    return 2 * tower.patches * (TOWER_COPIES * tower.hidden + 2 * widest)
