"""From a config.json to a `Model`."""

import math
from collections.abc import Mapping
from typing import Any

from controlplane.placement.models import feeds, mixers, quantization, towers
from controlplane.placement.models.families import FAMILIES, WRAPPERS, Family
from controlplane.placement.models.fields import Fields
from controlplane.placement.models.layers import Attention, CrossAttention, Latent, Layer
from controlplane.placement.models.model import Model
from controlplane.placement.refusals import Refusal

CONTENT = ("text_config", "llm_config", "language_config", "thinker_config")
# An architecture that vLLM serves for embeddings or scores and that has no head.
HEADLESS = ("Model", "ForSequenceClassification", "ForRewardModel", "ForMaskedLM", "Embedding")
POSITIONS = (
    *("max_position_embeddings", "n_positions", "max_target_positions", "seq_length"),
    *("max_sequence_length", "model_max_length", "max_seq_len"),
)


def read(stated: Mapping[str, Any]) -> Model:
    """Raises `Refusal` with what the configuration lacks or what is not known of it."""
    outer = Fields(stated)
    model_type = str(outer.get("model_type") or "")
    inner, text_type = _content(outer, model_type)
    family = FAMILIES.get(text_type)
    if family is None:
        raise Refusal(f"model type {text_type!r}" if text_type else "model_type in config.json")
    hidden = inner.number("hidden_size", "n_embd", "d_model")
    layers = tuple(_layers(inner, family, text_type))
    architecture = str((outer.get("architectures") or [model_type])[0])
    encoder, positions = _encoder(inner, family, text_type)
    tied = outer.get("tie_word_embeddings")
    if tied is None:
        tied = inner.get("tie_word_embeddings")
    return Model(
        architecture=architecture,
        hidden=hidden,
        vocabulary=inner.number("vocab_size"),
        tied=family.tied if tied is None else bool(tied),
        max_position=inner.number(*POSITIONS, default=0) or _unbounded(layers),
        dtype=_dtype(outer, inner),
        layers=layers,
        quantization=quantization.read(outer.stated if _quantized(outer) else inner.stated),
        encoder=encoder,
        encoder_positions=positions,
        rotary=_rotary(inner, family, layers),
        learned_positions=family.learned_positions,
        towers=towers.read(outer, hidden),
        drafting=_drafting(inner, family, layers),
        extra=_extra(inner),
        generates=family.generates and not architecture.endswith(HEADLESS),
        kv_dtype=_kv_dtype(outer),
    )


def _content(outer: Fields, model_type: str) -> tuple[Fields, str]:
    """The part that describes the language model, and its family."""
    for name in CONTENT:
        if part := outer.within(name):
            inner = Fields({**_inherited(outer), **part.stated})
            own = str(part.get("model_type") or WRAPPERS.get(model_type) or "")
            return inner, own if own in FAMILIES else WRAPPERS.get(model_type, own)
    return outer, model_type if model_type in FAMILIES else WRAPPERS.get(model_type, model_type)


def _inherited(outer: Fields) -> dict[str, Any]:
    names = ("vocab_size", "torch_dtype", "dtype", "tie_word_embeddings")
    return {name: outer.stated[name] for name in names if outer.stated.get(name) is not None}


def _quantized(outer: Fields) -> bool:
    return bool(outer.get("quantization_config", "compression_config"))


def _dtype(outer: Fields, inner: Fields) -> str:
    name = str(inner.get("torch_dtype", "dtype") or outer.get("torch_dtype", "dtype") or "")
    if not name:
        return "bfloat16"
    if name not in quantization.BYTES:
        raise Refusal(f"dtype {name!r}")
    # vLLM's `auto` serves single precision at half.
    return "float16" if name in ("float32", "float", "fp32") else name


def _layers(inner: Fields, family: Family, text_type: str) -> list[Layer]:
    found = []
    for index, kind in enumerate(mixers.kinds(inner, family, text_type)):
        if kind == "parallel_mamba2":  # Falcon-H1: both in one layer, each with its cache
            found.append(_layer(inner, family, mixers.FULL, index))
            found.append(Layer(mixers.mixer(inner, family, "mamba2", index), None, norms=0))
            continue
        found.append(_layer(inner, family, kind, index))
    if text_type in ("whisper", "bart"):
        found = [Layer(each.mixer, each.feed, _crossed(each.mixer), family.norms) for each in found]
    return found


