"""Streams of typed events: OpenAI's responses and Anthropic's messages.

Each event says what it is (`"type": …`), usage stands at the end alone (and, for messages, the
prompt's at the beginning), and both may quote JSON that a client wrote. So an event that carries
usage is decoded; all others pass as bytes.
"""

import re

import msgspec

from gateway import stream, usage
from gateway.operations import Shape
from gateway.request import Call
from gateway.stream import Rewriter
from gateway.usage import Usage

# Quotes within JSON strings are escaped: these stand in no text. A key of quoted JSON may look
# like it; whoever sees one counts an event too many in a stream that is cut, and nowhere else.
_STEP = re.compile(rb'"type": ?"(?:response\.[a-z_.]+\.delta|content_block_delta)"')
_TELLING = re.compile(
    rb'"type": ?"(?:response\.(?:completed|incomplete|failed)|message_(?:start|delta|stop)|error)"'
)
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})
_FAILURES = frozenset({"response.failed", "error"})


class _Bearer(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct):
    type: str = ""
    response: _Bearer | None = None  # of a response's last event
    message: _Bearer | str | None = None  # of message_start; of a response's error it is text
    usage: msgspec.Raw = msgspec.Raw(b"null")  # of message_delta


class _Output(msgspec.Struct):
    output_tokens: int = 0


_EVENT = msgspec.json.Decoder(_Event)
_OUTPUT = msgspec.json.Decoder(_Output)


class TypedRewriter(Rewriter):
    """Both of them; their events do not clash."""

    __slots__ = ("_start",)

    def __init__(self, call: Call, engine_model: str) -> None:
        super().__init__(call, engine_model)
        self._start: Usage | None = None  # the prompt's tokens, told at the beginning

    def _whole(self, data: bytes) -> bytes:
        if self._model is not None:
            data = stream.rename(data, self._model)
        if _TELLING.search(data):
            return b"".join(map(self._look, data.splitlines(keepends=True)))
        self._events += len(_STEP.findall(data))
        return data

    def _look(self, line: bytes) -> bytes:
        """The line as it may leave."""
        if not line.startswith(b"data:"):
            return line
        try:
            event = _EVENT.decode(line[5:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return line
        kind = event.type
        if kind == "content_block_delta" or kind.endswith(".delta"):
            self._events += 1
        elif kind == "message_start" and isinstance(event.message, _Bearer):
            self._start = usage.decode(event.message.usage)
        elif kind == "message_delta":
            self._sum(event.usage)
        if event.response is not None and kind in _ENDS:
            self.final = usage.decode(event.response.usage)
        if kind in _FAILURES:
            self.failed = True
        if kind in _ENDS:
            self.done = True
        if kind == "error":
            text = line.rstrip()
            return self._told(text[5:]) + line[len(text) :]
        return line

    def _sum(self, raw: bytes) -> None:
        """Of a message, which may leave out what its beginning told."""
        found = usage.decode(raw)
        if found is None and self._start is not None and (output := _output(raw)):
            found = Usage(self._start.input, self._start.cached, output)
        self.final = found or self.final

    def delivered(self) -> tuple[Usage, str]:
        if self.final is not None:
            return self.final, "engine"
        started = self._start
        if not self._events:
            return started or usage.NONE, "delivered"
        started = started or usage.guess(self._call.size)
        output = max(started.output, self._events)
        return Usage(started.input, started.cached, output), "events"


def _output(raw: bytes) -> int:
    try:
        return _OUTPUT.decode(raw).output_tokens
    except msgspec.DecodeError:
        return 0


def rewriter(call: Call, engine_model: str) -> Rewriter:
    if call.operation.shape is Shape.CHAT:
        return Rewriter(call, engine_model)
    return TypedRewriter(call, engine_model)
