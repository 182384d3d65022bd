"""Requests wait for room on a replica: never more in flight than it holds, fair, none forgotten."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demand import NOTHING, Demand
from gateway.directory import Replica
from gateway.limits import Limits
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import Connection

CHAT = "/v1/chat/completions"
_open: list[Connection] = []


@pytest.fixture
def busy() -> Iterator[Rig]:
    """One replica that runs two sequences at once."""
    limits = Limits(queue_s=10.0, hold_quiet_s=0.1, held_per_endpoint=3)
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.engine("ep_small")
        rig.endpoint("small", rig.engines)
        sized(rig, max_num_seqs=2)
        yield rig
        while _open:
            _open.pop().close()
        rig.stop()


def sized(rig: Rig, **sizes: int | None) -> None:
    (plain,) = rig.replicas("small", rig.engines)
    fields = {name: getattr(plain, name) for name in plain.__struct_fields__} | sizes
    rig.change("small", replicas=(Replica(**fields),))


def ask(rig: Rig, how: str = "", **fields: Any) -> Connection:
    connection = rig.connect()
    _open.append(connection)
    body = {"model": "small", "messages": [], "user": how, **fields}
    connection.post(CHAT, body, key=KEY)
    return connection


def in_flight(rig: Rig, count: int) -> None:
    rig.until(lambda: len(rig.engines[0].seen) == count)


def waits(rig: Rig, count: int) -> None:
    rig.until(lambda: rig.server.context.admission.waiting == count)


def let_go(rig: Rig) -> None:
    """The engines answer what was held back."""
    for engine in rig.engines:
        rig.loop.call_soon_threadsafe(engine.gate.set)


def idle(rig: Rig) -> None:
    """Nothing is counted for anybody any more."""
    admission = rig.server.context.admission
    rig.until(lambda: rig.server.context.metrics.in_flight == 0)
    assert admission.waiting == 0
    for replica in rig.endpoints["small"].replicas:
        assert admission.loads.tokens(replica.id) == 0
        assert admission.loads.sequences(replica.id) == 0
    assert rig.activity.balance("waiting") == rig.activity.balance("running") == 0


def test_as_many_as_the_engine_runs_are_sent_and_the_next_waits(busy: Rig) -> None:
    asked = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    asked.append(ask(busy))
    waits(busy, 1)
    assert len(busy.engines[0].seen) == 2
    let_go(busy)
    assert busy.activity.balance("waiting") == 0  # it needs no replica, only room
    assert [one.response().status for one in asked] == [200] * 3
    assert len(busy.engines[0].seen) == 3
    idle(busy)


def test_kv_memory_is_what_a_request_may_need(busy: Rig) -> None:
    sized(busy, kv_tokens=2000, max_num_seqs=None)
    asked = [ask(busy, "gate=1", max_tokens=1000)]
    in_flight(busy, 1)
    asked.append(ask(busy, max_tokens=800))  # with its prompt it is beyond 95 % of 2000
    waits(busy, 1)
    let_go(busy)
    assert [one.response().status for one in asked] == [200] * 2
    # By now it is known how short answers are.
    busy.engines[0].gate.clear()
    asked = [ask(busy, "gate=1", max_tokens=1000) for _ in range(3)]
    in_flight(busy, 5)
    let_go(busy)
    assert [one.response().status for one in asked] == [200] * 3
    idle(busy)


def test_what_does_not_say_what_it_holds_has_no_limit(busy: Rig) -> None:
    sized(busy)
    asked = [ask(busy, "gate=1", max_tokens=2000) for _ in range(8)]
    in_flight(busy, 8)
    let_go(busy)
    assert [one.response().status for one in asked] == [200] * 8
    idle(busy)


def test_an_idle_replica_takes_even_what_is_estimated_too_large(busy: Rig) -> None:
    assert busy.chat("small", n=5, max_tokens=2000).status == 200
    idle(busy)


def test_a_stream_that_waits_for_room_hears_of_it(busy: Rig) -> None:
    asked = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    with ask(busy, "tokens=2", stream=True) as stream:
        status, _ = stream.head()
        assert status == 200
        assert stream.chunk().startswith(b": waiting")
        let_go(busy)
        rest = b""
        while chunk := stream.chunk():
            rest += chunk
    assert rest.endswith(b"data: [DONE]\n\n")
    assert [one.response().status for one in asked] == [200] * 2
    idle(busy)


def test_who_leaves_the_queue_is_forgotten_and_the_others_move_up(busy: Rig) -> None:
    asked = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    gone = ask(busy)
    waits(busy, 1)
    asked.append(ask(busy))
    waits(busy, 2)
    gone.close()
    waits(busy, 1)
    let_go(busy)
    assert [one.response().status for one in asked] == [200] * 3
    assert len(busy.engines[0].seen) == 3
    idle(busy)


def test_who_leaves_while_it_runs_makes_room(busy: Rig) -> None:
    asked = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    last = ask(busy)
    waits(busy, 1)
    asked[0].close()
    assert last.response().status == 200
    asked[1].close()
    idle(busy)


def test_a_full_queue_refuses_with_the_time_to_come_back(busy: Rig) -> None:
    running = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    queued = [ask(busy) for _ in range(3)]
    waits(busy, 3)
    reply = busy.post(CHAT, {"model": "small", "messages": []})
    assert (reply.status, reply.error["code"]) == (503, "engine_overloaded")
    assert 1 <= int(reply.headers["retry-after"]) <= 600
    for one in running:
        one.close()
    assert [one.response().status for one in queued] == [200] * 3
    idle(busy)


def test_who_does_not_wait_is_told_at_once(busy: Rig) -> None:
    running = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    body = {"model": "small", "messages": []}
    reply = busy.post(CHAT, body, headers={"x-stoa-wait": "0"})
    assert (reply.status, reply.error["code"]) == (503, "engine_overloaded")
    let_go(busy)
    assert [one.response().status for one in running] == [200] * 2
    idle(busy)


@pytest.mark.parametrize(
    "headers", [{"x-stoa-wait": "1"}, {"x-stainless-read-timeout": "0.5"}], ids=["ours", "sdk"]
)
def test_nobody_waits_for_longer_than_its_client(busy: Rig, headers: dict[str, str]) -> None:
    running = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    reply = busy.post(CHAT, {"model": "small", "messages": []}, headers=headers)
    assert (reply.status, reply.error["code"]) == (503, "engine_overloaded")
    for one in running:
        one.close()
    idle(busy)


def test_a_second_replica_takes_who_waits(busy: Rig) -> None:
    running = [ask(busy, "gate=1") for _ in range(2)]
    in_flight(busy, 2)
    waiting = ask(busy)
    waits(busy, 1)
    busy.engine("ep_small")
    more = busy.replicas("small", busy.engines)[1]
    busy.change("small", replicas=(*busy.endpoints["small"].replicas, more))
    assert waiting.response().status == 200
    assert len(busy.engines[1].seen) == 1
    for one in running:
        one.close()
    idle(busy)


def test_the_requests_of_an_engine_that_dies_do_not_fall_upon_the_next(busy: Rig) -> None:
    sized(busy, max_num_seqs=2)
    busy.engine("ep_small")
    first, second = busy.replicas("small", busy.engines)
    both = [
        Replica(one.id, one.endpoint_id, one.address, max_num_seqs=2) for one in (first, second)
    ]
    busy.change("small", replicas=tuple(both))
    asked = [ask(busy, "gate=1") for _ in range(4)]
    busy.until(lambda: [len(engine.seen) for engine in busy.engines] == [2, 2])
    busy.run(busy.engines[0].stop())
    waits(busy, 2)
    let_go(busy)
    assert [one.response().status for one in asked] == [200] * 4
    assert len(busy.engines[1].seen) == 4
    idle(busy)


def test_what_the_engine_reports_corrects_what_was_guessed(busy: Rig) -> None:
    sized(busy, kv_tokens=4000)
    long = {"role": "user", "content": "x" * 8000}
    (replica,) = busy.endpoints["small"].replicas
    loads = busy.server.context.admission.loads
    with ask(busy, "tokens=40;delay=0.05", messages=[long], max_tokens=40, stream=True) as stream:
        stream.head()
        assert loads.tokens(replica.id) > 2000
        busy.until(lambda: loads.tokens(replica.id) == 47)  # 7 of the prompt, 40 to come
        while stream.chunk():
            pass
    idle(busy)


def test_bodies_that_wait_are_bounded_in_bytes() -> None:
    limits = Limits(held_bytes=1000, hold_s=0.3)
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), limits)
        rig.key()
        rig.endpoint("small")
        body = {"model": "small", "messages": [{"role": "user", "content": "x" * 2000}]}
        reply = rig.post(CHAT, body)
        assert (reply.status, reply.error["code"]) == (503, "endpoint_starting")
        assert rig.activity.balance("waiting") == 0
        rig.stop()


# --- what autoscaling hears of it -----------------------------------------------------------------


def demand(rig: Rig) -> Demand:
    demands = rig.server.context.activity.demands
    assert demands is not None

    async def look() -> Demand:
        return demands.of("ep_small")

    return rig.run(look())


def test_what_runs_and_what_waits_for_room_counts(busy: Rig) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 2000}], "max_tokens": 100}
    sized(busy, max_num_seqs=1, kv_tokens=100_000)
    assert demand(busy) == NOTHING
    first = ask(busy, "gate=1", **long)
    in_flight(busy, 1)
    alone = demand(busy)
    assert (alone.running, alone.pressed) == (1, False)
    assert alone.kv_tokens > 100
    assert alone.uncached_tokens > 1000
    second = ask(busy, "gate=1", **long)
    waits(busy, 1)
    both = demand(busy)
    assert (both.running, both.pressed) == (2, True)
    assert both.kv_tokens == 2 * alone.kv_tokens
    assert ("ep_small", "pressed", 1) in busy.activity.events
    let_go(busy)
    assert [first.response().status, second.response().status] == [200, 200]
    assert demand(busy).running == 0
