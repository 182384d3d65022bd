"""What a request asks of an engine, as far as its body says so. Pure.

Tokens are counted by no tokenizer here: a token is about four bytes of the request's text, and
what JSON and roles add to that is about what a chat template adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

TOKEN_BYTES = 4
COMPLETION = 16  # tokens of a completion that says nothing: OpenAI's default, and vLLM's
MOST = 1 << 24  # tokens; beyond it nobody meant it
_TEXTS = ("messages", "prompt", "input", "instructions", "tools")
_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_MEDIA = tuple(b'"%b"' % name for name in (b"image_url", b"input_image", b"input_audio"))


@dataclass(frozen=True)
class Size:
    """`output` is the most that it may get, all answers together; None: as much as there is room
    for. `media`: pictures or sound are in it, which are not counted in its prompt."""

    prompt: int
    output: int | None
    media: bool = False


def of(url: str, body: Mapping[str, msgspec.Raw]) -> Size:
    """Of a request to `url` (`/v1/…`) whose body has these fields; what is no number is none."""
    texts = [bytes(body[name]) for name in _TEXTS if name in body]
    prompt = max(1, round(sum(map(len, texts)) / TOKEN_BYTES))
    media = any(mark in text for text in texts for mark in _MEDIA)
    return Size(min(prompt, MOST), _output(url, body), media)


def _output(url: str, body: Mapping[str, msgspec.Raw]) -> int | None:
    if url == "/v1/embeddings":
        return 1  # the step that reads a prompt is all there is
    bound = next((found for name in _BOUNDS if (found := _number(body, name))), None)
    if bound is None and url == "/v1/completions":
        bound = COMPLETION
    answers = (_number(body, "n") or 1) * _prompts(body)
    return None if bound is None else min(bound * answers, MOST)


def _number(body: Mapping[str, msgspec.Raw], name: str) -> int:
    try:
        return max(0, msgspec.json.decode(body[name], type=int))
    except (KeyError, msgspec.DecodeError):
        return 0


def _prompts(body: Mapping[str, msgspec.Raw]) -> int:
    """A completion may have a list of prompts, each a text or a list of tokens."""
    try:
        listed = msgspec.json.decode(body["prompt"], type=list[msgspec.Raw])
    except (KeyError, msgspec.DecodeError, RecursionError):
        return 1
    return len(listed) if listed and bytes(listed[0])[:1] in b'"[' else 1
