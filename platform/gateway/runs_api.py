"""`POST /v1/runs/{run}/stop` and `/resume`: the run as `x-stoa-run` names it, or its `run_…`."""

import asyncio
import re
import time
from urllib.parse import unquote

import msgspec

from billing import pseudonyms
from gateway import errors, reply, timing
from gateway.client import Client, Request
from gateway.context import Context

BASE = "/v1/runs/"
_PATH = re.compile(rf"{BASE}(.+)/(stop|resume)")
_TELL_S = 1.5
_UNTOLD = (
    "PostgreSQL cannot be reached: only the worker that answered you knows. The others are told"
    " as soon as it is back."
)


def named(path: str) -> bool:
    return path.startswith(BASE) and _PATH.fullmatch(path) is not None


class RunCommand:
    """One such request. What happens to its client changes nothing: a stop is a stop."""

    __slots__ = ("_client", "_context", "_gone", "_request", "_task")

    def __init__(self, context: Context, client: Client, request: Request) -> None:
        self._context = context
        self._client = client
        self._request = request
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Raises ApiError for a name that is none."""
        key, found = self._request.key, _PATH.fullmatch(self._request.path)
        assert key is not None
        assert found is not None
        name, stops = unquote(found[1]), self._context.stops
        ref = name
        if not pseudonyms.RUN_REF.fullmatch(name):
            ref = self._context.runs.named(key.project_id, name)
        stopped = found[2] == "stop"
        ended = 0
        if stopped:
            ended = stops.stop(key.project_id, ref)
        else:
            stops.resume(key.project_id, ref)
        self._client.running = self
        work = self._tell(key.project_id, ref, key.id, stopped, ended)
        self._task = asyncio.get_running_loop().create_task(work)

    async def _tell(
        self, project_id: str, ref: str, key_id: str, stopped: bool, ended: int
    ) -> None:
        told = await self._context.stops.tell(
            project_id, ref, key_id, stopped=stopped, within_s=_TELL_S
        )
        if self._gone:
            return
        answer: dict[str, object] = {
            "object": "run", "id": ref, "stopped": stopped, "aborted_here": ended,
            "told_everywhere": told,
        }  # fmt: skip
        if not told:
            answer["warning"] = _UNTOLD
        asked, client = self._request, self._client
        client.count(asked, "runs", 200)
        keep = asked.keep_alive and not self._context.draining
        identity = reply.identity(asked.id, asked.headers.get(b"x-request-id"))
        lines = identity, timing.header(asked.timing.split(time.monotonic()))
        body = msgspec.json.encode(answer)
        client.answer(asked, reply.whole(200, reply.JSON, body, lines, keep_alive=keep), keep)

    # --- from the client ------------------------------------------------------------------
    def client_gone(self) -> None:
        self._gone = True

    def client_slow(self) -> None: ...
    def client_ready(self) -> None: ...

    def gateway_leaves(self) -> None:
        self._gone = True
        self._client.count(self._request, "runs", 503, errors.draining())
        self._client.refuse(self._request, errors.draining())

    def timed_out(self) -> None:
        self._client.abort()
