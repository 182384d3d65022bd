"""What a caller may not send, and who may call. Nothing of it reaches an engine."""

import json
import time
from typing import Any

import pytest

from tests.gateway.rig import KEY, OTHER_KEY, Rig

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"tiny"',
        b'{"model": "tiny"',
        b'{"model": "tiny"} {}',
        b"{'model': 'tiny'}",
        b'{"model": "tiny", "temperature": NaN}',
        b'{"model": "tiny", "messages": "\xff\xfe"}',
        b'{"model": "tiny", "x": "\x01"}',
        b'{"model": "tiny", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf{}",
        b"model=tiny&messages=hello",
    ],
)
def test_a_body_that_is_no_json_object(tiny: Rig, body: bytes) -> None:
    reply = tiny.post(CHAT, body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert reply.error["type"] == "invalid_request_error"
    assert (tiny.engines[0].seen, tiny.spool.opened) == ([], [])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ["tiny"]}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": "two"}, "n"),
        ({"stream": True, "stream_options": "all"}, "stream_options"),
    ],
)
def test_a_field_of_the_wrong_type(tiny: Rig, fields: dict[str, Any], param: str) -> None:
    reply = tiny.post(CHAT, {**GOOD, **fields})
    assert (reply.status, reply.error["param"]) == (400, param)
    assert tiny.engines[0].seen == []


def test_a_missing_model(tiny: Rig) -> None:
    reply = tiny.post(CHAT, {"messages": []})
    assert (reply.status, reply.error["param"]) == (400, "model")


@pytest.mark.parametrize(
    "field",
    [
        "cache_salt",
        "priority",
        "chat_template",
        "kv_transfer_params",
        "lora_request",
        "mm_processor_kwargs",
        "vllm_xargs",
        "stream_interval",
        "prompt_embeds",
        "request_id",
    ],
)
def test_fields_that_steer_the_engine(tiny: Rig, field: str) -> None:
    for body in (
        {**GOOD, field: None},
        {field: "x", **GOOD},
    ):
        reply = tiny.post(CHAT, body)
        assert (reply.status, reply.error["param"]) == (400, field)
        assert reply.error["code"] == "unsupported_parameter"
    assert tiny.engines[0].seen == []


def test_a_field_cannot_hide_behind_an_escape_or_a_double(tiny: Rig) -> None:
    escaped = b'{"model": "tiny", "messages": [], "cache\\u005fsalt": "mine"}'
    assert tiny.post(CHAT, escaped).error["param"] == "cache_salt"
    double = b'{"model": "other", "messages": [], "model": "tiny", "mod\\u0065l": "tiny"}'
    assert tiny.post(CHAT, double).status == 200
    assert tiny.engines[0].seen[0].raw.count(b'"model"') == 1


def test_a_template_cannot_be_smuggled(tiny: Rig) -> None:
    reply = tiny.post(CHAT, {**GOOD, "chat_template_kwargs": {"chat_template": "{{ evil }}"}})
    assert (reply.status, reply.error["param"]) == (400, "chat_template_kwargs.chat_template")
    harmless = {**GOOD, "chat_template_kwargs": {"enable_thinking": False}}
    assert tiny.post(CHAT, harmless).status == 200


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://10.0.0.1/latest/meta-data"}},
        {"type": "image_url", "image_url": {"url": "HTTPS://example.org/a.png"}},
        {"type": "image_url", "image_url": "https://example.org/a.png"},
        {"image_url": "https://example.org/a.png"},
        {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
        {"type": "audio_url", "audio_url": {"url": " http://x"}},
        {"type": "input_image", "image_url": "http://x"},
        {"type": "image_url", "uuid": "x", "video_url": {"url": "ftp://x"}},
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "prompt_embeds", "data": "AAAA"},
    ],
)
def test_an_engine_is_not_sent_to_fetch_things(tiny: Rig, part: dict[str, Any]) -> None:
    for raw in (
        json.dumps({"model": "tiny", "messages": [{"role": "user", "content": [part]}]}),
        json.dumps({"model": "tiny", "messages": [{"role": "user", "content": [part]}]}).replace(
            "_url", "\\u005furl"
        ),
    ):
        reply = tiny.post(CHAT, raw.encode())
        assert (reply.status, reply.error["code"]) == (400, "unsupported_media_url")
        assert str(reply.error["param"]).startswith("messages[0].content[0]")
    assert tiny.engines[0].seen == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": 'see https://example.org and {"image_url": "http://x"}'},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ],
)
def test_what_is_sent_along_passes(tiny: Rig, part: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}
    assert tiny.post(CHAT, body).status == 200
    assert tiny.engines[0].seen[0].body["messages"] == body["messages"]


def test_tools_may_speak_of_media(tiny: Rig) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"image_url": "http://x"}}}
    assert tiny.post(CHAT, {**GOOD, "tools": [tool]}).status == 200


