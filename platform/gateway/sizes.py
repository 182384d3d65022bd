"""How large a request is, read off its body before any engine counts its tokens. Pure.

What stands in the JSON is never shorter than what an engine's template makes of it, but for a
constant; so bytes bound tokens from above (a token of a byte-level vocabulary is a byte at
least). Media inside `data:` URLs are bytes that become few tokens: they are counted apart.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.request import Call

LONGEST_TOKEN = 256  # bytes; of the vocabularies in use, the longest is a run of 128 spaces

# Besides an operation's own prompts: what templates write into the prompt.
_TEMPLATED = frozenset({"tools", "functions", "documents", "instructions"})
_ASKED = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_TEMPLATE_TOKENS = 512  # a template's own words: a default system prompt, how to call tools
_MEDIA_TOKENS = 4096  # of one image or a short recording, by a rule of thumb
_MEDIA = re.compile(rb'"data(?::|": ?")[^"]{64,}"')
_MEDIA_FROM = 4096  # bytes: a shorter prompt is text
_OPENS, _QUOTE = b'["'
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(slots=True)
class Size:
    """`prompt_bytes` are those of the JSON, media apart."""

    prompt_bytes: int = 0
    media: int = 0
    token_ids: int = 0  # so many were given instead of text: the longest prompt of them
    prompts: int = 1
    choices: int = 1
    asked: int | None = None  # the most output tokens of each choice, if the client said

    @property
    def most(self) -> int:
        """No engine finds more tokens in all prompts together (in media, by a rule of thumb)."""
        if self.token_ids:
            return self.token_ids * self.prompts
        return self.prompt_bytes + self.media * _MEDIA_TOKENS + _TEMPLATE_TOKENS * self.prompts


def measure(call: Call) -> Size:
    fields, size = call.fields, Size(choices=call.choices)
    for name in call.operation.prompts:
        raw = fields.get(name)
        if raw is None:
            continue
        length = len(raw)
        if length > _MEDIA_FROM:
            for found in _MEDIA.finditer(raw):
                size.media += 1
                length -= len(found[0])
        size.prompt_bytes += length
        if name != "messages" and memoryview(raw)[0] == _OPENS:
            _listed(size, raw)
    if not call.operation.generates:
        return size
    size.asked = _asked(fields)
    names = fields.keys()
    if not _TEMPLATED.isdisjoint(names):
        # Templates may indent it.
        size.prompt_bytes += 2 * sum(len(fields[name]) for name in _TEMPLATED & names)
    return size


def _listed(size: Size, raw: msgspec.Raw) -> None:
    """Several prompts, or token ids instead of text."""
    try:
        items = _LIST.decode(raw)
        if items and memoryview(items[0])[0] == _OPENS:
            size.token_ids = max(len(_LIST.decode(item)) for item in items)
        elif items and bytes(items[0]).isdigit():
            size.token_ids = len(items)
            return
        elif items and memoryview(items[0])[0] != _QUOTE:
            return  # parts of one prompt
    except msgspec.DecodeError:
        return  # the engine says what is wrong with it
    size.prompts = max(1, len(items))


def _asked(fields: dict[str, msgspec.Raw]) -> int | None:
    """The largest, where several stand there: which of them counts is the engine's affair."""
    most: int | None = None
    for name in _ASKED:
        raw = fields.get(name)
        if raw is None:
            continue
        text = bytes(raw)
        if text.isdigit() and len(text) < 19 and text != b"0":
            most = max(most or 0, int(text))
    return most


def least(call: Call) -> int:
    """No engine finds fewer tokens in the prompt: its letters alone, in the longest tokens.

    Decodes the whole prompt; ask only where it is large.
    """
    letters = sum(
        _letters(msgspec.json.decode(call.fields[name]))
        for name in call.operation.prompts
        if name in call.fields
    )
    return letters // LONGEST_TOKEN


def _letters(value: Any) -> int:
    """Of texts, not of media, nor of keys that no template reads."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_letters, value))
    if isinstance(value, dict):
        return _letters(value.get("content")) + _letters(value.get("text"))
    return 0
