"""A small engine that speaks HTTP on a unix socket as vLLM does, with faults on demand.

The request's `user` field says how it behaves, e.g. "tokens=64;delay=0.01;die=5":

    tokens  how many to generate (10)      pack   tokens in one event (1)
    delay   seconds before each event (0)  split  bytes in one write (all)
    die     close after so many events     error  answer with this status
    silent  never answer                   plain  report no usage
    fill    letters in one token (3)       idle   close the connection after the answer
    stall   say no more after so many events      trail  leave the body without its end
    times   report so many ms in its queue and of decoding, such as 5/20
    gate    answer only once the engine's gate is open
    say     words that its answer, or its error, begins with
    core    say that the engine's core has died, after so many events or in an answer's place
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gateway import fake_shapes
from tests.gateway.fake_forms import Ear
from tests.gateway.fake_shapes import CACHED_TOKENS, PROMPT_TOKENS

__all__ = ["CACHED_TOKENS", "PROMPT_TOKENS", "FakeEngine"]

TYPED = ("/v1/responses", "/v1/messages")
STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\nserver: uvicorn\r\n\r\n"
)


# As vLLM's server says it, which lives a moment longer.
CORE_DIED = {
    "error": {
        "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
}


class HangUp(Exception):
    """The engine itself ends the connection."""


@dataclass
class Seen:
    """One request as the engine got it, and what became of it."""

    path: str
    headers: dict[str, str]
    raw: bytes
    generated: int = 0
    aborted: bool = False

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def most_tokens(self) -> int:
        try:
            return PROMPT_TOKENS + int(self.body.get("max_tokens") or 0)
        except ValueError:
            return PROMPT_TOKENS  # a form, which is no JSON


@dataclass
class FakeEngine:
    socket: Path
    model: str
    adapters: tuple[str, ...] = ()
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    faults: str = ""  # of this engine, whatever a request says
    wedged: bool = False  # takes requests and answers none
    hurries: bool = False  # from now on without delays
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    ear: Ear = field(default_factory=Ear)
    at_once: int = 0  # requests that are being answered
    most_at_once: int = 0
    tokens: int = 0  # that these may need: their prompts, and what they ask for
    most_tokens: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket, limit=32 << 20)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self.socket.unlink(missing_ok=True)

    def hang_up(self) -> None:
        """Close idle connections, as an engine does after its keep-alive time."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, HangUp):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.strip().split("\r\n")
                headers = {name.lower(): value for name, value in (h.split(": ", 1) for h in rest)}
                early: int | None = None
                if "content-length" in headers:
                    raw = await reader.readexactly(int(headers["content-length"]))
                else:
                    raw, early = await self.ear.hear(headers, reader, writer)
                seen = Seen(line.split(" ")[1], headers, raw)
                self.seen.append(seen)
                if early is not None:
                    _json(writer, early, {"detail": "Not Found"})
                    await writer.drain()
                    raise HangUp
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                tokens = seen.most_tokens
                self.tokens += tokens
                self.most_tokens = max(self.most_tokens, self.tokens)
                try:
                    await self._answer(seen, reader, writer)
                except ConnectionError:
                    seen.aborted = True
                    raise
                finally:
                    self.at_once -= 1
                    self.tokens -= tokens
        self._writers.discard(writer)
        writer.close()

    async def _answer(
        self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        body = seen.body
        wish = f"{body.get('user') or ''};{self.faults}"
        how = dict(part.split("=") for part in wish.split(";") if part)
        if "silent" in how or self.wedged:
            await reader.read(1)
            raise ConnectionError
        if "gate" in how:
            gone = asyncio.ensure_future(reader.read(1))
            opened = asyncio.ensure_future(self.gate.wait())
            await asyncio.wait((gone, opened), return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            if gone.done():
                raise ConnectionError
            gone.cancel()
            await asyncio.sleep(0)
        known = (self.model, *self.adapters)
        if "error" in how:
            message = {
                "400": "This model's maximum context length is 64 tokens, you asked for 99.",
                "418": f"The model {self.model} does not like tea.",
            }.get(how["error"], "Traceback: /srv/secret/path")
            message = how.get("say", "") + message
            await self._pause(how, reader)
            _json(writer, int(how["error"]), _error(message, int(how["error"])))
        elif seen.path == "/v1/embeddings":
            _json(writer, 200, self._embeddings(body))
        elif body["model"] not in known:
            _json(writer, 404, _error(f"The model `{body['model']}` does not exist.", 404))
        elif seen.path == "/v1/nothing":
            _json(writer, 404, {"detail": "Not Found"})
        elif body.get("stream") and seen.path in TYPED:
            await self._typed(seen, how, reader, writer)
        elif body.get("stream"):
            await self._stream(seen, how, reader, writer)
        else:
            await self._pause(how, reader)
            tokens = int(how.get("tokens", 10))
            seen.generated = tokens
            if "die" in how:
                raise HangUp
            if "core" in how:
                _json(writer, 500, CORE_DIED)
                return await writer.drain()
            _json(writer, 200, self._whole(seen, body, tokens, how))
        await writer.drain()
        if "idle" in how:
            raise HangUp

    async def _pause(self, how: dict[str, str], reader: asyncio.StreamReader) -> None:
        delay = float(how.get("delay", 0))
        if not delay or self.hurries:
            return
        try:
            async with asyncio.timeout(delay):
                await reader.read(1)
        except TimeoutError:
            return
        raise ConnectionError

    def _whole(
        self, seen: Seen, body: dict[str, Any], tokens: int, how: dict[str, str]
    ) -> dict[str, Any]:
        if (other := fake_shapes.whole(seen.path, body, tokens)) is not None:
            return {**other, "usage": None} if "plain" in how else other
        text = how.get("say", "") + "tok" * tokens
        if seen.path == "/v1/completions":
            choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "length"}
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
        kind = "text_completion" if "text" in choice else "chat.completion"
        reply = {
            "id": f"chatcmpl-{seen.headers['x-request-id']}",
            "object": kind,
            "created": 1,
            "model": body["model"],
            "choices": [choice],
        }
        if "plain" not in how:
            reply["usage"] = _usage(tokens, cached=True)
        if "times" in how:
            queue, decode = how["times"].split("/")
            reply["metrics"] = {"generation_time_ms": float(decode), "queue_time_ms": float(queue)}
        return reply

    def _embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        size = int(body.get("dimensions") or 4)
        return {
            "id": "embd-1",
            "object": "list",
            "created": 1,
            "model": body["model"],
            "data": [{"index": 0, "object": "embedding", "embedding": [0.5] * size}],
            "usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS},
        }

    async def _stream(
        self,
        seen: Seen,
        how: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        body = seen.body
        options = body.get("stream_options") or {}
        running = options.get("continuous_usage_stats") and "plain" not in how
        writer.write(STREAM)
        base = {
            "id": f"chatcmpl-{seen.headers['x-request-id']}",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body["model"],
        }
        tokens, pack = int(how.get("tokens", 10)), int(how.get("pack", 1))
        prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        choices = int(body.get("n") or 1) * prompts
        events = 0
        while seen.generated < tokens * choices:
            await self._pause(how, reader)
            if how.get("die") == str(events):
                raise HangUp
            if how.get("core") == str(events):
                return await self._event(writer, CORE_DIED, how)
            if how.get("stall") == str(events):
                await reader.read(1)
                raise ConnectionError
            said = how.get("say", "") if not events else ""
            share = min(pack, tokens - seen.generated // choices)
            for index in range(choices):
                text = said + "é" * int(how.get("fill", 3)) * share
                choice: dict[str, Any] = {"index": index, "finish_reason": None}
                if seen.path == "/v1/completions":
                    choice["text"] = text
                else:
                    choice["delta"] = {"content": text + ' "usage":{"prompt_tokens":99}'}
                seen.generated += share
                event = {**base, "choices": [choice]}
                if running:
                    event["usage"] = _usage((seen.generated + choices - 1 - index) // choices)
                await self._event(writer, event, how)
            events += 1
        if options.get("include_usage") and "plain" not in how:
            used = _usage(seen.generated, cached=True, prompts=prompts)
            final = {**base, "choices": [], "usage": used}
            await self._event(writer, final, how)
        _chunks(writer, b"data: [DONE]\n\n", how)
        if "trail" in how:
            await writer.drain()
            raise HangUp
        writer.write(b"0\r\n\r\n")

    async def _typed(
        self,
        seen: Seen,
        how: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        writer.write(STREAM)
        events = fake_shapes.events(seen.path, seen.body, int(how.get("tokens", 10)))
        for at, event in enumerate(events):
            await self._pause(how, reader)
            if how.get("die") == str(at):
                raise HangUp
            _chunks(writer, event, how)
            await writer.drain()
            seen.generated += b'"tok"' in event
        writer.write(b"0\r\n\r\n")

    async def _event(
        self, writer: asyncio.StreamWriter, event: dict[str, Any], how: dict[str, str]
    ) -> None:
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        _chunks(writer, b"data: " + data + b"\n\n", how)
        await writer.drain()


def _chunks(writer: asyncio.StreamWriter, data: bytes, how: dict[str, str]) -> None:
    size = int(how.get("split", len(data)))
    for at in range(0, len(data), size):
        if writer.is_closing():  # uvloop says so in an error of no connection
            raise ConnectionResetError
        piece = data[at : at + size]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def _usage(tokens: int, *, cached: bool = False, prompts: int = 1) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": PROMPT_TOKENS * prompts,
        "total_tokens": PROMPT_TOKENS * prompts + tokens,
        "completion_tokens": tokens,
    }
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": CACHED_TOKENS, "audio_tokens": None}
    return usage


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}


def _json(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nserver: uvicorn\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(raw) + raw)
