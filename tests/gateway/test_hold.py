"""Endpoints at zero: requests wait, wake them, and are served; or learn when to come back."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import operations
from gateway.directory import Replica
from gateway.limits import Limits
from tests.gateway.rig import KEY, Rig
from tests.gateway.test_forms import MARK, form, part

CHAT = "/v1/chat/completions"
BODY: dict[str, object] = {"model": "sleepy", "messages": []}


@pytest.fixture
def sleepy() -> Iterator[Rig]:
    limits = Limits(hold_s=1.5, hold_quiet_s=0.2, held_per_endpoint=3)
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.engine("ep_sleepy")
        rig.endpoint("sleepy")
        yield rig
        rig.stop()


def wake(rig: Rig) -> None:
    rig.change("sleepy", replicas=rig.replicas("sleepy", rig.engines))


def waits(rig: Rig, count: int = 1) -> None:
    rig.until(lambda: rig.server.context.admission.waiting == count)


def test_a_request_wakes_an_endpoint_and_is_served(sleepy: Rig) -> None:
    with sleepy.connect() as connection:
        connection.post(CHAT, BODY, key=KEY)
        waits(sleepy)
        assert ("ep_sleepy", "waiting", 1) in sleepy.activity.events
        assert sleepy.spool.opened == []
        sleepy.publish()  # a change that is not ours
        wake(sleepy)
        assert connection.response().status == 200
    assert sleepy.activity.balance("waiting") == 0
    assert sleepy.closed()[0].finish == "complete"


@pytest.mark.trap("asleep-forever")
@pytest.mark.parametrize("operation", operations.ALL, ids=lambda operation: operation.name)
def test_every_operation_wakes_an_endpoint(sleepy: Rig, operation: operations.Operation) -> None:
    fields = dict.fromkeys(("prompt", "input", "query"), "a")
    asked = json.dumps({**BODY, **fields, "documents": ["a"], "max_tokens": 9}).encode()
    headers = {}
    if operation.form:
        asked = form(part("model", b"sleepy"), part("file", b"sound", file=True))
        headers = {"content-type": f"multipart/form-data; boundary={MARK.decode()}"}
    with sleepy.connect() as connection:
        connection.post(operation.path, asked, key=KEY, headers=headers)
        waits(sleepy)
        assert ("ep_sleepy", "waiting", 1) in sleepy.activity.events
        wake(sleepy)
        assert connection.response().status == 200
    (seen,) = sleepy.engines[0].seen
    assert seen.path == operation.path


def test_who_does_not_want_to_wait_is_told_at_once_and_wakes_it_all_the_same(sleepy: Rig) -> None:
    reply = sleepy.post(CHAT, BODY, headers={"x-stoa-wait": "0"})
    assert (reply.status, reply.error["code"]) == (503, "endpoint_starting")
    assert int(reply.headers["retry-after"]) > 0
    assert sleepy.activity.balance("waiting") == 1
    sleepy.until(lambda: sleepy.activity.balance("waiting") == 0)


def test_who_waits_too_long_is_told_when_to_come_back(sleepy: Rig) -> None:
    reply = sleepy.post(CHAT, BODY)
    assert (reply.status, reply.error["code"]) == (503, "endpoint_starting")
    assert reply.headers["retry-after"]
    assert sleepy.activity.balance("waiting") == 0
    assert sleepy.spool.opened == []


def test_a_stream_that_waits_hears_of_it(sleepy: Rig) -> None:
    with sleepy.connect() as connection:
        connection.post(CHAT, {**BODY, "stream": True, "user": "tokens=2"}, key=KEY)
        status, headers = connection.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert connection.chunk().startswith(b": waiting")
        assert connection.chunk().startswith(b": waiting")
        wake(sleepy)
        rest = b""
        while chunk := connection.chunk():
            rest += chunk
    assert rest.count(b"data: {") == 2
    assert rest.endswith(b"data: [DONE]\n\n")
    assert sleepy.closed()[0].output_tokens == 2


def test_a_stream_that_waited_in_vain_ends_with_an_error(sleepy: Rig) -> None:
    reply = sleepy.post(CHAT, {**BODY, "stream": True})
    assert reply.status == 200
    assert reply.events == [reply.events[-1]]
    assert reply.events[-1]["error"]["code"] == "endpoint_starting"


def test_a_client_that_leaves_waits_no_more(sleepy: Rig) -> None:
    with sleepy.connect() as connection:
        connection.post(CHAT, BODY, key=KEY)
        waits(sleepy)
    waits(sleepy, 0)
    assert sleepy.activity.balance("waiting") == 0
    assert sleepy.server.context.metrics.in_flight == 0


def test_no_more_wait_than_may(sleepy: Rig) -> None:
    held = [sleepy.connect() for _ in range(3)]
    for connection in held:
        connection.post(CHAT, BODY, key=KEY)
    waits(sleepy, 3)
    assert sleepy.post(CHAT, BODY).error["code"] == "endpoint_starting"
    wake(sleepy)
    assert [connection.response().status for connection in held] == [200] * 3
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [({"stopped": True}, 503, "endpoint_stopped"), ({"project_id": "x"}, 404, "model_not_found")],
)
def test_an_endpoint_that_is_stopped_or_deleted_in_the_meantime(
    sleepy: Rig, change: dict[str, object], status: int, code: str
) -> None:
    with sleepy.connect() as connection:
        connection.post(CHAT, BODY, key=KEY)
        waits(sleepy)
        sleepy.change("sleepy", **change)
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (status, code)


def test_a_key_that_is_revoked_while_its_request_waits(sleepy: Rig) -> None:
    with sleepy.connect() as connection:
        connection.post(CHAT, BODY, key=KEY)
        waits(sleepy)
        del sleepy.keys[KEY]
        wake(sleepy)
        assert connection.response().error["code"] == "invalid_api_key"
    assert sleepy.engines[0].seen == []


def test_the_time_to_come_back_is_that_of_its_starts(sleepy: Rig) -> None:
    sleepy.change("sleepy", start_s=40.0)
    no_wait = {"x-stoa-wait": "0"}
    first = sleepy.post(CHAT, BODY, headers=no_wait)
    assert int(first.headers["retry-after"]) == 40
    # Half a minute into the start it is the rest of it; once overdue, a guess.
    began = sleepy.server.context.admission.wakes._began
    began["ep_sleepy"] -= 30
    assert 9 <= int(sleepy.post(CHAT, BODY, headers=no_wait).headers["retry-after"]) <= 10
    began["ep_sleepy"] -= 30
    assert int(sleepy.post(CHAT, BODY, headers=no_wait).headers["retry-after"]) == 10


def test_an_endpoint_says_itself_how_many_wait_and_how_long(sleepy: Rig) -> None:
    sleepy.change("sleepy", queue_limit=1, queue_s=30)
    with sleepy.connect() as connection:
        connection.post(CHAT, BODY, key=KEY)
        waits(sleepy)
        assert sleepy.post(CHAT, BODY).error["code"] == "endpoint_starting"
        wake(sleepy)
        assert connection.response().status == 200
    sleepy.change("sleepy", replicas=(), queue_s=0)
    assert sleepy.post(CHAT, BODY).error["code"] == "endpoint_starting"
    sleepy.change("sleepy", queue_limit=0, queue_s=30)
    assert sleepy.post(CHAT, BODY).error["code"] == "endpoint_starting"


@pytest.mark.trap("wake-herd")
def test_a_herd_is_one_wake_and_served_in_order_as_there_is_room(sleepy: Rig) -> None:
    """The engine answers one at a time, so that their order shows."""
    herd = [sleepy.connect() for _ in range(3)]
    for number, connection in enumerate(herd):
        connection.post(CHAT, {**BODY, "seed": number}, key=KEY)
        waits(sleepy, number + 1)
    (plain,) = sleepy.replicas("sleepy", sleepy.engines)
    one = Replica(plain.id, plain.endpoint_id, plain.address, max_num_seqs=1)
    sleepy.change("sleepy", replicas=(one,))
    assert [connection.response().status for connection in herd] == [200] * 3
    for connection in herd:
        connection.close()
    assert [seen.body["seed"] for seen in sleepy.engines[0].seen] == [0, 1, 2]
    assert sleepy.activity.balance("waiting") == 0


def test_a_prompt_that_cannot_fit_is_refused_once_the_window_is_known(sleepy: Rig) -> None:
    sleepy.change("sleepy", max_model_len=None)
    with sleepy.connect() as connection:
        connection.post("/v1/completions", {"model": "sleepy", "prompt": [1] * 99}, key=KEY)
        waits(sleepy)
        (replica,) = sleepy.replicas("sleepy", sleepy.engines)
        sleepy.change("sleepy", replicas=(replica,), max_model_len=64)
        reply = connection.response()
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    assert sleepy.engines[0].seen == []
