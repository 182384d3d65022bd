"""OpenAI's own SDK against a real vLLM, and the books against the engine's own counters."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from billing.rating import SECONDS
from tests.flows.conftest import Made
from tests.flows.engine import Counters, counters
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# EUR for a device-hour and for a million tokens: what a fresh installation asks.
PRICES = {
    "device_seconds": (Decimal("0.12"), 3600),
    "warm_seconds": (Decimal("0.06"), 3600),
    "input_tokens": (Decimal("0.10"), 1_000_000),
    "cached_tokens": (Decimal("0.05"), 1_000_000),
    "output_tokens": (Decimal("0.40"), 1_000_000),
}
# The probe of a start: one token in, one out.
PROBE = Counters(prompt_tokens=1, generation_tokens=1, running=0, succeeded=1)


@dataclass
class Chat:
    """The endpoint under test, and everything that was asked of its engine."""

    stoa: Stoa
    endpoint: dict[str, Any]
    replica_id: str
    sdk: openai.OpenAI
    done: dict[str, CompletionUsage] = field(default_factory=dict)
    cut_prompt: int = 0
    cut_generated: int = 0

    def note(self, request_id: str | None, usage: CompletionUsage | None) -> None:
        """A request that was completed, as its client saw it; its booking must say the same."""
        assert request_id
        assert usage
        assert usage.completion_tokens > 0
        self.done[request_id] = usage
        booked = until(lambda: self.stoa.api.tokens(request_id), what=f"{request_id} is booked")
        assert booked["input_tokens"] == usage.prompt_tokens
        assert booked["output_tokens"] == usage.completion_tokens
        details = usage.prompt_tokens_details
        assert booked["cached_tokens"] == ((details and details.cached_tokens) or 0)

    def counters(self) -> Counters:
        return counters(self.stoa.socket(self.replica_id))


@pytest.fixture(scope="module")
def chat(stoa: Stoa, kept: Made) -> Iterator[Chat]:
    adapter = str(Path(stoa.api.endpoint("hello")["model"]).parent / "adapter")
    endpoint = kept.ready(
        "chat",
        adapters=[{"name": "noisy", "path": adapter}],
        engine_args={
            "max_model_len": 4096,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        },
    )
    (replica,) = endpoint["replicas"]
    with stoa.client() as sdk:
        yield Chat(stoa, endpoint, replica["id"], sdk)


def test_chat(chat: Chat) -> None:
    answer = chat.sdk.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=12, temperature=0
    )
    assert answer.model == "chat"
    assert answer.choices[0].message.content
    chat.note(answer._request_id, answer.usage)


def test_a_stream_with_usage(chat: Chat) -> None:
    raw = chat.sdk.chat.completions.with_raw_response.create(
        model="chat",
        messages=HELLO,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(raw.parse())
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {c.model for c in chunks} == {"chat"}
    chat.note(raw.headers["x-request-id"], chunks[-1].usage)


def test_a_stream_without_usage_is_booked_all_the_same(chat: Chat) -> None:
    plain = chat.sdk.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=12, temperature=0
    )
    chat.note(plain._request_id, plain.usage)
    raw = chat.sdk.chat.completions.with_raw_response.create(
        model="chat", messages=HELLO, max_tokens=12, temperature=0, stream=True
    )
    chunks = list(raw.parse())
    assert [c for c in chunks if c.usage is not None] == []
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == plain.choices[0].message.content
    # The same words as before, so the same tokens.
    chat.note(raw.headers["x-request-id"], plain.usage)


def test_a_cached_prompt_is_booked_as_cached(chat: Chat) -> None:
    story: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "def open(file, mode): return " * 12}
    ]
    seen = []
    for _ in range(2):
        answer = chat.sdk.chat.completions.create(model="chat", messages=story, max_tokens=2)
        chat.note(answer._request_id, answer.usage)
        assert answer.usage
        seen.append(answer.usage.prompt_tokens_details)
    assert seen[1]
    assert (seen[1].cached_tokens or 0) > 0


def test_tools(chat: Chat) -> None:
    answer = chat.sdk.chat.completions.create(
        model="chat", messages=HELLO, tools=[WEATHER], tool_choice="auto", max_tokens=12
    )
    with_tool = answer.usage
    chat.note(answer._request_id, with_tool)
    without = chat.sdk.chat.completions.create(model="chat", messages=HELLO, max_tokens=1)
    chat.note(without._request_id, without.usage)
    assert with_tool
    assert without.usage
    # The engine's template spelled the tool out to the model.
    assert with_tool.prompt_tokens > without.usage.prompt_tokens + 20


def test_what_is_asked_is_at_rest_nowhere(chat: Chat) -> None:
    """In no file of the installation: PostgreSQL's and Valkey's, logs, spools, the agent's."""
    canary = "CANARY51d2e8ZERO"
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": canary}]
    answer = chat.sdk.chat.completions.create(model="chat", messages=asked, max_tokens=2)
    chat.note(answer._request_id, answer.usage)
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": canary * 4096}]
    with pytest.raises(openai.BadRequestError):
        chat.sdk.chat.completions.create(model="chat", messages=long, max_tokens=2)
    found = {canary: list[Path](), str(answer._request_id): list[Path]()}
    for path in (path for path in chat.stoa.var.rglob("*") if path.is_file()):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # it was gone before it could be looked at
            continue
        for word, where in found.items():
            if word.encode() in content:
                where.append(path)
    assert found.pop(canary) == []
    assert all(found.values())  # an id of a request is found: the search sees what there is


