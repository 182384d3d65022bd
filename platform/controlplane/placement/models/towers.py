"""Encoders beside the language model: what they weigh, and the largest input that is profiled."""

from controlplane.placement.models.fields import Fields
from controlplane.placement.models.model import Tower
from controlplane.placement.refusals import Refusal

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
QWEN_TOKENS = 16384  # of the largest image that Qwen's processors pass, merged 2 x 2
PLAIN = ("siglip", "clip", "gemma3", "gemma4", "pixtral", "llama4", "muse_glimmer", "intern_vit")


def read(config: Fields, hidden: int) -> tuple[Tower, ...]:
    """The towers of a multimodal model whose language model is `hidden` wide."""
    found = []
    if vision := config.within("vision_config"):
        found.append(_vision(vision, config, hidden))
    if audio := config.within("audio_config"):
        found.append(_audio(audio, hidden))
    return tuple(found)


def _vision(vision: Fields, config: Fields, hidden: int) -> Tower:
    kind = str(vision.get("model_type") or config.get("model_type") or "")
    outer = str(config.get("model_type") or "")
    if outer in QWEN:
        return _qwen(vision, outer, hidden)
    if not any(name in (kind + outer) for name in PLAIN) and not outer.startswith(
        ("llava", "mistral3", "internvl", "idefics")
    ):
        raise Refusal(f"the shape of vision tower {kind!r}")
    return _plain(vision, kind, hidden)


def _qwen(vision: Fields, outer: str, hidden: int) -> Tower:
    """Source: vLLM's qwen2_vl.py, qwen2_5_vl.py, qwen3_vl.py."""
    first = outer == "qwen2_vl"
    dim = vision.number("embed_dim" if first else "hidden_size")
    depth = vision.number("depth")
    width = dim * 4 if first else vision.number("intermediate_size")
    patch = vision.number("patch_size", "spatial_patch_size", default=14)
    merge = vision.number("spatial_merge_size", default=2)
    output = vision.number("out_hidden_size", default=hidden)
    gated = outer == "qwen2_5_vl"
    block = 4 * dim * dim + (3 if gated else 2) * dim * width + 7 * dim + 2 * width
    merged = dim * merge * merge
    merger = merged * merged + merged * output + merged + output + 2 * dim
    deep = len(vision.get("deepstack_visual_indexes") or [])
    pixels = 3 * vision.number("temporal_patch_size", default=2) * patch * patch
    positions = vision.number("num_position_embeddings", default=0) * dim
    parameters = depth * block + (1 + deep) * merger + pixels * dim + positions
    return Tower(
        outer, parameters, dim, width, QWEN_TOKENS * merge * merge, QWEN_TOKENS, True, deep
    )


def _plain(vision: Fields, kind: str, hidden: int) -> Tower:
    dim = vision.number("hidden_size", "embed_dim", "width")
    depth = vision.number("num_hidden_layers", "layers", "depth")
    width = vision.number("intermediate_size", "mlp_dim", default=4 * dim)
    patch = vision.number("patch_size", default=14)
    side = vision.number("image_size", default=0) // patch
    patches = side * side or vision.number("num_patches", default=4096)
    gated = "pixtral" in kind or "gemma4" in kind
    block = 4 * dim * dim + (3 if gated else 2) * dim * width + 4 * dim
    merged = dim * vision.number("merge_size", default=1) ** 2
    projector = merged * hidden
    if "gemma" not in kind:
        projector += merged * merged if merged > dim else hidden * hidden
    parameters = depth * block + 3 * patch * patch * dim + patches * dim + projector
    video = kind.startswith(("gemma4", "muse"))
    return Tower(kind, parameters, dim, width, patches, patches, video)


def _audio(audio: Fields, hidden: int) -> Tower:
    dim = audio.number("d_model", "hidden_size")
    depth = audio.number("encoder_layers", "num_hidden_layers", "conf_num_hidden_layers")
    width = audio.number("encoder_ffn_dim", "intermediate_size", default=4 * dim)
    parameters = depth * (4 * dim * dim + 2 * dim * width + 9 * dim) + dim * hidden
    return Tower("audio", parameters, dim, width, 1500, 750)
