"""What an engine gets, what a client gets back, and what is booked for it."""

import json
from typing import Any

import pytest

from gateway.directory import Replica
from gateway.records import CloseRecord
from gateway.salts import Salts
from tests.gateway.fake_engine import CACHED_TOKENS, PROMPT_TOKENS
from tests.gateway.rig import KEY, OTHER_KEY, Rig

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def tokens(record: CloseRecord) -> tuple[int, int, int]:
    return record.input_tokens, record.cached_tokens, record.output_tokens


def test_the_engine_gets_our_fields_and_the_rest_untouched(tiny: Rig) -> None:
    rest = (
        b'"messages": [ {"role":"user","content":"\\u00e9 \xc3\xa9 1.0e2"} ], "temperature": 1.50'
    )
    reply = tiny.post(CHAT, b'{"model": "tiny", ' + rest + b', "unknown": {"a":  [1]}}')
    assert reply.status == 200
    seen = tiny.engines[0].seen[0]
    assert seen.body["model"] == "ep_tiny"
    assert seen.body["cache_salt"] == Salts(b"pepper").of("org_ours")
    assert b'[ {"role":"user","content":"\\u00e9 \xc3\xa9 1.0e2"} ]' in seen.raw
    assert b'"temperature":1.50' in seen.raw
    assert b'"unknown":{"a":  [1]}' in seen.raw
    assert "stream_options" not in seen.body


def test_the_engine_never_sees_who_calls(tiny: Rig) -> None:
    extra = {"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-request-id": "mine", "te": "x"}
    reply = tiny.post(CHAT, GOOD, headers=extra)
    seen = tiny.engines[0].seen[0]
    assert set(seen.headers) == {"host", "content-type", "content-length", "x-request-id"}
    assert seen.headers["x-request-id"] == reply.headers["x-request-id"]
    assert seen.headers["host"] == "engine"


def test_the_client_never_sees_the_engines_headers(tiny: Rig) -> None:
    reply = tiny.chat("tiny")
    assert "server" not in reply.headers
    assert reply.headers["openai-organization"] == "org_ours"


def test_each_organization_has_its_own_salt(tiny: Rig) -> None:
    tiny.endpoint("theirs", tiny.engines, project_id="prj_theirs")
    tiny.post(CHAT, GOOD)
    tiny.post(CHAT, {**GOOD, "model": "theirs"}, key=OTHER_KEY)
    salts = [seen.body["cache_salt"] for seen in tiny.engines[0].seen]
    assert len(set(salts)) == 2
    assert all(len(salt) == 43 for salt in salts)