def test_an_adapter_by_its_name(chat: Chat) -> None:
    words = {}
    for model in ("chat", "chat:noisy"):
        answer = chat.sdk.chat.completions.create(
            model=model, messages=HELLO, max_tokens=12, temperature=0
        )
        assert answer.model == model
        words[model] = answer.choices[0].message.content
        chat.note(answer._request_id, answer.usage)
    assert words["chat"] != words["chat:noisy"]


def test_completions(chat: Chat) -> None:
    whole = chat.sdk.completions.create(
        model="chat", prompt="import os", max_tokens=9, temperature=0
    )
    chat.note(whole._request_id, whole.usage)
    raw = chat.sdk.completions.with_raw_response.create(
        model="chat",
        prompt="import os",
        max_tokens=9,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(raw.parse())
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    chat.note(raw.headers["x-request-id"], chunks[-1].usage)


def test_models(chat: Chat) -> None:
    names = {model.id for model in chat.sdk.models.list()}
    assert {"hello", "chat", "chat:noisy"} <= names
    assert chat.sdk.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError) as refusal:
        chat.sdk.models.retrieve("nothing")
    assert refusal.value.code == "model_not_found"


def test_embeddings(stoa: Stoa, chat: Chat, made: Made) -> None:
    made.ready("embed", engine_args={"runner": "pooling", "convert": "embed"})
    answer = chat.sdk.embeddings.create(
        model="embed", input=["one text", "another, longer text"], encoding_format="float"
    )
    assert [len(one.embedding) for one in answer.data] == [128, 128]
    request_id = answer._request_id
    assert request_id
    booked = until(lambda: stoa.api.tokens(request_id), what="the embedding is booked")
    assert booked == {
        "input_tokens": answer.usage.prompt_tokens,
        "cached_tokens": 0,
        "output_tokens": 0,
    }
    with pytest.raises(openai.NotFoundError) as refusal:
        chat.sdk.embeddings.create(model="chat", input="text")
    assert refusal.value.code == "unsupported_operation"


