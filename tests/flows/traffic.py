"""Clients that keep account of what they got, and the books to compare it with."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

import httpx

from billing.rating import SECONDS
from tests.flows.api import Api

T = TypeVar("T")

PROMPT = "import os"

End = Literal["complete", "cut", "broken", "refused"]


@dataclass
class Got:
    """One request as its client saw it. A stream's tokens are those that arrived so far.

    `cut` was ended by the client, `broken` by the other side; `refused` has a status of 400 up.
    """

    request_id: str
    status: int
    end: End
    most: int  # tokens that were asked for
    input_tokens: int = 0
    output_tokens: int = 0
    retry_after: str = ""
    replica: str = ""  # that answered
    error: dict[str, Any] = field(default_factory=dict)

    def count(self, usage: dict[str, Any]) -> None:
        self.input_tokens = usage["prompt_tokens"]
        self.output_tokens = usage["completion_tokens"]


class Client:
    """Completions of one key, each tried once."""

    def __init__(self, gateway_url: str, api_key: str) -> None:
        self.http = httpx.Client(
            base_url=f"{gateway_url}/v1",
            headers={"authorization": f"Bearer {api_key}"},
            timeout=180,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def ask(
        self,
        model: str,
        tokens: int = 5,
        *,
        wait_s: int | None = None,
        prompt: str | list[int] = PROMPT,
    ) -> Got:
        """A small answer in one piece; `wait_s` bounds the wait for a replica."""
        headers = {} if wait_s is None else {"x-stoa-wait": str(wait_s)}
        body = _body(model, tokens) | {"prompt": prompt}
        reply = self.http.post("/completions", json=body, headers=headers)
        if reply.status_code >= 400:
            return _refused(reply, tokens)
        got = Got(reply.headers["x-request-id"], reply.status_code, "complete", tokens)
        got.replica = reply.headers["x-stoa-replica"]
        got.count(reply.json()["usage"])
        return got

    def stream(self, model: str, tokens: int, choices: int = 1) -> "Stream":
        return Stream(self.http, model, tokens, choices)


class Stream:
    """One long answer, read a piece at a time; `got` says what came of it so far."""

    def __init__(self, http: httpx.Client, model: str, tokens: int, choices: int = 1) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = _body(model, tokens) | {"stream": True, "stream_options": options, "n": choices}
        tokens *= choices
        self._reply = http.send(http.build_request("POST", "/completions", json=body), stream=True)
        self.over = self._reply.status_code >= 400
        if self.over:
            self._reply.read()
            self.got = _refused(self._reply, tokens)
            self._reply.close()
            return
        self.got = Got(self._reply.headers["x-request-id"], 200, "cut", tokens)
        self.got.replica = self._reply.headers.get("x-stoa-replica", "")
        self._lines = self._reply.iter_lines()

    def read(self, more: int = 1_000_000) -> Got:
        """On, for so many tokens or to the end."""
        until = self.got.output_tokens + more
        while not self.over and self.got.output_tokens < until:
            try:
                line = next(self._lines, None)
            except httpx.HTTPError:
                line = None
            if line is None or line.startswith('data: {"error"'):
                self._end("broken")
            elif line == "data: [DONE]":
                self._end("complete")
            elif line.startswith("data: ") and (usage := json.loads(line[6:]).get("usage")):
                self.got.count(usage)
        return self.got

    def close(self) -> Got:
        """Go away; in the middle of the answer, if it is not over."""
        self.over = True
        self._reply.close()
        return self.got

    def _end(self, how: End) -> None:
        self.got.end = how
        self.close()


def _body(model: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}


def _refused(reply: httpx.Response, tokens: int) -> Got:
    return Got(
        reply.headers["x-request-id"],
        reply.status_code,
        "refused",
        tokens,
        retry_after=reply.headers.get("retry-after", ""),
        error=reply.json()["error"],
    )


class Crowd(Generic[T]):
    """Who asks again and again, `clients` at a time, from its beginning to its end."""

    def __init__(self, ask: Callable[[], T], clients: int = 1) -> None:
        self.answers: list[T] = []
        self.failures: list[Exception] = []
        self._ask, self._over = ask, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(self._ask())
            except Exception as error:  # whatever a client may meet: nothing of it is expected
                self.failures.append(error)
                self._over.wait(0.1)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


# --- the books ------------------------------------------------------------------------------


@dataclass
class Books:
    """What an endpoint's usage says: tokens by request, device seconds by replica."""

    tokens: dict[str, Counter[str]]
    seconds: Counter[str]  # what is owed of them: charged, and not given back
    charged: Counter[str]

    @classmethod
    def of(cls, api: Api, endpoint_id: str) -> "Books":
        books = cls({}, Counter(), Counter())
        for row in api.pages("/usage", endpoint=endpoint_id):
            if row["meter"] in SECONDS:
                given_back = row["basis"] == "credit"
                books.seconds[row["replica"]] += -row["quantity"] if given_back else row["quantity"]
                books.charged[row["replica"]] += 0 if given_back else row["quantity"]
            else:
                meters = books.tokens.setdefault(row["request"], Counter())
                meters[row["meter"]] += row["quantity"]
        return books

    def lacks(self, got: Got) -> bool:
        """Whether the client got more than was booked."""
        booked, paid_in = self._booked(got)
        if got.end == "complete" and paid_in < got.input_tokens:
            return True
        return booked["output_tokens"] < got.output_tokens

    def exceeds(self, got: Got) -> bool:
        """Whether more was booked than can have been delivered."""
        booked, paid_in = self._booked(got)
        if got.end == "refused":
            return booked.total() > 0
        if got.end == "complete":
            return paid_in > got.input_tokens or booked["output_tokens"] > got.output_tokens
        return booked["output_tokens"] > got.most

    def _booked(self, got: Got) -> tuple[Counter[str], int]:
        booked = self.tokens.get(got.request_id, Counter())
        return booked, booked["input_tokens"] + booked["cached_tokens"]
