"""A form with a file that goes to the engine while it still arrives.

What comes before the file says what is asked; from then on each piece that arrives leaves again.
A slow engine, or one that has not started yet, stops the reading from the client. Only a form
whose file stands before its model must be kept until the model is known, and so is bounded.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway import engine_fields, reply, upstream
from gateway.errors import ApiError, bad_request, invalid_json
from gateway.forms import Form
from gateway.operations import Operation
from gateway.request import Call

_AHEAD = 256 << 10  # bytes that wait for the engine before the client is stopped
_REPLAY = 1 << 20  # what has left is kept up to here, for a second try
_TRUE = frozenset({b"true", b"1", b"t", b"yes", b"y", b"on"})
_FALSE = frozenset({b"", b"false", b"0", b"f", b"no", b"n", b"off"})
_USAGE, _RUNNING = "stream_include_usage", "stream_continuous_usage_stats"
_OURS = frozenset({"model", "stream", _USAGE, _RUNNING})  # we say these to the engine


class Source(Protocol):
    """Where the form comes from."""

    def stop(self) -> None: ...
    def go_on(self) -> None: ...


class Sink(Protocol):
    """Where it goes to: an engine's connection."""

    source: upstream.Source | None

    def write(self, data: bytes) -> None: ...


class Upload:
    """`admit` checks a model's name that comes after the request was sent on its way."""

    __slots__ = (
        "_call", "_clogged", "_form", "_headed", "_kept", "_kept_bytes", "_open", "_paused",
        "_seen", "_sink", "_source", "_waiting", "_waiting_bytes", "admit", "complete",
        "failed", "held_max",
    )  # fmt: skip

    def __init__(self, mark: bytes, source: Source, held_max: int) -> None:
        self.held_max = held_max
        self.admit: Callable[[str], None] | None = None
        self.failed: Callable[[ApiError], None] | None = None  # told of what is wrong late
        self.complete = False
        self._form = Form(mark)
        self._source = source
        self._call: Call | None = None
        self._open = True  # False: what still comes is dropped
        self._headed = False  # the file's head is under way
        self._seen = 0  # fields that were looked at
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._kept: list[bytes] | None = []  # what has left; None: too much to keep
        self._kept_bytes = 0
        self._sink: Sink | None = None
        self._clogged = self._paused = False

    # --- from the client --------------------------------------------------------------
    def feed(self, data: bytes) -> None:
        """Raises ApiError for what no engine should see."""
        if not self._open:
            return
        for piece in self._form.feed(data):
            self._head()
            self._put(piece)
        self._head()
        if self._call is not None:
            self._late()
        elif self._waiting_bytes > self.held_max and not self.ready:
            message = "A file of this size is taken only where `model` comes before it in the form."
            raise ApiError(413, "model_after_file", message, param="model")
        self._balance()

    def _head(self) -> None:
        if self._form.file and not self._headed:
            self._headed = True
            self._put(self._form.file)

    def end(self) -> None:
        """The body is complete. Raises ApiError."""
        if not self._open:
            return
        self._form.end()
        self.complete = True
        if self._call is not None:
            self._finish(self._call)

    @property
    def ready(self) -> bool:
        """Whether the request can be sent on its way: its file has begun, its model is known."""
        named = any(name == "model" for name, _ in self._form.fields)
        return bool(self._form.file) and (named or self.admit is not None)

    @property
    def awaited(self) -> bool:
        """Whether the client is to send more, and is not held up."""
        return self._open and not self.complete and not self._paused

    def close(self) -> None:
        """The request is over: drop what is there, and what may still come."""
        self._open = False
        self._sink = self._kept = None
        self._waiting.clear()
        self._waiting_bytes = 0
        self._balance()

    # --- what is asked ----------------------------------------------------------------
    def call(self, operation: Operation, default_model: str) -> Call:
        """What is known so far; `stream` may change until the body is complete. Raises 400."""
        call = Call(
            operation=operation, model="", stream=False, wants_usage=False,
            wants_running_usage=False, choices=1, several=False, size=0, fields={},
        )  # fmt: skip
        for name, value in self._form.fields:
            self._look(call, name, value)
        self._seen = len(self._form.fields)
        call.model = call.model or default_model
        if not call.model:
            raise bad_request("missing_required_parameter", "You must provide `model`.", "model")
        return call

    def _look(self, call: Call, name: str, value: bytes) -> None:
        engine_fields.refuse_control((name.partition("[")[0],))
        if name == "model":
            if call.model:
                raise _twice()
            call.model = _text(name, value)
            self.admit = None  # it is looked at like any request's
        elif name == "stream":
            call.stream = _flag(name, value)
        elif name == _USAGE:
            call.wants_usage = _flag(name, value)
        elif name == _RUNNING:
            call.wants_running_usage = _flag(name, value)
        elif name in call.operation.output_limits:
            call.fields[name] = msgspec.Raw(value)
        elif name in call.operation.prompts:
            call.size += len(value)
            call.fields[name] = msgspec.Raw(msgspec.json.encode(_text(name, value)))

    def _late(self) -> None:
        """Fields that come after the file."""
        call = self._call
        assert call is not None
        for name, value in self._form.fields[self._seen :]:
            if name == "model":
                if self.admit is None:  # then it has been there already
                    raise _twice()
                self.admit(_text(name, value))
                self.admit = None
            elif name in call.operation.output_limits and name in call.fields:
                continue  # it was bounded before
            else:
                self._look(call, name, value)
                if name not in _OURS:
                    self._put(self._form.field(name, value))
        self._seen = len(self._form.fields)

    # --- to the engine ----------------------------------------------------------------
    def open(self, call: Call, engine_model: str, request_id: str) -> bytes:
        """The head of the engine's request; the fields so far are put before the file."""
        form, self._call = self._form, call
        limits = call.operation.output_limits
        fields = [form.field("model", engine_model.encode())]
        fields += [
            form.field(name, bytes(call.fields[name])) for name in limits if name in call.fields
        ]
        for name, value in form.fields[: self._seen]:
            if name not in _OURS and name not in limits:
                fields.append(form.field(name, value))
        self._waiting[:0] = fields
        self._waiting_bytes += sum(map(len, fields))
        self._late()
        if self.complete:
            self._finish(call)
        return (
            b"POST %b HTTP/1.1\r\nhost: engine\r\nx-request-id: %b\r\n"
            b'content-type: multipart/form-data; boundary="%b"\r\n'
            b"transfer-encoding: chunked\r\n\r\n"
        ) % (call.operation.path.encode(), request_id.encode(), form.mark)

    def _finish(self, call: Call) -> None:
        form = self._form
        if call.stream:
            for name in ("stream", _USAGE, _RUNNING):
                self._put(form.field(name, b"true"))
        self._put(form.close())
        self._put(b"")
        self._balance()

    def attach(self, sink: Sink) -> bool:
        """Send on to this one, from the beginning; False where that is no longer at hand."""
        if self._kept is None:
            return False
        waiting, self._waiting = [*self._kept, *self._waiting], []
        self._waiting_bytes = 0
        self._kept, self._kept_bytes = [], 0
        self._sink, self._clogged = sink, False
        sink.source = self
        for piece in waiting:
            self._put(piece)
        self._balance()
        return True

    def detach(self) -> None:
        self._sink = None

    def _put(self, piece: bytes) -> None:
        """`b""` ends it."""
        if self._sink is None or self._clogged:
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)
            return
        if self._kept is not None:
            self._kept.append(piece)
            self._kept_bytes += len(piece)
            if self._kept_bytes > _REPLAY:
                self._kept = None
        self._sink.write(self._framed(piece))

    def _framed(self, piece: bytes) -> bytes:
        return reply.chunk(piece) if piece else reply.LAST_CHUNK

    def engine_slow(self) -> None:
        self._clogged = True
        self._balance()

    def engine_ready(self) -> None:
        self._clogged = False
        waiting, self._waiting = self._waiting, []
        self._waiting_bytes = 0
        for piece in waiting:
            self._put(piece)
        self._balance()

    def _balance(self) -> None:
        """Stop the client where too much waits, and let it go on when it has left."""
        stop = self._open and not self.complete and self.ready
        stop = stop and (self._clogged or self._waiting_bytes > _AHEAD)
        if stop != self._paused:
            self._paused = stop
            (self._source.stop if stop else self._source.go_on)()


def _twice() -> ApiError:
    return bad_request("invalid_type", "`model` stands there twice.", "model")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid_json(f"`{name}` is not UTF-8") from None


def _flag(name: str, value: bytes) -> bool:
    word = value.lower()
    if word not in _TRUE and word not in _FALSE:
        raise bad_request("invalid_type", f"`{name}` must be true or false.", name)
    return word in _TRUE