@pytest.mark.trap("dropped-stream", "abandoned-generation")
def test_a_stream_that_is_cut_off_costs_what_was_delivered(chat: Chat) -> None:
    """Not less than the client got, not more than was generated, and at most a second of that."""
    before = chat.counters()
    raw = chat.sdk.chat.completions.with_raw_response.create(
        model="chat",
        messages=HELLO,
        max_tokens=3500,
        temperature=0,
        stream=True,
        extra_body={
            "ignore_eos": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    )
    received, began = 0, 0.0
    stream = raw.parse()
    for chunk in stream:
        began = began or time.monotonic()
        assert chunk.usage
        received = chunk.usage.completion_tokens
        if received >= 60:
            break
    rate = received / (time.monotonic() - began)
    stream.close()
    # The engine was told: nothing runs there any more, and nothing more is generated.
    until(lambda: chat.counters().running == 0, within_s=1.0, what="the engine is idle")
    after = chat.counters()
    generated = after.generation_tokens - before.generation_tokens
    rows = until(
        lambda: chat.stoa.api.usage(request=raw.headers["x-request-id"]), what="it is booked"
    )
    booked = {row["meter"]: row["quantity"] for row in rows}
    assert {flag for row in rows for flag in row["flags"]} == {"client_gone", "delivered"}
    assert received <= booked["output_tokens"] <= generated
    assert generated - received <= rate  # one second of it
    prompt = booked["input_tokens"] + booked.get("cached_tokens", 0)
    assert prompt == after.prompt_tokens - before.prompt_tokens
    chat.cut_prompt += prompt
    chat.cut_generated += generated


def test_the_books_equal_the_engines_own_counters(chat: Chat) -> None:
    """Over the engine's whole life: every token was booked, or belongs to the one that was cut."""
    several = chat.sdk.completions.create(
        model="chat", prompt=["import os", "def open(file):"], n=2, max_tokens=7, temperature=0.5
    )
    request_id, usage = several._request_id, several.usage
    chat.note(request_id, usage)
    counted = chat.counters()
    done = chat.done.values()
    assert counted.running == 0
    # Where several answers are wanted of one prompt, the engine counts the prompt for each.
    again = usage.prompt_tokens if usage else 0
    assert counted.prompt_tokens == (
        PROBE.prompt_tokens + sum(u.prompt_tokens for u in done) + again + chat.cut_prompt
    )
    assert counted.generation_tokens == (
        PROBE.generation_tokens + sum(u.completion_tokens for u in done) + chat.cut_generated
    )
    rows = chat.stoa.api.usage(endpoint=chat.endpoint["id"])
    completed = [row for row in rows if row["request"] and "client_gone" not in row["flags"]]
    assert {row["request"] for row in completed} == set(chat.done)
    assert len({row["id"] for row in rows}) == len(rows)
    output = sum(row["quantity"] for row in completed if row["meter"] == "output_tokens")
    assert output == sum(u.completion_tokens for u in done)
    assert {row["key"] for row in rows if row["request"]} == {completed[0]["key"]}


def test_the_costs_to_the_cent(chat: Chat, kept: Made) -> None:
    api, endpoint_id = chat.stoa.api, chat.endpoint["id"]
    api.post(f"/endpoints/{endpoint_id}/stop")
    kept.await_status(endpoint_id, "stopped")
    served_s = sum(
        row["seconds"] for row in api.transitions(endpoint_id) if row["from_state"] == "ready"
    )
    assert served_s > 0

    def quantities() -> dict[str, int]:
        found: dict[str, int] = {}
        for row in api.usage(endpoint=endpoint_id):
            found[row["meter"]] = found.get(row["meter"], 0) + row["quantity"]
        return found

    def ready_s() -> int:
        """While somebody asked and while nobody did: each has a price of its own."""
        found = quantities()
        return found["device_seconds"] + found.get("warm_seconds", 0)

    # A replica's last minute is metered within seconds of its end; a begun second is not charged.
    until(
        lambda: ready_s() >= served_s - 2,
        within_s=30,
        what=f"{served_s:.1f} s are metered",
    )
    used = quantities()
    assert ready_s() <= served_s
    rows = api.usage(endpoint=endpoint_id)  # each second was proved by the node's own records
    assert [row["flags"] for row in rows if row["meter"] in SECONDS and row["flags"]] == []
    costs = api.get("/costs", endpoint=endpoint_id, to=datetime.now(UTC).isoformat())
    lines = {line["meter"]: line for line in costs["lines"]}
    assert lines.keys() == used.keys()
    totals = {"charge": Decimal(0), "attribution": Decimal(0)}
    for meter, quantity in used.items():
        price, unit = PRICES[meter]
        exact = quantity * price / unit
        line = lines[meter]
        assert line["quantity"] == quantity
        assert Decimal(line["exact"]) == exact.quantize(Decimal("1e-9"), ROUND_HALF_UP)
        assert Decimal(line["amount"]) == cents(exact)
        assert line["basis"] == ("charge" if meter in SECONDS else "attribution")
        totals[line["basis"]] += exact
    assert Decimal(costs["charge"]) == cents(totals["charge"])
    for basis, exact in totals.items():
        assert Decimal(costs[f"{basis}_exact"]) == exact.quantize(Decimal("1e-9"), ROUND_HALF_UP)
    assert costs["unpriced"] == []
    assert costs["currency"] == "EUR"
    # The same money, cut another way.
    by_key = api.get("/costs", endpoint=endpoint_id, by="key", to=costs["end"])
    assert by_key["charge_exact"] == costs["charge_exact"]
    assert by_key["attribution_exact"] == costs["attribution_exact"]


def cents(exact: Decimal) -> Decimal:
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
