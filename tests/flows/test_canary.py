"""What a client says, what it names itself and what it is answered reaches no disk.

Words that occur nowhere else go through a real vLLM, in every place that a request has, served,
refused and cut short; then every file of the installation is searched for them.
"""

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.flows import canary
from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, until
from workers.agent import kin

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

PLACES = (
    "system", "prompt", "image", "user", "metadata", "run", "agent", "requestid",
    "toolname", "toolargs", "toolresult", "echo", "path", "model", "header",
)  # fmt: skip


@pytest.fixture
def words() -> dict[str, str]:
    """A word for each place; letters alone, so that none is written in another way anywhere."""
    letters = "bcdfghjklmnpqrstvwxz"
    made = {}
    for place in PLACES:
        tail = "".join(secrets.choice(letters) for _ in range(16))
        made[place] = f"canary{place}{tail}"
    return made


def chat(words: dict[str, str], model: str, **changes: Any) -> dict[str, Any]:
    """A conversation with a tool call in it."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": words["toolname"], "arguments": f'{{"x": "{words["toolargs"]}"}}'},
    }
    return {
        "model": model,
        "user": words["user"],
        "metadata": {"team": words["metadata"]},
        "messages": [
            {"role": "system", "content": words["system"]},
            {"role": "user", "content": words["prompt"]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": words["toolresult"]},
            {"role": "user", "content": words["prompt"]},
        ],
        "max_tokens": 60,
        **changes,
    }


def echo(words: dict[str, str]) -> dict[str, Any]:
    """Makes the engine say a word, whatever its model would say."""
    schema = {"type": "string", "enum": [words["echo"]]}
    named = {"name": "echo", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


@pytest.fixture
def http(stoa: Stoa, words: dict[str, str]) -> Iterator[httpx.Client]:
    run = stoa.run
    headers = {
        "authorization": f"Bearer {run['api_key']}",
        "x-stoa-run": words["run"],
        "x-stoa-agent": words["agent"],
        "x-request-id": words["requestid"],
        "x-anything": words["header"],
    }
    with httpx.Client(base_url=run["gateway_url"], headers=headers, timeout=180) as made:
        yield made


def served(http: httpx.Client, words: dict[str, str], model: str) -> None:
    body = chat(words, model)
    reply = http.post("/v1/chat/completions", json=body | echo(words))
    assert reply.status_code == 200, reply.text
    assert words["echo"] in reply.text
    assert "decode;dur=" in reply.headers["server-timing"]  # the engine tells both parts
    streamed = http.post("/v1/chat/completions", json=body | {"stream": True})
    assert streamed.status_code == 200
    assert streamed.text.rstrip().endswith("data: [DONE]")
    plain = {"model": model, "prompt": words["prompt"], "user": words["user"], "logprobs": 2}
    assert http.post("/v1/completions", json=plain).status_code == 200
    assert http.post("/v1/embeddings", json={"model": model, "input": words["prompt"]}).is_error


def refused(http: httpx.Client, words: dict[str, str], model: str) -> None:
    """By us and by the engine, whose complaints quote what they complain of."""
    image = {"type": "image_url", "image_url": {"url": f"file:///{words['image']}"}}
    broken_call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": words["toolname"], "arguments": f"{{{words['toolargs']}"},
    }
    conversation = chat(words, model)["messages"]
    for changes in (
        {"model": words["model"]},
        {"messages": [{"role": words["prompt"], "content": words["prompt"]}]},
        {"messages": [{"role": "user", "content": {"text": words["prompt"]}}]},
        {"messages": [{"role": "user", "content": [image]}]},
        {"messages": [{"role": "user", "content": f"{words['prompt']} " * 3000}]},
        {"messages": [*conversation[:2], {"role": "assistant", "tool_calls": [broken_call]}]},
        {"tools": [{"type": "function", "function": {"name": words["toolname"], "parameters": 1}}]},
        {"tool_choice": {"type": "function", "function": {"name": words["toolname"]}}},
        {"response_format": {"type": "regex", "regex": f"({words['prompt']}"}},
        {"temperature": words["prompt"]},
        {"stop": [words["prompt"]] * 5000},
    ):
        http.post("/v1/chat/completions", json=chat(words, model) | changes)
    for grammar in ({"regex": f"({words['prompt']}["}, {"grammar": f"root ::= {words['prompt']}"}):
        body = chat(words, model) | {"structured_outputs": grammar}
        http.post("/v1/chat/completions", json=body)
    http.post(f"/v1/{words['path']}?{words['path']}", json={})
    http.get(f"/v1/models/{words['model']}")
    with contextlib.suppress(httpx.HTTPError):
        http.post("/v1/chat/completions", content=f'{{"messages": "{words["prompt"]}')


def leader(stoa: Stoa, replica_id: str) -> int:
    """The engine's first process: it writes to its replica's log."""
    log = stoa.var / "agent" / "logs" / f"{replica_id}.log"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := kin.read(int(entry.name))) is not None:
            with contextlib.suppress(OSError):
                leads = process.session == process.pid
                if leads and Path(f"/proc/{process.pid}/fd/1").readlink() == log:
                    return process.pid
    raise LookupError(replica_id)


def cut_short(stoa: Stoa, http: httpx.Client, words: dict[str, str], endpoint: Any) -> None:
    """The engine dies in the midst of an answer, in the way that leaves a core if one may."""
    replica_id = stoa.api.endpoint(endpoint["name"])["replicas"][0]["id"]
    pid = leader(stoa, replica_id)
    long = chat(words, endpoint["name"], stream=True, max_tokens=1500, ignore_eos=True)
    with (
        contextlib.suppress(httpx.HTTPError),
        http.stream("POST", "/v1/chat/completions", json=long) as reply,
    ):
        for number, _ in enumerate(reply.iter_lines()):
            if number == 20:
                os.kill(pid, signal.SIGSEGV)

    def over() -> bool:
        return replica_id not in [r["id"] for r in stoa.api.replicas() if r["state"] == "ready"]

    until(over, within_s=60, what="the replica has failed")


def test_no_word_of_a_client_reaches_a_disk(
    stoa: Stoa, made: Made, http: httpx.Client, words: dict[str, str]
) -> None:
    endpoint = made.ready("canary")
    served(http, words, endpoint["name"])
    refused(http, words, endpoint["name"])
    with stoa.client() as sdk, contextlib.suppress(openai.APIError):
        sdk.responses.create(model=endpoint["name"], input=words["prompt"], user=words["user"])
    cut_short(stoa, http, words, endpoint)
    canary.flush(stoa)
    assert canary.found(stoa, words.values()) == {}


def test_the_search_finds_what_is_there(stoa: Stoa, words: dict[str, str]) -> None:
    """The other half of the proof: in the books, in the spool, in an engine's log."""
    hello = stoa.api.endpoint("hello")
    planted = stoa.var / "agent" / "logs" / "planted"
    planted.write_text(f"x{words['prompt']}x")
    canary.flush(stoa)
    try:
        hits = canary.found(stoa, [words["prompt"], hello["id"]])
    finally:
        planted.unlink()
    assert hits[str(planted)] == [words["prompt"]]
    folders = {Path(path).relative_to(stoa.var).parts[0] for path in hits}
    assert {"pg", "gateway", "agent"} <= folders
