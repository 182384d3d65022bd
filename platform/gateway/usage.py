"""Tokens: read from what an engine reported, never guessed in silence."""

import math
import re
from dataclasses import dataclass

import msgspec

from gateway.operations import Operation

# A usage object: braces within it nest once (…_details). Quotes inside JSON strings are escaped,
# so this cannot match in generated text.
OBJECT = re.compile(rb'"usage": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


# What generated text stands in, in the replies of all operations.
_TEXT = re.compile(
    rb'"(?:content|text|arguments|reasoning|reasoning_content|thinking)": ?"((?:[^"\\]|\\.)*)"'
)
_LETTERS = 4  # of a token, where nobody counted: about that of English
HEARD = 100  # tokens of a second of sound: what vLLM counts in Whisper's streams, more than others


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Reported(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None  # the responses' and the messages' names
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    # The messages' input_tokens are without these two.
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    total_tokens: int | None = None  # all that some rerankers tell


class _Whole(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Seconds(msgspec.Struct):
    seconds: float = 0.0


class _Heard(msgspec.Struct):
    usage: _Seconds | None = None
    duration: float = 0.0  # of a verbose transcription


_DECODER = msgspec.json.Decoder(_Reported)
_HEARD_DECODER = msgspec.json.Decoder(_Heard, strict=False)
_WHOLE = msgspec.json.Decoder(_Whole)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `cached` are those of `input` that came from the prefix cache."""

    input: int = 0
    cached: int = 0
    output: int = 0


NONE = Usage()


def decode(raw: bytes) -> Usage | None:
    """The usage object in `raw`; None where it is none."""
    try:
        found = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.prompt_tokens is None:
        return _otherwise(found)
    details = found.prompt_tokens_details
    cached = details.cached_tokens if details else 0
    return _usage(found.prompt_tokens, cached, found.completion_tokens)


def _otherwise(found: _Reported) -> Usage | None:
    if found.input_tokens is not None:
        read, written = found.cache_read_input_tokens, found.cache_creation_input_tokens
        details = found.input_tokens_details
        cached = details.cached_tokens if details else read
        tokens = found.input_tokens + (read or 0) + (written or 0)
        return _usage(tokens, cached, found.output_tokens)
    if found.total_tokens is not None:
        return _usage(found.total_tokens, 0, 0)
    return None


def _usage(tokens: int, cached: int | None, output: int | None) -> Usage:
    tokens = max(0, tokens)
    return Usage(tokens, min(max(0, cached or 0), tokens), max(0, output or 0))


def last(data: bytes) -> Usage | None:
    """The last usage object in `data`."""
    at = data.rfind(b'"usage":')
    found = OBJECT.match(data, at) if at >= 0 else None
    return decode(found[1]) if found else None


def whole(body: bytes) -> Usage | None:
    """The usage of a whole reply: that at its top, whatever JSON of the client's it quotes."""
    try:
        return decode(_WHOLE.decode(body).usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def guess(prompt_bytes: int, body: bytes = b"") -> Usage:
    """For an engine that counts no tokens: by the letters, and the seconds of what was heard.

    Whoever books it says so (`counted_by`).
    """
    letters = sum(len(text) for text in _TEXT.findall(body))
    if body and not body.startswith(b"{"):
        letters = len(body)  # a transcription as plain text
    tokens = -(-prompt_bytes // _LETTERS) + math.ceil(_seconds(body) * HEARD)
    return Usage(max(1, tokens), 0, -(-letters // _LETTERS))


def _seconds(body: bytes) -> float:
    if b'"seconds"' not in body and b'"duration"' not in body:
        return 0.0
    try:
        found = _HEARD_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0.0
    seconds = found.usage.seconds if found.usage is not None else found.duration
    return seconds if 0 < seconds < 1e6 else 0.0


def counted(
    operation: Operation, size: int, body: bytes, tail: int, *, cut: bool
) -> tuple[Usage, str]:
    """The tokens of a reply that is whole, or (`cut`) whose end this is; and who counted them.

    `size` is the request's. Usage that stands last is looked for in the last `tail` bytes first.
    """
    if not operation.counts:
        return NONE, "engine"
    used = last(body[-tail:]) if operation.usage_last or cut else None
    used = used or whole(body)
    if used is not None:
        return used, "engine"
    return guess(size, body if operation.generates else b""), "text"
