"""Fields of a request body that steer the engine rather than the sampling: refused.

A closed list for vLLM up to 0.32 and TensorRT-LLM up to 1.2. Sampling fields pass, and so does
what an engine does not know. `cache_salt` is ours to set: with it one tenant could read another's
prefix cache.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from gateway.errors import ApiError, bad_request

REFUSED = frozenset(
    {
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "cache_salt",
        "chat_template",
        "data_parallel_rank",
        "disaggregated_params",
        "ec_transfer_params",
        "guided_decoding_backend",
        "kv_transfer_params",
        "logits_processors",
        "lora_path",
        "lora_request",  # a path on the node
        "media_io_kwargs",
        "mm_payload",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",  # pickled tensors
        "request_id",
        "return_mm_kwargs",
        "routed_experts_prompt_start",
        "session_id",
        "stream_interval",  # withholds tokens, so that a cut stream would be free
        "vllm_xargs",
    }
)

# Keys inside `chat_template_kwargs` that replace the template itself.
_TEMPLATE_KEYS = frozenset({"chat_template", "tokenize"})

# Parts of a message that make the engine fetch something, or load tensors.
_MEDIA_KEYS = ("image_url", "audio_url", "video_url", "file_url", "input_image", "input_video")
_TENSOR_KEYS = ("image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil")
_INLINE = "data:"
_INNER = ("content", "output")  # where a message's or a tool's parts stand
# Fields of a response that lean on one kept before.
_STORED = ("previous_response_id", "conversation", "background")
# Most messages are text alone: a scan for the names is cheaper than decoding them. A key may hide
# in \\u escapes, so those are decoded too.
_MAYBE = re.compile(rb"_url|_embeds|_pil|input_|\\u")
_MAYBE_SOURCE = re.compile(rb'"source"')
_DATA = re.compile(rb'"data:[^"]*"|"data": ?"[^"]*"')


def refuse_control(names: Iterable[str]) -> None:
    """Raises 400 for the first field of a body that belongs to the engine."""
    for name in names:
        if name in REFUSED:
            message = f"The field `{name}` controls the engine and cannot be set by a request."
            raise bad_request("unsupported_parameter", message, name)


def refuse_template(raw: msgspec.Raw) -> None:
    """Raises 400 where `chat_template_kwargs` smuggles a template."""
    given = msgspec.json.decode(raw)
    if isinstance(given, dict) and (found := _TEMPLATE_KEYS & given.keys()):
        param = f"chat_template_kwargs.{min(found)}"
        message = f"The field `{param}` controls the engine and cannot be set by a request."
        raise bad_request("unsupported_parameter", message, param)


def refuse_stored(fields: Mapping[str, msgspec.Raw]) -> None:
    """Raises 400 for a response that goes on from one that was never kept."""
    for name in _STORED:
        if bytes(fields.get(name, b"null")) not in (b"null", b"false"):
            message = f"Responses are not stored here, so `{name}` cannot be used."
            raise bad_request("unsupported_parameter", message, name)


def refuse_media(raw: msgspec.Raw, param: str, *, sources: bool = False) -> int:
    """The bytes of media that a message carries; with `sources`, also in Anthropic's way.

    Raises 400 where it points the engine at an address instead of carrying its data.
    """
    if not _MAYBE.search(raw) and not (sources and _MAYBE_SOURCE.search(raw)):
        return 0
    _walk(msgspec.json.decode(raw), param)
    return sum(len(found[0]) for found in _DATA.finditer(raw))


def _walk(value: object, param: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, f"{param}[{index}]")
    elif isinstance(value, dict):
        for key in _TENSOR_KEYS:
            if key in value or value.get("type") == key:
                raise _refused(f"Parts of type `{key}` are not accepted.", f"{param}.{key}")
        for key in _MEDIA_KEYS:
            if key in value:
                _inline_only(value[key], f"{param}.{key}")
        source = value.get("source")  # of Anthropic's parts
        if isinstance(source, dict) and "url" in source:
            _inline_only(source["url"], f"{param}.source.url")
        for key in _INNER:
            if key in value:
                _walk(value[key], f"{param}.{key}")


def _inline_only(media: object, param: str) -> None:
    url = media.get("url") if isinstance(media, dict) else media
    if isinstance(url, str) and not url.lstrip()[:5].lower() == _INLINE:
        raise _refused("Media must be sent inline as data: URLs, not as addresses.", param)


def _refused(message: str, param: str) -> ApiError:
    return bad_request("unsupported_media_url", message, param)
