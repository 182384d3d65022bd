"""Tokens: read from what an engine reported, never guessed in silence."""

import re
from dataclasses import dataclass

import msgspec

# A usage object: braces within it nest once (…_details). Quotes inside JSON strings are escaped,
# so this cannot match in generated text.
OBJECT = re.compile(rb'"usage": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Reported(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


_DECODER = msgspec.json.Decoder(_Reported)


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
        return None
    details = found.prompt_tokens_details
    tokens = max(0, found.prompt_tokens)
    cached = (details.cached_tokens or 0) if details else 0
    return Usage(tokens, min(max(0, cached), tokens), max(0, found.completion_tokens or 0))


def last(data: bytes) -> Usage | None:
    """The last usage object in `data`."""
    at = data.rfind(b'"usage":')
    found = OBJECT.match(data, at) if at >= 0 else None
    return decode(found[1]) if found else None
