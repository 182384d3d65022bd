"""What an engine says about its own time, at the end of an answer.

vLLM does with `--enable-per-request-metrics`; other engines, and answers with several choices,
say nothing.
"""

import re

import msgspec

# The same holds as for usage.OBJECT: this cannot match in generated text.
_OBJECT = re.compile(rb'"metrics": ?(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class EngineTimes(msgspec.Struct, gc=False):
    """In milliseconds: waiting in the engine, and from the first token to the last."""

    queue: float = msgspec.field(default=0.0, name="queue_time_ms")
    decode: float | None = msgspec.field(default=None, name="generation_time_ms")


_DECODER = msgspec.json.Decoder(EngineTimes)


def last(data: bytes) -> EngineTimes | None:
    """What stands last in `data`; None where nothing does."""
    at = data.rfind(b'"metrics":')
    found = _OBJECT.match(data, at) if at >= 0 else None
    if found is None:
        return None
    try:
        return _DECODER.decode(found[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
