"""Other names for endpoints: who answers, when the next is tried, and what is booked."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.directory import Alias, Project
from gateway.limits import Limits
from tests.gateway.rig import KEY, ORGANIZATION, OTHER_KEY, PROJECT, Rig
from tests.gateway.wire import Response

CHAT = "/v1/chat/completions"
BOTH = frozenset({"no_capacity", "context_overflow"})


@pytest.fixture
def rig() -> Iterator[Rig]:
    """`big` and `small`, each with an engine; `small` has an adapter."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), Limits(hold_s=1.5, hold_quiet_s=0.2))
        rig.key()
        rig.endpoint("big", [rig.engine("ep_big")])
        rig.endpoint("small", [rig.engine("ep_small", adapters=["poet"])], adapters=["poet"])
        yield rig
        rig.stop()


def alias(rig: Rig, *targets: str, on: frozenset[str] = BOTH) -> None:
    names = {"gpt-4o": Alias(targets, on)}
    rig.projects[PROJECT] = Project(PROJECT, ORGANIZATION, aliases=names)
    rig.publish()


def ask(rig: Rig, **fields: Any) -> Response:
    headers = fields.pop("headers", None)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **fields}
    return rig.post(CHAT, body, headers=headers)


def answered(reply: Response) -> str:
    assert reply.status == 200, reply.body
    assert reply.json["model"] == "gpt-4o"
    return reply.headers["x-stoa-endpoint"]


def test_the_first_answers_under_the_name_that_was_asked_for(rig: Rig) -> None:
    alias(rig, "big", "small")
    assert answered(ask(rig)) == "big"
    stream = ask(rig, stream=True)
    assert stream.headers["x-stoa-endpoint"] == "big"
    assert {event["model"] for event in stream.events[:-1]} == {"gpt-4o"}
    alias(rig, "small:poet")
    assert answered(ask(rig)) == "small"
    assert rig.engines[1].seen[-1].body["model"] == "poet"


def test_one_without_a_replica_is_woken_and_the_next_answers_at_once(rig: Rig) -> None:
    rig.change("big", replicas=())
    alias(rig, "big", "small")
    assert answered(ask(rig)) == "small"
    assert ("ep_big", "waiting", 1) in rig.activity.events
    rig.change("big", stopped=True)
    assert answered(ask(rig)) == "small"


def test_who_would_rather_wait_for_the_first_does(rig: Rig) -> None:
    rig.change("big", replicas=())
    alias(rig, "big", "small")
    with rig.connect() as connection:
        body = {"model": "gpt-4o", "messages": []}
        connection.post(CHAT, body, key=KEY, headers={"x-stoa-wait": "5"})
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        rig.change("big", replicas=rig.replicas("big", rig.engines[:1]))
        assert answered(connection.response()) == "big"


def test_when_none_is_ready_the_first_is_waited_for(rig: Rig) -> None:
    rig.change("big", replicas=())
    rig.change("small", replicas=())
    alias(rig, "big", "small")
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "gpt-4o", "messages": []}, key=KEY)
        rig.until(lambda: rig.server.context.admission.waiting == 1)
        rig.change("small", replicas=rig.replicas("small", rig.engines[1:]))
        # Its patience for the first is over, and by now the second is there.
        assert answered(connection.response()) == "small"


def test_one_at_its_capacity_passes_on_and_each_attempt_is_booked(rig: Rig) -> None:
    alias(rig, "big", "small")
    rig.engines[0].faults = "error=503"
    reply = ask(rig)
    assert answered(reply) == "small"
    first, second = rig.closed(2)
    assert (first.endpoint_id, first.status, first.output_tokens) == ("ep_big", 503, 0)
    assert (second.endpoint_id, second.status) == ("ep_small", 200)
    assert second.output_tokens > 0
    assert first.request_id == reply.headers["x-request-id"]
    assert second.request_id == f"{first.request_id}.1"
    assert rig.activity.balance("running") == 0
    assert rig.server.context.metrics.in_flight == 0


def test_one_whose_engines_cannot_be_reached_passes_on(rig: Rig) -> None:
    alias(rig, "big", "small")
    rig.run(rig.engines[0].stop())
    assert answered(ask(rig)) == "small"


