"""An endpoint that sleeps, wakes and goes, as its owner sees it; and nothing that stays behind."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest

from tests.flows.conftest import Made
from tests.flows.stoa import Stoa, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

CROWD = 50
IDLE_S = 10  # the shortest that may be chosen


def ask(sdk: openai.OpenAI, model: str) -> openai.types.Completion:
    return sdk.completions.create(model=model, prompt="import os", max_tokens=3, temperature=0)


@pytest.mark.trap("asleep-forever")
def test_it_sleeps_and_wakes_for_a_request(stoa: Stoa, made: Made) -> None:
    endpoint = made("sleepy", min_replicas=0, scale_to_zero_timeout_s=IDLE_S)
    assert endpoint["status"] == "scaled_to_zero"
    assert endpoint["replicas"] == []
    free = stoa.api.free_devices()

    def asleep() -> bool:
        found = stoa.api.get(f"/endpoints/{endpoint['id']}")
        return bool(found["status"] == "scaled_to_zero" and stoa.api.free_devices() == free)

    with stoa.client() as sdk:
        known = until(
            lambda: [model for model in sdk.models.list() if model.id == "sleepy"],
            what="the gateway knows it",
        )
        assert known[0].model_dump()["status"] == "waiting"
        first = ask(sdk, "sleepy")
        (one,) = stoa.api.replicas(endpoint["id"])
        assert (one["state"], one["start_tier"]) == ("ready", "standby")
        assert one["id"] in stoa.engines()
        (told,) = until(partial(routed, stoa, endpoint["id"]), what="the start is on record")
        assert (told["tier"], told["target_s"]) == ("standby", 18.0)
        assert told["missed"] is (told["total_s"] > 18.0)
        # Nobody asks any more.
        until(asleep, within_s=60, what="it sleeps again")
        (one,) = stoa.api.replicas(endpoint["id"])
        stopped = stoa.api.transitions(endpoint["id"])[-2]
        assert (stopped["to_state"], stopped["reason"]) == ("draining", "idle")
        assert IDLE_S <= stopped["seconds"] < IDLE_S + 20
        assert one["id"] not in stoa.engines()
        # A crowd at its door: all are answered, by one engine.
        answers = gather(sdk, CROWD)
    assert len(answers) == CROWD
    assert {answer.choices[0].text for answer in answers} == {first.choices[0].text}
    replicas = stoa.api.replicas(endpoint["id"])
    assert [replica["state"] for replica in replicas] == ["ready", "stopped"]
    assert replicas[0]["start_tier"] == "standby"
    woken = [t for t in stoa.api.transitions(endpoint["id"]) if t["to_state"] == "requested"]
    assert [t["reason"] for t in woken] == ["wake", "wake"]
    for answer in [first, *answers]:
        request_id = answer._request_id or ""
        booked = until(partial(stoa.api.tokens, request_id), what="it is booked")
        assert booked["output_tokens"] == 3


def routed(stoa: Stoa, endpoint_id: str) -> list[dict[str, Any]]:
    """Its newest start, once a gateway has said that it routes there."""
    newest = stoa.api.get(f"/endpoints/{endpoint_id}/starts")["newest"]
    return [start for start in newest[:1] if start["routed_s"] is not None]


def gather(sdk: openai.OpenAI, count: int) -> list[openai.types.Completion]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(sdk, "sleepy"), range(count)))


def test_each_phase_is_shown_and_logs_can_be_followed(stoa: Stoa, made: Made) -> None:
    endpoint = made("watched")
    seen: list[dict[str, Any]] = []
    statuses = []
    for name, data in stoa.api.events(f"/endpoints/{endpoint['id']}/events"):
        if name == "transition":
            seen.append(data)
        else:
            statuses.append(data["status"])
        if statuses[-1:] == ["ready"]:
            break
    states = [data["to_state"] for data in seen]
    order = ["requested", "placed", "fetching", "starting", "probing", "ready"]
    # A phase that was over before the node's next report is skipped, never swapped.
    assert states == [state for state in order if state in states]
    assert {"requested", "placed", "starting", "ready"} <= set(states)
    assert {data["replica"] for data in seen} == {seen[0]["replica"]}
    assert all(data["seconds"] >= 0 for data in seen)
    replica = stoa.api.get(f"/replicas/{seen[0]['replica']}")
    assert replica["phase_seconds"].keys() >= {"fetching", "starting", "probing"}
    assert replica["engine_report"]["version"]
    assert replica["engine_report"]["kv_cache_tokens"] > 0
    assert replica["engine_report"]["max_model_len"] == 2048
    path = f"/replicas/{replica['id']}/logs"
    tail = until(lambda: stoa.api.get(path, lines="5")["data"], what="log lines arrived")
    assert len(tail) <= 5
    assert [line["number"] for line in tail] == sorted({line["number"] for line in tail})
    # Follow: the end of the engine is in its last lines, and they come by themselves.
    lines: list[dict[str, Any]] = []
    asked = False
    deadline = time.monotonic() + 60
    for name, data in stoa.api.events(path, follow="true", lines="1"):
        assert name == "line"
        lines.append(data)
        if not asked:
            stoa.api.post(f"/endpoints/{endpoint['id']}/stop")
            asked = True
        elif "shutdown" in data["text"].lower() or time.monotonic() > deadline:
            break
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(lines) > 1


def test_stop_and_delete_leave_no_process(stoa: Stoa, made: Made) -> None:
    free = stoa.api.free_devices()
    endpoint = made.ready("brief")
    replica_id = endpoint["replicas"][0]["id"]
    assert stoa.engines().count(replica_id) == 1
    stoa.api.post(f"/endpoints/{endpoint['id']}/stop")
    made.await_status(endpoint["id"], "stopped")
    until(lambda: stoa.api.free_devices() == free, what="its devices are free")
    assert replica_id not in stoa.engines()
    with stoa.client() as sdk, pytest.raises(openai.APIStatusError) as refusal:
        ask(sdk, "brief")
    assert (refusal.value.status_code, refusal.value.code) == (503, "endpoint_stopped")
    stoa.api.post(f"/endpoints/{endpoint['id']}/start")
    again = made.await_status(endpoint["id"], "ready")["replicas"][0]["id"]
    assert again != replica_id
    stoa.api.delete(f"/endpoints/{endpoint['id']}")
    until(lambda: again not in stoa.engines(), what="no process is left")
    until(lambda: stoa.api.free_devices() == free, what="its devices are free")
    with stoa.client() as sdk, pytest.raises(openai.NotFoundError):
        ask(sdk, "brief")
    assert stoa.api.http.get(f"/endpoints/{endpoint['id']}").status_code == 404
    # What it served stays on the books.
    assert stoa.api.get(f"/replicas/{again}")["state"] == "stopped"
