"""What must not be, asked of the real thing: a clear refusal, and nothing half-done behind it.

An agent with yesterday's credential: tests/api/test_agent_door.py. Bodies that steer an engine,
and other shapes of bad JSON: tests/gateway/test_bodies.py.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from tests.flows.api import moment
from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, endpoint_body, environment_of, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

CHAT = "/v1/chat/completions"


@pytest.fixture
def gateway(stoa: Stoa) -> Iterator[httpx.Client]:
    run = stoa.run
    headers = {"authorization": f"Bearer {run['api_key']}", "content-type": "application/json"}
    with httpx.Client(base_url=run["gateway_url"], headers=headers, timeout=60) as http:
        yield http


def refused(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    error: dict[str, Any] = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error


# --- starts that fail ----------------------------------------------------------------------


def failure(stoa: Stoa, endpoint_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The endpoint in its back-off, and the replica that failed."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = stoa.api.get(f"/endpoints/{endpoint_id}")
        return found if found["status"] == "failed" else None

    endpoint = until(look, within_s=90, what="the endpoint has failed")
    assert endpoint is not None
    failed = [r for r in stoa.api.replicas(endpoint_id) if r["state"] == "failed"]
    return endpoint, failed[-1]


def test_a_model_that_is_not_there(stoa: Stoa, made: Made) -> None:
    free = stoa.api.free_devices()
    wished = made("ghost", model="/nowhere/at/all")
    endpoint, replica = failure(stoa, wished["id"])
    assert replica["reason"] == "model_not_found"
    assert "/nowhere/at/all" in replica["detail"]
    assert "model_not_found" in endpoint["message"]
    assert replica["id"] not in stoa.engines()
    # The next try waits, and the one after it longer.
    first = moment(replica["state_at"])
    assert timedelta(seconds=2) <= moment(endpoint["retry_at"]) - first <= timedelta(seconds=4)

    def second() -> dict[str, Any] | None:
        failed = [r for r in stoa.api.replicas(endpoint["id"]) if r["state"] == "failed"]
        return failed[0] if len(failed) > 1 else None

    again = until(second, within_s=60, what="a second try failed")
    assert again is not None
    assert moment(again["created_at"]) - first >= timedelta(seconds=2)
    later: dict[str, Any] = stoa.api.get(f"/endpoints/{endpoint['id']}")
    assert moment(later["retry_at"]) - moment(again["state_at"]) >= timedelta(seconds=4)
    stoa.api.post(f"/endpoints/{endpoint['id']}/stop")
    made.await_status(endpoint["id"], "stopped")
    assert stoa.api.free_devices() == free


def test_an_engine_that_crashes_at_its_start(stoa: Stoa, made: Made) -> None:
    free = stoa.api.free_devices()
    # A setting that may be chosen, and that this model cannot have.
    wished = made("crash", engine_args={"max_model_len": 1_000_000})
    endpoint, replica = failure(stoa, wished["id"])
    assert replica["reason"] == "engine_exited"
    assert "max_model_len" in replica["detail"]
    assert "max_model_len" in replica["log_tail"]
    assert "engine_exited" in endpoint["message"]
    assert moment(endpoint["retry_at"]) > moment(replica["state_at"])
    stoa.api.post(f"/endpoints/{endpoint['id']}/stop")
    made.await_status(endpoint["id"], "stopped")
    until(lambda: stoa.api.free_devices() == free, what="its devices are free")
    assert replica["id"] not in stoa.engines()
    path = f"/replicas/{replica['id']}/logs"
    until(
        lambda: "max_model_len" in str(stoa.api.get(path, lines="500")["data"]),
        what="its whole log has arrived",
    )


# --- wishes that are refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "code", "words"),
    [
        ({"engine_args": {"max_model_lenn": 1}}, None, "engine_arg_unknown", "max_model_len"),
        ({"engine_args": {"max_model_len": "x"}}, None, "engine_arg_invalid", "max_model_len"),
        ({"engine_args": {"trust_remote_code": True}}, None, "engine_arg_forbidden", "container"),
        ({"device_count": 17}, "device_count", "device_count_too_large", "17"),
        ({"device_kind": "nvidia-h900"}, "device_kind", "device_kind_unknown", "cpu"),
        ({"model": "../../etc"}, "model", "invalid_model", "hub id"),
        ({"name": "with\x07bell"}, "name", "invalid_name", "a-z"),
        ({"name": "two\nlines"}, "name", "invalid_name", "a-z"),
        ({"name": ""}, "name", "invalid_name", "a-z"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas", "invalid_min_replicas", "2"),
    ],
)
def test_a_wish_that_cannot_be(
    stoa: Stoa, changes: dict[str, Any], field: str | None, code: str, words: str
) -> None:
    before = wishes(stoa)
    body = endpoint_body(stoa, "wrong") | changes
    status, problem = stoa.api.refused("/endpoints", body)
    assert (status, problem["code"]) == (422, code)
    assert field is None or problem["field"] == field
    assert words in problem["detail"]
    assert wishes(stoa) == before


def wishes(stoa: Stoa) -> list[tuple[str, str, int]]:
    """What is wanted; what is seen of it changes by itself."""
    found = stoa.api.get("/endpoints")["data"]
    return [(one["id"], one["name"], one["version"]) for one in found]


def test_a_name_that_is_taken(stoa: Stoa) -> None:
    status, problem = stoa.api.refused("/endpoints", endpoint_body(stoa, "hello"))
    assert (status, problem["field"]) == (409, "name")


@pytest.mark.parametrize("name", ["a\x00key", "bell\x07", "  ", "x" * 500])
def test_a_name_that_no_key_may_have(stoa: Stoa, name: str) -> None:
    project = stoa.api.endpoint("hello")["project"]
    status, problem = stoa.api.refused("/api-keys", {"project": project, "name": name})
    assert status == 422
    assert "name" in json.dumps(problem)


@pytest.mark.parametrize("body", [b"not json", b"[1, 2]", b"", b'{"project": '])
def test_a_wish_that_is_no_json_object(stoa: Stoa, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = stoa.api.http.post("/endpoints", content=body, headers=headers)
    assert reply.status_code in (400, 422)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["detail"]


def test_a_wish_of_20_megabytes(stoa: Stoa) -> None:
    body = json.dumps(endpoint_body(stoa, "big", padding="x" * 20_000_000)).encode()
    headers = {"content-type": "application/json"}
    reply = stoa.api.http.post("/endpoints", content=body, headers=headers)
    assert reply.status_code == 413
    assert reply.headers["content-type"] == "application/problem+json"
    assert not stoa.api.get("/endpoints", name="big")["data"]


# --- keys -----------------------------------------------------------------------------------


def new_key(stoa: Stoa, **changes: Any) -> dict[str, Any]:
    project = stoa.api.endpoint("hello")["project"]
    made: dict[str, Any] = stoa.api.post(
        "/api-keys", {"project": project, "name": "short-lived", **changes}
    )
    return made


def admitted(gateway: httpx.Client, secret: str) -> bool:
    reply = gateway.get("/v1/models", headers={"authorization": f"Bearer {secret}"})
    if reply.status_code == 200:
        return True
    refused(reply, 401, "invalid_api_key")
    return False


def test_a_revoked_key_is_refused_within_a_second(stoa: Stoa, gateway: httpx.Client) -> None:
    key = new_key(stoa)
    until(lambda: admitted(gateway, key["secret"]), what="the gateway knows the key")
    stoa.api.delete(f"/api-keys/{key['id']}")
    began = time.monotonic()
    until(lambda: not admitted(gateway, key["secret"]), what="it is refused")
    assert time.monotonic() - began < 1.0
    with stoa.client(key["secret"]) as sdk, pytest.raises(openai.AuthenticationError) as refusal:
        sdk.models.list()
    assert refusal.value.code == "invalid_api_key"


def test_an_expired_key(stoa: Stoa, gateway: httpx.Client) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=3)
    key = new_key(stoa, expires_at=expires_at.isoformat())
    until(lambda: admitted(gateway, key["secret"]), within_s=2.5, what="it is good until then")
    until(lambda: not admitted(gateway, key["secret"]), what="its time is over")
    assert datetime.now(UTC) >= expires_at
    with stoa.client(key["secret"]) as sdk, pytest.raises(openai.AuthenticationError) as refusal:
        sdk.models.list()
    assert "expired" in refusal.value.message


@pytest.mark.parametrize(
    "secret", ["nonsense", "sk-stoa-short", "sk-stoa-abcdefgh-" + "A" * 43, "\u20ac" * 8]
)
def test_a_malformed_or_unknown_key(stoa: Stoa, gateway: httpx.Client, secret: str) -> None:
    headers = httpx.Headers({b"authorization": b"Bearer " + secret.encode()})
    refused(gateway.get("/v1/models", headers=headers), 401, "invalid_api_key")
    reply = httpx.get(f"{stoa.run['console_url']}/api/v1/endpoints", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["content-type"] == "application/problem+json"


# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"not json", b'"text"', b"", b'{"model": "hello", '])
def test_a_request_that_is_no_json_object(gateway: httpx.Client, body: bytes) -> None:
    refused(gateway.post(CHAT, content=body), 400, "invalid_json")


def test_a_request_of_20_megabytes(gateway: httpx.Client) -> None:
    message = {"role": "user", "content": "x" * 20_000_000}
    body = json.dumps({"model": "hello", "messages": [message]}).encode()
    refused(gateway.post(CHAT, content=body), 413, "request_too_large")
    assert gateway.get("/v1/models").status_code == 200


def test_an_unknown_model(stoa: Stoa) -> None:
    with stoa.client() as sdk, pytest.raises(openai.NotFoundError) as refusal:
        sdk.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")


def test_a_prompt_beyond_the_models_limit_is_refused_and_free(stoa: Stoa) -> None:
    with stoa.client() as sdk, pytest.raises(openai.BadRequestError) as refusal:
        sdk.chat.completions.create(
            model="hello", messages=[{"role": "user", "content": "import os\n" * 3000}]
        )
    assert refusal.value.code == "context_length_exceeded"
    assert "2048" in refusal.value.message
    request_id = refusal.value.response.headers["x-request-id"]
    # One that comes after it is booked; this one never is.
    with stoa.client() as sdk:
        after = sdk.completions.create(model="hello", prompt="x", max_tokens=1)
    until(lambda: stoa.api.tokens(after._request_id or ""), what="the next one is booked")
    assert stoa.api.usage(request=request_id) == []


# --- nodes ----------------------------------------------------------------------------------


def test_an_enrolment_token_admits_once(stoa: Stoa) -> None:
    """The token that this machine joined with, a second time."""
    token = environment_of(stoa.pid_of("agent"))["STOA_AGENT_TOKEN"]
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "thief")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, None)
    body = {
        "token": token,
        "name": "thief",
        "csr_pem": request.public_bytes(serialization.Encoding.PEM).decode(),
        "agent_version": "1",
    }
    reply = httpx.post(f"{stoa.run['console_url']}/agent/v1/enroll", json=body)
    assert reply.status_code == 401
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["code"] == "enrollment_token_used"
    assert "used" in problem["detail"]
    assert token not in reply.text
