"""Other people's clients against a real vLLM: all that changes is the base URL and the key.

What each client says that a call took is what the books say, whatever the shape of the API.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from tests.clients import environment
from tests.clients.environment import Clients
from tests.flows.conftest import Made
from tests.flows.engine import counters
from tests.flows.stoa import Stoa, until
from workers.agent.environment import default_cache

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

HELLO = "Hello there"


@dataclass
class Served:
    """Two endpoints, one that talks and one that embeds."""

    stoa: Stoa
    sdk: openai.OpenAI
    socket: str

    @property
    def url(self) -> str:
        return self.stoa.run["gateway_url"]

    @property
    def key(self) -> str:
        return self.stoa.run["api_key"]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60)

    def booked(self, request_id: str | None, *, input: int, cached: int, output: int) -> None:
        assert request_id
        found = until(lambda: self.stoa.api.tokens(request_id), what=f"{request_id} is booked")
        assert found == {"input_tokens": input, "cached_tokens": cached, "output_tokens": output}

    def booked_as(self, said: dict[str, Any]) -> None:
        """The usage in a client's own words: OpenAI's two ways, Anthropic's, LangChain's."""
        usage = said["usage"]
        if "prompt_tokens" in usage:
            input, output = usage["prompt_tokens"], usage.get("completion_tokens", 0)
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        elif "cache_read_input_tokens" in usage:
            cached, output = usage["cache_read_input_tokens"], usage["output_tokens"]
            created = usage["cache_creation_input_tokens"] or 0
            input = usage["input_tokens"] + (cached or 0) + created
        else:
            input, output = usage["input_tokens"], usage["output_tokens"]
            details = usage.get("input_tokens_details") or usage.get("input_token_details") or {}
            cached = details.get("cached_tokens") or details.get("cache_read")
        self.booked(said["id"], input=input, cached=cached or 0, output=output)


@pytest.fixture(scope="module")
def served(stoa: Stoa, kept: Made) -> Iterator[Served]:
    args = {"max_model_len": 2048, "enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    endpoint = kept("talk", engine_args=args)
    other = kept("vectors", engine_args={"runner": "pooling", "convert": "embed"})
    endpoint = kept.await_status(endpoint["id"], "ready")
    kept.await_status(other["id"], "ready")
    (replica,) = endpoint["replicas"]
    with stoa.client() as sdk:
        yield Served(stoa, sdk, stoa.socket(replica["id"]))


@pytest.fixture(scope="module")
def clients() -> Clients:
    return environment.install(default_cache())


def _said(done: Any) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


# --- OpenAI's SDK for Python ---------------------------------------------------------------


def test_responses(served: Served) -> None:
    for _ in range(2):
        answer = served.sdk.responses.create(
            model="talk", input=HELLO, max_output_tokens=12, temperature=0, store=True
        )
        assert answer.model == "talk"
        assert answer.output_text
        assert answer.usage
        served.booked_as({"id": answer._request_id, "usage": answer.usage.model_dump()})
    raw = served.sdk.responses.with_raw_response.create(
        model="talk", input=HELLO, max_output_tokens=12, temperature=0, stream=True
    )
    events = list(raw.parse())
    text = "".join(one.delta for one in events if one.type == "response.output_text.delta")
    assert text == answer.output_text
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.model == "talk"
    assert last.response.usage
    served.booked_as({"id": raw.headers["x-request-id"], "usage": last.response.usage.model_dump()})
    # What a client would read, or go on from, was never kept.
    with pytest.raises(openai.NotFoundError) as refusal:
        served.sdk.responses.retrieve(answer.id)
    assert refusal.value.code == "response_not_stored"
    with pytest.raises(openai.NotFoundError):
        served.sdk.responses.delete(answer.id)
    with pytest.raises(openai.BadRequestError) as leaning:
        served.sdk.responses.create(model="talk", input=HELLO, previous_response_id=answer.id)
    assert leaning.value.param == "previous_response_id"


def test_a_response_that_is_left_costs_what_was_delivered(served: Served) -> None:
    before = counters(served.socket).generation_tokens
    raw = served.sdk.responses.with_raw_response.create(
        model="talk", input=HELLO, max_output_tokens=1900, temperature=0, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    stream, steps = raw.parse(), 0
    for event in stream:
        steps += event.type.endswith(".delta")
        if steps >= 40:
            break
    stream.close()
    until(lambda: counters(served.socket).running == 0, within_s=1.0, what="the engine is idle")
    generated = counters(served.socket).generation_tokens - before
    rows = until(
        lambda: served.stoa.api.usage(request=raw.headers["x-request-id"]), what="it is booked"
    )
    booked = {row["meter"]: row["quantity"] for row in rows}
    assert {flag for row in rows for flag in row["flags"]} == {"client_gone", "events"}
    assert steps <= booked["output_tokens"] <= generated
    assert booked["input_tokens"] > 0


def test_an_endpoints_own_url(served: Served) -> None:
    weights = served.stoa.api.endpoint("talk")["model"]
    with openai.OpenAI(
        base_url=f"{served.url}/e/talk/v1", api_key=served.key, max_retries=0
    ) as sdk:
        for model in ("talk", weights, ""):
            answer = sdk.chat.completions.create(
                model=model, messages=[{"role": "user", "content": HELLO}], max_tokens=1
            )
            assert answer.model == (model or "talk")
        with pytest.raises(openai.NotFoundError):
            sdk.completions.create(model="vectors", prompt="a")
        assert [one.id for one in sdk.models.list()] == ["talk"]


# --- what has no SDK --------------------------------------------------------------------------


def test_tokenizer(served: Served) -> None:
    for prefix in ("", "/v1"):
        found = served.post(f"{prefix}/tokenize", {"model": "talk", "prompt": "import os"}).json()
        assert found["count"] == len(found["tokens"]) > 0
        asked = {"model": "talk", "tokens": found["tokens"]}
        text = served.post(f"{prefix}/detokenize", asked).json()
        assert text["prompt"].endswith("import os")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank(served: Served, path: str) -> None:
    asked = {"model": "vectors", "query": "a file", "documents": ["open(file)", "import os"]}
    reply = served.post(path, asked)
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert found["model"] == "vectors"
    assert sorted(one["index"] for one in found["results"]) == [0, 1]
    tokens = found["usage"]["prompt_tokens"]
    assert tokens > 0
    served.booked(reply.headers["x-request-id"], input=tokens, cached=0, output=0)


def test_score(served: Served) -> None:
    asked = {"model": "vectors", "text_1": "a file", "text_2": ["open(file)", "import os"]}
    for path in ("/score", "/v1/score"):
        reply = served.post(path, asked)
        assert [one["index"] for one in reply.json()["data"]] == [0, 1]
        tokens = reply.json()["usage"]["prompt_tokens"]
        served.booked(reply.headers["x-request-id"], input=tokens, cached=0, output=0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/v1/responses", {"input": "a"}),
    ],
)
def test_what_an_engine_does_not_offer(served: Served, path: str, body: dict[str, Any]) -> None:
    reply = served.post(path, {"model": "vectors", **body})
    assert reply.status_code == 404
    assert "does not offer" in reply.json()["error"]["message"]


def test_sound_for_an_engine_that_hears_none(served: Served) -> None:
    """It answers before the file has arrived; the connection is none the worse."""
    for content in (b"RIFF", b"x" * 3_000_000):
        with pytest.raises(openai.NotFoundError) as refused:
            served.sdk.audio.transcriptions.create(model="talk", file=("a.wav", content))
        assert refused.value.code == "unsupported_operation"
    assert served.sdk.models.retrieve("talk").id == "talk"


# --- everybody else's -------------------------------------------------------------------------


def test_openais_sdk_for_javascript(served: Served, clients: Clients) -> None:
    said = _said(clients.node("openai.mjs", f"{served.url}/v1", served.key, "talk", "vectors"))
    assert said["chat"]["model"] == "talk"
    assert said["chat"]["text"]
    assert said["stream"]["text"] == said["chat"]["text"]
    assert said["responses_stream"]["text"] == said["responses"]["text"]
    assert said["completions"]["text"]
    assert said["embeddings"]["sizes"] == [128, 128]
    assert {"talk", "vectors"} <= set(said["models"]["names"])
    assert said["unknown"] == {"name": "unknown", "known": True, "code": "model_not_found"}
    for one in said.values():
        if "usage" in one:
            served.booked_as(one)


def test_anthropic_langchain_and_llama_index(served: Served, clients: Clients) -> None:
    said = _said(clients.python("frameworks.py", served.url, served.key, "talk"))
    text = said["messages"]["text"]
    assert text
    assert said["messages"]["model"] == "talk"
    assert said["messages_stream"]["text"] == text
    assert said["messages"]["sdk_id"] == said["messages"]["id"]
    usage = said["messages"]["usage"]
    assert (
        said["count_tokens"]["tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    )
    assert said["messages_unknown"]["body"]["error"]["type"] == "not_found_error"
    assert said["messages_stranger"]["body"]["error"]["type"] == "authentication_error"
    for name in ("langchain", "langchain_stream", "langchain_responses", "llama_index"):
        assert said[name]["text"] == text
    assert said["llama_index_stream"]["text"] == text
    assert said["llama_index_completions"]["text"]
    for one in said.values():
        if "usage" in one and "id" in one:
            served.booked_as(one)