# --- who calls -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        f"Token {KEY}",
        "Bearer sk-proj-123",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}x",
        f"Bearer {KEY} {KEY}",
        "Bearer sk-stoa-\xe4bcdefgh-" + "k" * 43,
    ],
)
def test_a_key_that_is_none(tiny: Rig, header: str | None) -> None:
    line = f"authorization: {header}\r\n" if header is not None else ""
    raw = json.dumps(GOOD).encode()
    with tiny.connect() as connection:
        connection.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{line}content-length: {len(raw)}\r\n\r\n".encode(
                "latin-1"
            )
            + raw
        )
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert KEY not in reply.body.decode()


def test_other_headers_with_a_key_are_harmless(tiny: Rig) -> None:
    given = {"api-key": "x", "x-api-key": "y"}
    assert tiny.post(CHAT, GOOD, headers=given).status == 200
    assert tiny.post(CHAT, GOOD, key=None, headers={"api-key": KEY}).status == 401
    assert not {"api-key", "x-api-key", "authorization"} & tiny.engines[0].seen[0].headers.keys()


def test_an_expired_key(tiny: Rig) -> None:
    secret = "sk-stoa-expired0-" + "k" * 43
    tiny.key(secret, expires_at=time.time() - 1)
    reply = tiny.post(CHAT, GOOD, key=secret)
    assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert "expired" in reply.error["message"]
    tiny.key(secret, expires_at=time.time() + 100)
    assert tiny.post(CHAT, GOOD, key=secret).status == 200


def test_a_revoked_key_is_refused_at_once(tiny: Rig) -> None:
    secret = "sk-stoa-revoked0-" + "k" * 43
    tiny.key(secret)
    with tiny.connect() as connection:
        connection.post(CHAT, GOOD, key=secret)
        assert connection.response().status == 200
        del tiny.keys[secret]
        tiny.publish()
        connection.post(CHAT, GOOD, key=secret)
        assert connection.response().error["code"] == "invalid_api_key"


def test_a_key_without_the_scope(tiny: Rig) -> None:
    secret = "sk-stoa-manager0-" + "k" * 43
    tiny.key(secret, scopes=frozenset({"manage", "read"}))
    reply = tiny.post(CHAT, GOOD, key=secret)
    assert (reply.status, reply.error["code"]) == (403, "insufficient_permissions")
    assert tiny.get("/v1/models", key=secret).status == 403


@pytest.mark.parametrize("model", ["", "Tiny", "tiny ", "gpt-4o", "tiny:", "tiny:nobody", ":poet"])
def test_an_unknown_model(tiny: Rig, model: str) -> None:
    reply = tiny.post(CHAT, {**GOOD, "model": model})
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert reply.error["param"] == "model"


def test_another_projects_model_looks_unknown(tiny: Rig) -> None:
    ours = tiny.post(CHAT, {**GOOD, "model": "nothing"}, key=OTHER_KEY)
    for model in ("tiny", "ep_tiny"):
        theirs = tiny.post(CHAT, {**GOOD, "model": model}, key=OTHER_KEY)
        assert theirs.status == 404
        assert theirs.error["message"] == ours.error["message"].replace("nothing", model)
    assert tiny.get("/v1/models", key=OTHER_KEY).json["data"] == []
    assert tiny.get("/v1/models/tiny", key=OTHER_KEY).status == 404


def test_an_allow_list(tiny: Rig) -> None:
    secret = "sk-stoa-allowed0-" + "k" * 43
    tiny.key(secret, models=frozenset({"elsewhere"}))
    assert tiny.post(CHAT, GOOD, key=secret).error["code"] == "model_not_found"
    assert tiny.get("/v1/models", key=secret).json["data"] == []
    tiny.key(secret, models=frozenset({"tiny:poet"}))
    assert tiny.post(CHAT, GOOD, key=secret).status == 404
    assert tiny.post(CHAT, {**GOOD, "model": "tiny:poet"}, key=secret).status == 200
    tiny.key(secret, models=frozenset({"tiny"}))
    assert tiny.post(CHAT, {**GOOD, "model": "ep_tiny"}, key=secret).status == 200


def test_a_stopped_endpoint(tiny: Rig) -> None:
    tiny.endpoint("off")
    tiny.change("off", stopped=True)
    reply = tiny.post(CHAT, {**GOOD, "model": "off"})
    assert (reply.status, reply.error["code"]) == (503, "endpoint_stopped")
    assert tiny.activity.events == []


def test_models(tiny: Rig) -> None:
    listed = tiny.get("/v1/models").json
    assert {"tiny", "tiny:poet"} <= {model["id"] for model in listed["data"]}
    for name in ("tiny", "tiny:poet", "tiny%3Apoet", "ep_tiny"):
        one = tiny.get(f"/v1/models/{name}")
        assert one.status == 200
        assert one.json["object"] == "model"
        assert one.json["max_model_len"] == 2048
    assert tiny.get("/v1/models/other").error["code"] == "model_not_found"
    assert tiny.get("/v1/models", key=None).status == 401