def test_a_request_that_fells_engines_is_not_passed_on(rig: Rig) -> None:
    rig.endpoint("big", [rig.engines[0], rig.engine("ep_big")])
    alias(rig, "big", "small")
    reply = ask(rig, user="die=0")
    assert reply.error["code"] == "engine_unavailable"
    assert rig.engines[1].seen == []


def test_what_does_not_fit_passes_on(rig: Rig) -> None:
    rig.change("small", max_model_len=8192)
    alias(rig, "big", "small")
    body = {"model": "gpt-4o", "prompt": list(range(3000)), "max_tokens": 5}
    reply = rig.post("/v1/completions", body)
    assert answered(reply) == "small"
    assert rig.engines[0].seen == []  # the gateway knew
    alias(rig, "big", "small", on=frozenset({"no_capacity"}))
    assert rig.post("/v1/completions", body).error["code"] == "context_length_exceeded"


def test_what_an_engine_finds_too_long_passes_on(rig: Rig) -> None:
    alias(rig, "big", "small")
    rig.engines[0].faults = "error=400"
    assert answered(ask(rig)) == "small"


def test_without_a_reason_to_pass_on_the_first_ones_answer_stands(rig: Rig) -> None:
    alias(rig, "big", "small", on=frozenset())
    rig.engines[0].faults = "error=503"
    assert ask(rig).error["code"] == "engine_overloaded"
    rig.change("big", stopped=True)
    assert ask(rig).error["code"] == "endpoint_stopped"
    assert rig.engines[1].seen == []


def test_when_all_have_failed_the_first_error_is_told(rig: Rig) -> None:
    alias(rig, "big", "small")
    for engine in rig.engines:
        engine.faults = "error=503"
    reply = ask(rig)
    assert (reply.status, reply.error["code"]) == (503, "engine_overloaded")
    assert len(rig.closed(2)) == 2
    assert ask(rig).status == 503  # the connection and the books are well


def test_an_answer_that_has_begun_is_never_replaced(rig: Rig) -> None:
    alias(rig, "big", "small")
    reply = ask(rig, stream=True, user="die=3")
    assert reply.events[-1]["error"]["code"] == "engine_gone"
    assert rig.engines[1].seen == []


def test_a_key_is_held_to_its_models(rig: Rig) -> None:
    alias(rig, "big", "small")
    rig.key(models=frozenset({"small"}))
    assert answered(ask(rig)) == "small"
    rig.key(models=frozenset({"gpt-4o"}))
    assert answered(ask(rig)) == "big"
    assert rig.chat("big").error["code"] == "model_not_found"
    rig.key(models=frozenset({"other"}))
    assert ask(rig).error["code"] == "model_not_found"


def test_targets_that_are_gone_are_passed_over(rig: Rig) -> None:
    alias(rig, "gone", "small:nobody", "small")
    assert answered(ask(rig)) == "small"
    alias(rig, "gone")
    assert ask(rig).error["code"] == "model_not_found"


def test_an_alias_is_of_its_project_alone(rig: Rig) -> None:
    alias(rig, "big")
    rig.key(OTHER_KEY, project_id="prj_theirs", organization_id="org_theirs")
    body = {"model": "gpt-4o", "messages": []}
    assert rig.post(CHAT, body, key=OTHER_KEY).error["code"] == "model_not_found"


def test_models_lists_aliases(rig: Rig) -> None:
    rig.change("big", replicas=())
    alias(rig, "big", "small")
    listed = {model["id"]: model for model in rig.get("/v1/models").json["data"]}
    assert list(listed) == ["big", "small", "small:poet", "gpt-4o"]
    found = listed["gpt-4o"]
    assert (found["status"], found["targets"]) == ("ready", ["big", "small"])
    assert rig.get("/v1/models/gpt-4o").json == found
    rig.key(models=frozenset({"other"}))
    assert rig.get("/v1/models").json["data"] == []
    assert rig.get("/v1/models/gpt-4o").status == 404


def test_a_key_that_is_revoked_on_the_way_is_refused(rig: Rig) -> None:
    alias(rig, "big", "small")
    rig.engines[0].faults = "error=503;delay=0.3"
    with rig.connect() as connection:
        connection.post(CHAT, {"model": "gpt-4o", "messages": []}, key=KEY)
        rig.until(lambda: bool(rig.engines[0].seen))
        rig.keys.clear()
        rig.publish()
        assert connection.response().error["code"] == "invalid_api_key"
    assert rig.engines[1].seen == []
