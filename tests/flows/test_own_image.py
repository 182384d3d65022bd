"""Endpoints from images, as their owners see them: made over the API, asked through the gateway,
and gone."""

import json
from functools import partial
from typing import Any

import httpx
import pytest

from tests.agent import engine_image, image_program, oci
from tests.agent.podman import PROBE, PROGRAM, Podman
from tests.flows.conftest import Made
from tests.flows.nodes import Operator
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

VERSION = "0.32.0+image"


def said(stoa: Stoa, model: str) -> str:
    with stoa.client() as sdk:
        messages: Any = [{"role": "user", "content": "who are you?"}]
        found = sdk.chat.completions.create(model=model, messages=messages, max_tokens=4)
        return str(found.choices[0].message.content)


def replica(stoa: Stoa, endpoint: dict[str, Any]) -> str:
    (found,) = stoa.api.replicas(endpoint["id"])
    assert found["state"] == "ready"
    return str(found["id"])


def containers(podman: Podman, replica_id: str) -> list[Any]:
    listed = podman.client.containers.list
    return list(listed(all=True, filters={"label": f"stoa.replica={replica_id}"}))


def gone(podman: Podman, *replica_ids: str) -> None:
    until(lambda: not any(containers(podman, one) for one in replica_ids), what="they are gone")


def test_an_image_serves(stoa: Stoa, made: Made, podman: Podman) -> None:
    secret = {"project": stoa.api.endpoint("hello")["project"], "kind": "env", "name": "colour"}
    stoa.api.post("/secrets", secret | {"value": {"value": "a hidden blue"}})
    wish = {"model": "", "engine": "custom", "engine_args": {}}
    raw = {"reference": PROBE, "openai": False, "secrets": {"COLOUR": "colour"}}
    own = made("own-image", **wish, image={"reference": PROBE, "env": {"COLOUR": "blue"}})
    other = made("own-api", **wish, image=raw)
    for endpoint in (own, other):
        made.await_status(endpoint["id"], "ready")
    ids = [replica(stoa, endpoint) for endpoint in (own, other)]
    (container,) = containers(podman, ids[0])
    assert container.labels["stoa.organization"].startswith("org_")
    assert container.attrs["HostConfig"]["NetworkMode"] == "none"
    _its_own_api(stoa)
    assert said(stoa, "own-image") == "an image answers"
    # The next agent finds it as the one before left it.
    killed = stoa.kill("agent")
    assert said(stoa, "own-image") == "an image answers"
    until(partial(stoa.restarted, "agent", killed), what="the agent is back")
    made.clear()
    gone(podman, *ids)


def _its_own_api(stoa: Stoa) -> None:
    """Any path and method below /e/NAME/, and nothing of OpenAI's."""
    key = {"authorization": f"Bearer {stoa.run['api_key']}", "cookie": "mine=1"}
    with httpx.Client(base_url=stoa.run["gateway_url"], headers=key, timeout=60) as http:
        environment = http.get("/e/own-api/environment").json()
        assert environment["COLOUR"] == "a hidden blue"
        assert stoa.run["api_key"] not in json.dumps(environment)
        assert http.post("/e/own-api/echo", content="as it is").json() == {"echo": "as it is"}
        with http.stream("GET", "/e/own-api/slow?3") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert "".join(stream.iter_text()) == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        theirs = http.get("/e/own-api/nowhere")
        assert (theirs.status_code, theirs.json()) == (404, {"healthy": True})
        body = {"model": "own-api", "messages": []}
        refused = http.post("/v1/chat/completions", json=body)
        assert refused.json()["error"]["code"] == "unsupported_operation"
        assert http.get("/e/own-api/environment", headers={"authorization": ""}).status_code == 401


def test_vllm_serves_from_an_image(stoa: Stoa, made: Made, podman: Podman) -> None:
    """One that the operator gave a version's name; its owner names the version alone."""
    version = {"engine": "vllm", "version": VERSION, "image": engine_image.REFERENCE}
    with Operator(stoa) as operator:
        operator.post("/engine-versions", version)
    endpoint = made.ready("from-image", engine_version=VERSION)
    id = replica(stoa, endpoint)
    assert said(stoa, "from-image")
    (found,) = stoa.api.replicas(endpoint["id"])
    assert found["engine_report"]["version"] == "0.32.0"
    (container,) = containers(podman, id)

    hello = replica(stoa, stoa.api.endpoint("hello"))
    targets = {
        "the database": f"tcp:127.0.0.1:{stoa.env['STOA_POSTGRES_PORT']}",
        "the broker": f"tcp:127.0.0.1:{stoa.env['STOA_VALKEY_PORT']}",
        "the agents' door": f"tcp:127.0.0.1:{stoa.env['STOA_AGENTS_PORT']}",
        "the agent's key": f"file:{stoa.var}/agent/identity.json",
        "the agent's directory": f"folder:{stoa.var}/agent",
        "another's engine": f"unix:{stoa.socket(hello)}",
        "its own door": f"unix:{stoa.socket(id)}",
        "the engine of containers": f"unix:{podman.socket}",
    }
    host = [image_program.reach(target) for target in targets.values()]
    assert all(one["reached"] for one in host), host
    closed = ["tcp:192.0.2.1:443", "write:/stoa/model/x", "write:/etc/x"]
    assert not any(
        one["reached"] for one in inside(podman, container.id, *targets.values(), *closed)
    )
    made.clear()
    gone(podman, id)


def inside(podman: Podman, container: str, *targets: str) -> list[dict[str, Any]]:
    """What is reached from there. The program of the tests is not in that image: its own Python
    runs it."""
    command = [str(oci.python()), "-I", "-c", PROGRAM.read_text(), "reach", *targets]
    api = podman.client.api
    found = api.exec_start(api.exec_create(container, command)["Id"])
    made = [json.loads(line) for line in found.splitlines()]
    assert len(made) == len(targets), found
    return made
