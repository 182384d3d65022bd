"""What an engine says about its own time, at the end of an answer.

vLLM does with `--enable-per-request-metrics`; other engines, and answers with several choices,
say nothing.
"""

import re

import msgspec

_NAME = b'"metrics":'
# The same holds as for usage.OBJECT: this cannot match in generated text.
_OBJECT = re.compile(rb'"metrics": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class EngineTimes(msgspec.Struct, gc=False):
    """In milliseconds: waiting in the engine, and from the first token to the last."""

    queue: float = msgspec.field(default=0.0, name="queue_time_ms")
    decode: float | None = msgspec.field(default=None, name="generation_time_ms")


_DECODER = msgspec.json.Decoder(EngineTimes)


def last(data: bytes) -> EngineTimes | None:
    """What stands last in `data`; None where nothing does."""
    at = data.rfind(_NAME)
    if at < 0:
        return None
    begin = at + len(_NAME)
    try:
        # Nothing is nested in it as a rule, and then its end is the next brace.
        return _DECODER.decode(data[begin : data.find(b"}", begin) + 1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    found = _OBJECT.match(data, at)
    if found is None:
        return None
    try:
        return _DECODER.decode(found[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