@pytest.mark.parametrize("model", ["tiny", "ep_tiny", "tiny:poet"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_answer_names_the_model_as_the_client_did(tiny: Rig, model: str, stream: bool) -> None:
    reply = tiny.chat(model, stream=stream)
    found = reply.events[:-1] if stream else [reply.json]
    assert {one["model"] for one in found} == {model}
    wanted = "poet" if model.endswith("poet") else "ep_tiny"
    assert tiny.engines[0].seen[0].body["model"] == wanted


def test_a_whole_answer_is_booked_exactly(tiny: Rig) -> None:
    reply = tiny.chat("tiny", user="tokens=12")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["id"] == f"chatcmpl-{reply.headers['x-request-id']}"
    (record,) = tiny.closed()
    assert record.request_id == reply.headers["x-request-id"]
    assert (record.key_id, record.project_id) == ("key_abcdefgh", "prj_ours")
    assert (record.endpoint_id, record.replica_id) == ("ep_tiny", "rep_tiny_0")
    assert (record.operation, record.status) == ("chat.completions", 200)
    assert (record.finish, record.counted_by) == ("complete", "engine")
    assert tokens(record) == (PROMPT_TOKENS, CACHED_TOKENS, 12)
    assert record.opened_at_us < record.closed_at_us
    assert [opened.request_id for opened in tiny.spool.opened] == [record.request_id]
    assert tiny.activity.balance("running") == 0


@pytest.mark.parametrize("split", [1000, 7, 1])
@pytest.mark.parametrize("asked", [None, False, True])
def test_a_stream_is_booked_exactly_however_it_is_cut_up(
    tiny: Rig, split: int, asked: bool | None
) -> None:
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    reply = tiny.chat("tiny", stream=True, user=f"tokens=6;split={split}", **options)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, last = reply.events
    assert last == "[DONE]"
    deltas = [event for event in events if event["choices"]]
    assert len(deltas) == 6
    assert all("usage" not in event for event in deltas)
    sums = [event["usage"] for event in events if not event["choices"]]
    assert [usage["completion_tokens"] for usage in sums] == ([6] if asked else [])
    (record,) = tiny.closed()
    assert (record.finish, record.counted_by) == ("complete", "engine")
    assert tokens(record) == (PROMPT_TOKENS, CACHED_TOKENS, 6)
    seen = tiny.engines[0].seen[0].body["stream_options"]
    assert seen == {"include_usage": True, "continuous_usage_stats": True}


def test_running_usage_stays_for_who_asked_for_it(tiny: Rig) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = tiny.chat("tiny", stream=True, stream_options=options, user="tokens=3")
    counts = [event["usage"]["completion_tokens"] for event in reply.events[:-1]]
    assert counts == [1, 2, 3, 3]


def test_several_choices(tiny: Rig) -> None:
    reply = tiny.chat("tiny", stream=True, n=3, user="tokens=4")
    assert len(reply.events) == 13
    assert tokens(tiny.closed()[0]) == (PROMPT_TOKENS, CACHED_TOKENS, 12)


def test_text_that_looks_like_usage_is_not_taken_for_it(tiny: Rig) -> None:
    reply = tiny.chat("tiny", stream=True, user="tokens=1")
    assert '"usage":{"prompt_tokens":99}' in reply.events[0]["choices"][0]["delta"]["content"]


def test_completions(tiny: Rig) -> None:
    reply = tiny.post("/v1/completions", {"model": "tiny", "prompt": "a", "user": "tokens=3"})
    assert reply.json["choices"][0]["text"] == "toktoktok"
    stream = {"model": "tiny", "prompt": "a", "stream": True, "user": "tokens=3"}
    assert len(tiny.post("/v1/completions", stream).events) == 4
    assert [record.operation for record in tiny.closed(2)] == ["completions"] * 2
    assert [record.output_tokens for record in tiny.closed(2)] == [3, 3]


def test_embeddings(tiny: Rig) -> None:
    reply = tiny.post("/v1/embeddings", {"model": "tiny", "input": "a"})
    assert reply.json["data"][0]["embedding"] == [0.5] * 4
    assert reply.json["model"] == "tiny"
    (record,) = tiny.closed()
    assert record.operation == "embeddings"
    assert tokens(record) == (PROMPT_TOKENS, 0, 0)
    assert (
        tiny.post("/v1/embeddings", {"model": "tiny", "input": "a", "stream": True}).status == 400
    )


def test_a_very_long_answer_is_passed_on_as_it_comes(tiny: Rig) -> None:
    size = 600_000
    body = {"model": "tiny", "input": "a", "dimensions": size}
    reply = tiny.post("/v1/embeddings", body)
    assert reply.headers["transfer-encoding"] == "chunked"
    assert len(reply.json["data"][0]["embedding"]) == size
    assert reply.json["model"] == "tiny"
    (record,) = tiny.closed()
    assert (record.finish, record.input_tokens) == ("complete", PROMPT_TOKENS)


@pytest.mark.trap("dropped-stream")
def test_an_engine_that_counts_nothing_is_flagged(tiny: Rig) -> None:
    tiny.chat("tiny", stream=True, user="plain=1;tokens=5")
    tiny.chat("tiny", user="plain=1;tokens=5")
    streamed, whole = tiny.closed(2)
    assert (streamed.counted_by, streamed.output_tokens) == ("events", 5)
    assert (whole.counted_by, whole.output_tokens) == ("text", 4)  # 15 letters
    assert streamed.input_tokens > 0
    assert whole.input_tokens > 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (400, 400, "context_length_exceeded"),
        (418, 400, None),
        (422, 400, None),
        (401, 500, "engine_error"),
        (404, 404, "unsupported_operation"),
        (429, 503, "engine_overloaded"),
        (500, 500, "engine_error"),
        (503, 503, "engine_overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_refusal_in_openais_words(
    tiny: Rig, error: int, status: int, code: str | None, stream: bool
) -> None:
    reply = tiny.chat("tiny", stream=stream, user=f"error={error}")
    assert (reply.status, reply.error["code"]) == (status, code)
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert ("retry-after" in reply.headers) == (status == 503)
    text = reply.body.decode()
    assert "ep_tiny" not in text
    assert status == 400 or "secret" not in text
    (record,) = tiny.closed()
    assert record.status == status
    assert record.finish == ("engine_error" if status >= 500 else "refused")
    assert tokens(record) == (0, 0, 0)


def test_the_connection_lives_on_after_an_engines_refusal(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, {**GOOD, "user": "error=400"}, key=KEY)
        assert connection.response().status == 400
        connection.post(CHAT, GOOD, key=KEY)
        assert connection.response().status == 200


@pytest.mark.trap("lost-adapter")
def test_an_adapter_that_the_engine_lost(tiny: Rig) -> None:
    (replica,) = tiny.endpoints["tiny"].replicas
    both = frozenset({"poet", "lost"})  # as the directory has it
    believed = Replica(replica.id, replica.endpoint_id, replica.address, adapters=both)
    tiny.change("tiny", adapters=both, replicas=(believed,))
    reply = tiny.chat("tiny:lost")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    tiny.change("tiny", adapters=frozenset({"poet"}), replicas=(replica,))


def test_connections_to_the_engine_are_used_again(tiny: Rig) -> None:
    before = tiny.engines[0].connections
    for _ in range(5):
        tiny.chat("tiny")
        tiny.chat("tiny", stream=True)
    assert tiny.engines[0].connections - before <= 1


def test_a_full_spool_serves_nothing_new(tiny: Rig) -> None:
    tiny.spool.full = True
    reply = tiny.chat("tiny")
    tiny.spool.full = False
    assert (reply.status, reply.error["code"]) == (503, "metering_unavailable")
    assert reply.headers["retry-after"]
    assert tiny.engines[0].seen == []
    assert tiny.activity.balance("running") == 0


def test_a_stale_directory_serves_nothing(tiny: Rig) -> None:
    contact_at, tiny.keeper.contact_at = tiny.keeper.contact_at, 1.0
    reply, ready, live = tiny.chat("tiny"), tiny.get("/readyz"), tiny.get("/healthz")
    tiny.keeper.contact_at = contact_at
    assert (reply.status, reply.error["code"]) == (503, "directory_stale")
    assert (ready.status, live.status) == (503, 200)
    assert tiny.get("/readyz").status == 200


def test_no_prompt_or_answer_is_in_the_spool(tiny: Rig) -> None:
    canary = "canary-7f3a"
    body = {**GOOD, "messages": [{"role": "user", "content": canary}], "stream": True}
    tiny.post(CHAT, json.dumps(body).encode())
    files = [path for path in tiny.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if canary.encode() in path.read_bytes()]
