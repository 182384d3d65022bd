"""kill -9 of each part, in the middle of a provisioning and of a stream; then everything is well.

Well means: the endpoint serves, each live replica has one engine and there is no other, and the
books hold every request that was completed, once, with the tokens that its client got.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
from openai.types import CompletionUsage

from billing.rating import SECONDS
from tests.flows.api import moment
from tests.flows.conftest import OVER, Made
from tests.flows.engine import counters
from tests.flows.stoa import Stoa, until
from tests.flows.traffic import Books, Client, Crowd
from workers.agent import kin

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

T = TypeVar("T")

VICTIMS = ("worker", "agent", "gateway", "web", "postgres", "valkey")
UNDER_WAY = ("placed", "fetching", "starting", "probing")


def calmly(look: Callable[[], T]) -> T | None:
    """What `look` sees; nothing while the part that it asks is away."""
    with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError, AssertionError):
        return look()
    return None


def kill(stoa: Stoa, victim: str) -> None:
    killed = stoa.kill(victim)
    until(lambda: stoa.restarted(victim, killed), within_s=60, what=f"{victim} is back")


def await_ready(stoa: Stoa, endpoint_id: str) -> str:
    """The id of the one replica that serves."""

    def look() -> str:
        found = stoa.api.get(f"/endpoints/{endpoint_id}")
        live = found["replicas"]
        ready = found["status"] == "ready" and [r["state"] for r in live] == ["ready"]
        return str(live[0]["id"]) if ready else ""

    return str(until(lambda: calmly(look), within_s=120, what=f"{endpoint_id} serves"))


def one_engine_each(stoa: Stoa) -> bool:
    """Exactly one engine for every live replica, and none for nobody."""
    live = [r["id"] for r in stoa.api.replicas() if r["state"] not in (*OVER, "requested")]
    return sorted(live) == stoa.engines()


def ask(stoa: Stoa, model: str) -> tuple[str, CompletionUsage]:
    """A small request that is completed: its id and usage."""

    def look() -> openai.types.Completion:
        with stoa.client() as sdk:
            return sdk.completions.create(model=model, prompt="import os", max_tokens=5)

    def patiently() -> openai.types.Completion | None:
        # A gateway that has just come back may not have its directory yet.
        with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
            return look()
        return None

    answer = until(patiently, what=f"{model} answers")
    assert answer
    assert answer.usage
    assert answer._request_id
    return answer._request_id, answer.usage


def booked_once(stoa: Stoa, request_id: str, usage: CompletionUsage) -> None:
    found = until(lambda: calmly(lambda: stoa.api.tokens(request_id)), what="it is booked")
    assert found
    assert (found["input_tokens"], found["output_tokens"]) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )


def provision_through(stoa: Stoa, made: Made, victim: str) -> None:
    endpoint = made(f"through-{victim}")
    if victim != "worker":  # whose part comes first of all
        until(
            lambda: [r for r in stoa.api.replicas(endpoint["id"]) if r["state"] in UNDER_WAY],
            every_s=0.02,
            what="it is being provisioned",
        )
    kill(stoa, victim)
    replica_id = await_ready(stoa, endpoint["id"])
    until(lambda: calmly(lambda: one_engine_each(stoa)), what="one engine each")
    assert stoa.engines().count(replica_id) == 1
    booked_once(stoa, *ask(stoa, endpoint["name"]))


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_in_the_middle_of_a_provisioning(stoa: Stoa, made: Made, victim: str) -> None:
    provision_through(stoa, made, victim)


class Stream:
    """One long answer of `hello`, whose client counts its tokens."""

    def __init__(self, sdk: openai.OpenAI, tokens: int) -> None:
        raw = sdk.completions.with_raw_response.create(
            model="hello",
            prompt="import os",
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={
                "ignore_eos": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            },
        )
        self.request_id: str = raw.headers["x-request-id"]
        self.chunks = iter(raw.parse())
        self.usage: CompletionUsage | None = None
        self.began = time.monotonic()
        self.came: list[tuple[float, int]] = []  # when, and how many tokens by then

    def read(self, tokens: int, *, for_s: float = 0.0) -> None:
        """On, until so many tokens came and so many seconds passed; or to the end."""
        for chunk in self.chunks:
            self.usage = chunk.usage or self.usage
            assert self.usage
            self.came.append((time.monotonic(), self.usage.completion_tokens))
            if self.usage.completion_tokens >= tokens and self.lasted_s >= for_s:
                return

    @property
    def lasted_s(self) -> float:
        return time.monotonic() - self.began


@pytest.mark.parametrize("victim", [name for name in VICTIMS if name != "gateway"])
def test_killed_in_the_middle_of_a_stream(stoa: Stoa, victim: str) -> None:
    """Only the gateway carries it: all others may die, and the client sees nothing of it."""
    hello = stoa.api.endpoint("hello")
    served_by = hello["replicas"][0]["id"]
    with stoa.client() as sdk:
        stream = Stream(sdk, tokens=1500)
        stream.read(30)
        killed = stoa.kill(victim)
        stream.read(10_000)
    assert stream.usage
    assert stream.usage.completion_tokens == 1500
    until(lambda: stoa.restarted(victim, killed), what=f"{victim} is back")
    booked_once(stoa, stream.request_id, stream.usage)
    assert await_ready(stoa, hello["id"]) == served_by
    until(lambda: calmly(lambda: one_engine_each(stoa)), what="one engine each")
    booked_once(stoa, *ask(stoa, "hello"))


def test_the_whole_control_plane_killed_under_traffic(stoa: Stoa) -> None:
    """Everything but gateway and engine at once: no request is refused, lost or booked twice."""
    hello = stoa.api.endpoint("hello")
    served_by = hello["replicas"][0]["id"]
    victims = [*(name for name in VICTIMS if name != "gateway"), "batches", "signer"]
    with (
        Client(stoa.run["gateway_url"], stoa.run["api_key"]) as client,
        Crowd(lambda: client.ask("hello"), clients=2) as crowd,
    ):
        until(lambda: len(crowd.answers) > 5, what="clients are served")
        killed = {victim: stoa.kill(victim) for victim in victims}
        before = len(crowd.answers)
        for victim, pid in killed.items():
            until(partial(stoa.restarted, victim, pid), what=f"{victim} is back")
        assert await_ready(stoa, hello["id"]) == served_by
        after = len(crowd.answers)
        until(lambda: len(crowd.answers) > after + 5, what="they are served on")
    assert after > before + 10
    assert crowd.failures == []
    assert {got.end for got in crowd.answers} == {"complete"}

    def booked() -> Books | None:
        books = Books.of(stoa.api, hello["id"])
        return books if all(got.request_id in books.tokens for got in crowd.answers) else None

    books = until(booked, every_s=0.5, what="all of it is booked")
    assert books is not None
    assert not [got for got in crowd.answers if books.lacks(got) or books.exceeds(got)]
    until(lambda: calmly(lambda: one_engine_each(stoa)), what="one engine each")


def test_an_engine_killed_beside_another_costs_no_request(stoa: Stoa, made: Made) -> None:
    """Its server, whose connections break, or the core behind it, of which the server tells.

    What it had been asked and not answered another replica answers, also where many ask the same.
    """
    endpoint = made("twins", min_replicas=2, max_replicas=2)

    def both() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stoa.api.get(f"/endpoints/{endpoint['id']}")["replicas"]
        return found if [one["state"] for one in found] == ["ready", "ready"] else []

    for tokens, part in ((40, server_of), (41, core_of)):  # no two engines die of one request
        first, _ = until(both, within_s=180, what="both serve")
        felled(stoa, first["id"], part(stoa, first["id"]), tokens)


def felled(stoa: Stoa, replica_id: str, pid: int, tokens: int) -> None:
    """Kill this process of one of the twins under a crowd that sees nothing of it."""
    with (
        Client(stoa.run["gateway_url"], stoa.run["api_key"]) as client,
        Crowd(lambda: client.ask("twins", tokens), clients=6) as crowd,
    ):
        socket, path = stoa.socket(replica_id), f"/replicas/{replica_id}"
        until(lambda: counters(socket).running > 1, what="it has much to do")
        os.kill(pid, signal.SIGKILL)
        until(lambda: stoa.api.get(path)["state"] == "failed", what="it has failed")
        failed = len(crowd.answers)
        until(lambda: len(crowd.answers) > failed + 10, what="they are served on")
    assert crowd.failures == []
    assert {(got.end, got.output_tokens) for got in crowd.answers} == {("complete", tokens)}


def server_of(stoa: Stoa, replica_id: str) -> int:
    record = json.loads((stoa.var / "agent" / "replicas" / f"{replica_id}.json").read_text())
    pid: int = record["running"]["pid"]
    return pid


def core_of(stoa: Stoa, replica_id: str) -> int:
    """The one of its processes that has the model in its memory, and serves nobody itself."""
    server = server_of(stoa, replica_id)
    mine = [each.pid for each in kin.everybody() if each.parent == server]
    return max(mine, key=lambda pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]))


def cut_off(stream: Stream) -> None:
    """Read what still comes of a stream whose gateway dies."""
    with pytest.raises((openai.APIError, httpx.TransportError)):
        stream.read(10_000)
        raise httpx.ReadError("it ended early, without a word")


def test_the_gateway_killed_in_the_middle_of_a_stream(stoa: Stoa) -> None:
    """The stream is gone. It costs what was delivered, less a second of it at most."""
    hello = stoa.api.endpoint("hello")
    completed = ask(stoa, "hello")
    with stoa.client() as sdk:
        stream = Stream(sdk, tokens=2000)
        stream.read(60, for_s=1.5)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(cut_off, stream)
            killed = stoa.kill("gateway")
            rest.result()
    last_at, delivered = stream.came[-1]
    assert delivered < 2000
    until(lambda: stoa.restarted("gateway", killed), what="the gateway is back")
    booked_once(stoa, *ask(stoa, "hello"))
    booked_once(stoa, *completed)
    rows = until(lambda: stoa.api.usage(request=stream.request_id), what="it is booked")
    assert {flag for row in rows for flag in row["flags"]} == {"gateway_gone", "delivered"}
    (output,) = (row["quantity"] for row in rows if row["meter"] == "output_tokens")
    a_second = delivered - max(n for at, n in stream.came if at <= last_at - 1.2)
    # What left in the gateway's last instant may never have reached the client.
    assert delivered - a_second <= output <= delivered + a_second
    await_ready(stoa, hello["id"])
    until(lambda: one_engine_each(stoa), what="one engine each")


def test_nothing_is_billed_twice_after_all_that(stoa: Stoa) -> None:
    """Every usage row once, no replica billed for more seconds than it was ready."""
    hello = stoa.api.endpoint("hello")
    rows = stoa.api.usage(endpoint=hello["id"])
    assert len({row["id"] for row in rows}) == len(rows)
    metered: dict[str, int] = {}
    for row in rows:
        if row["meter"] in SECONDS:
            # What the platform's faults cost is given back; each node proved the rest.
            seconds = -row["quantity"] if row["basis"] == "credit" else row["quantity"]
            metered[row["replica"]] = metered.get(row["replica"], 0) + seconds
            assert "unproved" not in row["flags"]
    ready: dict[str, float] = {}
    newest: dict[str, dict[str, Any]] = {}
    for row in stoa.api.transitions(hello["id"]):
        if row["from_state"] == "ready":
            ready[row["replica"]] = ready.get(row["replica"], 0.0) + row["seconds"]
        newest[row["replica"]] = row
    for replica_id, row in newest.items():
        if row["to_state"] == "ready":
            since = (datetime.now(UTC) - moment(row["at"])).total_seconds()
            ready[replica_id] = ready.get(replica_id, 0.0) + since
    assert metered.keys() <= ready.keys()
    for replica_id, seconds in metered.items():
        assert seconds <= ready[replica_id]