def _crossed(mixer: object) -> CrossAttention:
    assert isinstance(mixer, Attention)
    return CrossAttention(mixer.heads, mixer.kv_heads, mixer.head_dim, bias=mixer.bias)


def _layer(inner: Fields, family: Family, kind: str, index: int) -> Layer:
    mixer = mixers.mixer(inner, family, kind, index)
    alone = family.single and mixer is not None
    feed = None if alone else feeds.feed(inner, family, kind, index)
    return Layer(mixer, feed, norms=family.norms)


def _encoder(inner: Fields, family: Family, text_type: str) -> tuple[tuple[Layer, ...], int]:
    if text_type not in ("whisper", "bart"):
        return (), 0
    heads = inner.number("encoder_attention_heads")
    hidden = inner.number("d_model")
    dim = hidden // heads
    attention = Attention(heads, heads, dim, dim, causal=False, bias=True, output_bias=True)
    layer = Layer(attention, feeds.dense(inner, family))
    positions = inner.number("max_source_positions", "max_position_embeddings")
    return (layer,) * inner.number("encoder_layers"), positions


def _drafting(inner: Fields, family: Family, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The multi-token-prediction layers: each like the last that looks at everything."""
    count = inner.number("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0)
    if not count:
        return ()
    like = [each for each in layers if isinstance(each.mixer, Attention | Latent)]
    if not like:
        raise Refusal("the shape of the multi-token-prediction layers")
    # One such layer has an indexer of its own, whatever the layers before share.
    own = [each for each in like if isinstance(m := each.mixer, Latent) and m.index_dim]
    return ((own or like)[-1],) * count


def _rotary(inner: Fields, family: Family, layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """Elements of each table of sines and cosines that the engine keeps beside the weights."""
    if not family.rotary:
        return ()
    positions = inner.number(*POSITIONS, default=0)
    scaling = inner.within("rope_scaling", "rope_parameters")
    if scaling and scaling.get("rope_type", "type") == "yarn":
        original = scaling.number("original_max_position_embeddings", default=positions)
        positions = math.ceil(original * float(scaling.get("factor") or 1))
    if family.mixed_rope:
        positions *= 4
    dims = set()
    for layer in layers:
        if isinstance(layer.mixer, Attention):
            share = inner.get("partial_rotary_factor") or (
                scaling.get("partial_rotary_factor") if scaling else None
            )
            local = layer.mixer.window is not None
            dims.add((int(layer.mixer.head_dim * float(share or 1)), local and family.norms == 4))
        elif isinstance(layer.mixer, Latent):
            dims.add((layer.mixer.rope_dim, False))
    return tuple(positions * dim for dim, _ in sorted(dims))


def _extra(inner: Fields) -> int:
    """Gemma's embeddings for each layer; the convolutions before Whisper's encoder."""
    if bins := inner.number("num_mel_bins", default=0):
        wide = inner.number("d_model")
        return 3 * wide * (bins + wide)
    width = inner.number("hidden_size_per_layer_input", default=0)
    if not width:
        return 0
    count = inner.number("num_hidden_layers")
    rows = inner.number("vocab_size_per_layer_input", default=inner.number("vocab_size"))
    hidden = inner.number("hidden_size")
    return rows * width * count + hidden * width * count + count * 2 * hidden * width


def _unbounded(layers: tuple[Layer, ...]) -> int:
    if any(isinstance(each.mixer, Attention) for each in layers):
        raise Refusal("max_position_embeddings in config.json")
    return 1 << 20  # a model of states alone has no bound of its own


def _kv_dtype(outer: Fields) -> str | None:
    """What the checkpoint's own quantisation says of the cache."""
    stated = outer.within("quantization_config")
    if stated is None:
        return None
    if stated.within("kv_cache_scheme"):
        return "fp8"
    if str(stated.get("kv_cache_quant_algo") or "").upper() == "FP8":
        return "fp8"
    return None
