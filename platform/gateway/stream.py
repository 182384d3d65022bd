"""Server-sent events on their way from an engine to a client.

Engines write each event as one `data:` line of JSON. Whole lines are worked on as bytes: the
model's name is put back, usage that nobody asked for is taken out, and the last usage that went
by is kept. It says exactly how many tokens the client was handed, should the stream end early.
"""

import re

import msgspec

from gateway import engine_errors, engine_times, usage
from gateway.engine_times import EngineTimes
from gateway.request import Call
from gateway.usage import Usage

_RUNNING = re.compile(rb', ?"usage": ?(?:null|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_FINAL = re.compile(rb'(?m)^data: ?\{[^\n]*"choices": ?\[\][^\n]*\n(?:\r?\n)?')
_DELTA = re.compile(rb'"(?:delta": ?\{[^}]|text": ?")')
_DONE = b"data: [DONE]"
_LINE_DONE = b"\n" + _DONE  # a text may quote it, but in the midst of a line
_ERROR = b'data: {"error":'
_TOLD = re.compile(rb'(?m)^data: (\{"error":[^\n]*)$')
_MAX_LINE = 16 << 20  # logprobs make long lines; an engine that never ends one is broken


class Gone(Exception):
    """The engine says that it is about to end: nothing follows. `kind`: as it is counted."""

    kind = "lost"


class TooLong(Gone):
    """An event grew beyond what any engine sends."""

    kind = "garbled"


class _Choice(msgspec.Struct):
    index: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: msgspec.Raw = msgspec.Raw(b"null")


_EVENT = msgspec.json.Decoder(_Event)


class Rewriter:
    """One stream. Feed it what arrives; send what it returns; then ask it for `delivered`."""

    __slots__ = (
        "_call",
        "_engine_model",
        "_events",
        "_last",
        "_model",
        "_rest",
        "_shares",
        "done",
        "failed",
        "final",
        "times",
    )

    def __init__(self, call: Call, engine_model: str) -> None:
        self._call = call
        self._engine_model = engine_model
        self._model = renaming(engine_model, call.model)
        self._rest = b""
        self._last = b""  # from the newest usage object on
        self._events = 0  # events with text, for engines that report no usage
        self._shares: dict[int, Usage] = {}  # by choice, where there are several
        self.final: Usage | None = None  # the engine's own sum, at the end
        self.times: EngineTimes | None = None  # … and its account of the time it took
        self.done = False  # the engine said that nothing follows
        self.failed = False  # it reported an error in the midst of it

    def feed(self, data: bytes) -> bytes:
        """The bytes that may leave; what follows the last line end waits.

        Raises Gone: what came with the news neither leaves nor counts.
        """
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n") + 1
        if end == len(data):
            self._rest = b""
        else:
            self._rest = data[end:]
            if len(self._rest) > _MAX_LINE:
                raise TooLong("an event without an end")
            data = data[:end]
        return self._whole(data) if data else b""

    def rest(self) -> bytes:
        """What is left when the engine has ended: a line without an end. Raises Gone."""
        rest, self._rest = self._rest, b""
        return self._whole(rest) if rest else b""

    def _whole(self, data: bytes) -> bytes:
        if _ERROR in data:
            data = _TOLD.sub(lambda found: self._told(found[1]), data)
        if self._model is not None:
            data = rename(data, self._model)
        at = data.rfind(b'"usage":')
        if at >= 0:
            self._last = data[at:]
            if self._call.several:
                self._share(data)
        else:
            self._events += len(_DELTA.findall(data))
        if b'"choices":[]' in data or b'"choices": []' in data:
            data = self._ended(data)
        elif at >= 0 and not self._call.wants_running_usage:
            data = _RUNNING.sub(b"", data)
        if _DONE in data and (data.startswith(_DONE) or _LINE_DONE in data):
            self.done = True
        return data

    def _told(self, error: bytes) -> bytes:
        """The line that takes the place of an engine's error, as `engine_errors` has it."""
        if engine_errors.dead(error):
            raise Gone("its own word")
        self.failed = True
        event = engine_errors.midway(error, self._call, self._engine_model).event(
            self._call.operation.shape
        )
        return event[event.index(b"data: ") :].rstrip()

    def _ended(self, data: bytes) -> bytes:
        """Handles lines among which stands the event with the sum (rare: once a stream)."""
        found = _FINAL.search(data)
        if found is None:
            return data
        self.final = usage.last(found[0]) or self.final
        self.times = engine_times.last(found[0])
        before, after = data[: found.start()], data[found.end() :]
        if not self._call.wants_running_usage:
            before = _RUNNING.sub(b"", before)
        return before + (found[0] if self._call.wants_usage else b"") + after

    def _share(self, data: bytes) -> None:
        for line in data.splitlines():
            if line.startswith(b"data:") and b'"usage":' in line:
                try:
                    event = _EVENT.decode(line[5:])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue
                if event.choices and (found := usage.decode(event.usage)):
                    self._shares[event.choices[0].index] = found

    def delivered(self) -> tuple[Usage, str]:
        """What the client was handed so far, and who counted it: engine, delivered or events.

        `engine`: the engine's own sum. `delivered`: its running count at the last event that
        left. `events`: it counts nothing, so each event with text is taken for one token, and the
        prompt is judged by its length.
        """
        if self.final is not None:
            return self.final, "engine"
        if self._shares:
            return self._summed(), "delivered"
        found = usage.last(self._last)
        if found is not None:
            return found, "delivered"
        if not self._events:
            return usage.NONE, "delivered"
        counted = usage.guess(self._call.size)
        return Usage(counted.input, 0, self._events), "events"

    def _summed(self) -> Usage:
        prompts: dict[int, int] = {}  # choices of one prompt share it
        for index, share in self._shares.items():
            prompt = index // self._call.choices
            prompts[prompt] = max(prompts.get(prompt, 0), share.input)
        output = sum(share.output for share in self._shares.values())
        return Usage(sum(prompts.values()), 0, output)


def rename(data: bytes, names: tuple[bytes, bytes]) -> bytes:
    """Put the second of `renaming` in the first one's place, wherever it stands."""
    old, new = names
    if old in data:
        return data.replace(old, new)
    return data.replace(old.replace(b":", b": ", 1), new)  # an engine that writes spaces


def renaming(engine_model: str, model: str) -> tuple[bytes, bytes] | None:
    """What to replace by what so that a reply names the model as the client did."""
    if engine_model == model:
        return None
    return _named(engine_model), _named(model)


def _named(model: str) -> bytes:
    return b'"model":' + msgspec.json.encode(model)
