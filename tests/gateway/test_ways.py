"""Where requests go, over real sockets: prefixes, who answered, outliers, poisoned requests."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.limits import Limits
from gateway.outliers import LOST, REFUSED
from gateway.router import Lane
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.rig import KEY, OTHER_KEY, Rig
from tests.gateway.wire import Response

CHAT = "/v1/chat/completions"


@pytest.fixture
def impatient() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        made = Rig(Path(folder), Limits(silent_s=0.2))
        made.key()
        yield made
        made.stop()


def engines_of(rig: Rig, count: int) -> list[FakeEngine]:
    engines = [rig.engine("ep_tiny") for _ in range(count)]
    rig.endpoint("tiny", engines)
    return engines


def lanes(rig: Rig) -> list[Lane]:
    return rig.server.context.pools.of(rig.endpoints["tiny"]).lanes


def seen(engines: list[FakeEngine]) -> list[int]:
    return [len(engine.seen) for engine in engines]


def ask(rig: Rig, text: str, key: str = KEY, **fields: object) -> Response:
    messages = [{"role": "user", "content": text}]
    return rig.post(CHAT, {"model": "tiny", "messages": messages, **fields}, key=key)


@contextmanager
def preferred(rig: Rig, lane: Lane) -> Iterator[None]:
    """The others look busy."""
    others = [one for one in lanes(rig) if one is not lane]
    for one in others:
        one.in_flight += 1000
    yield
    for one in others:
        one.in_flight -= 1000


# --- prefixes ---------------------------------------------------------------------------
def test_a_conversation_stays_where_its_prefix_is_cached(rig: Rig) -> None:
    engines = engines_of(rig, 4)
    talk = "x" * 8192
    for turn in range(6):
        assert ask(rig, talk, stream=True, user="tokens=2").status == 200
        talk += f"turn {turn} " * 500
        home = next(lane for lane in lanes(rig) if len(lane.prefixes))
        home.in_flight += 1  # without its prefix it would be the last choice
    assert sorted(seen(engines)) == [0, 0, 0, 6]


def test_another_tenants_same_prompt_is_not_drawn_to_it(rig: Rig) -> None:
    rig.key(OTHER_KEY, organization_id="org_theirs")  # as if two tenants shared an endpoint
    engines = engines_of(rig, 2)
    text = "x" * 60_000
    assert ask(rig, text, stream=True).status == 200
    home = next(lane for lane in lanes(rig) if lane.prefixes.match(prefix := keys_of(lane)))
    assert len(prefix) == 29
    assert ask(rig, text, key=OTHER_KEY, stream=True).status == 200
    theirs = [key for lane in lanes(rig) for key in keys_of(lane) if key not in prefix]
    assert len(theirs) == 29
    assert home.prefixes.match(theirs) in (0, 29)
    assert sum(seen(engines)) == 2


def keys_of(lane: Lane) -> list[int]:
    return list(lane.prefixes.known())


def test_a_lora_and_its_base_share_no_prefix(rig: Rig) -> None:
    one, two = (rig.engine("ep_tiny", adapters=["poet"]) for _ in range(2))
    rig.endpoint("tiny", [one, two], adapters=["poet"])
    messages = [{"role": "user", "content": "x" * 9000}]
    for model in ("tiny", "tiny:poet"):
        assert rig.post(CHAT, {"model": model, "messages": messages}).status == 200
    assert sum(len(lane.prefixes) for lane in lanes(rig)) == 2 * 4


def test_the_answer_names_who_gave_it(rig: Rig) -> None:
    engines_of(rig, 2)
    for stream in (False, True):
        reply = rig.chat("tiny", stream=stream)
        assert reply.headers["x-stoa-endpoint"] == "tiny"
        assert reply.headers["x-stoa-region"] == "eu-test"
        (record,) = rig.closed()
        assert reply.headers["x-stoa-replica"] == record.replica_id
        rig.spool.closed.clear()


# --- outliers ---------------------------------------------------------------------------
@pytest.mark.trap("dead-backends")
def test_a_replica_that_is_gone_is_left_alone_until_a_probe_was_answered(rig: Rig) -> None:
    engines = engines_of(rig, 2)
    rig.run(engines[0].stop())
    for _ in range(LOST + 5):
        assert rig.chat("tiny").status == 200
    gone, alive = lanes(rig)
    assert gone.standing.out
    assert gone.standing.failures == LOST  # the others did not even try
    assert rig.server.context.metrics.retries == LOST
    rig.run(engines[0].start())
    rig.until(lambda: not gone.standing.out)  # a probe found it well
    assert [one.path for one in engines[0].seen] == ["/v1/completions"]
    assert rig.server.context.pools.out == 0
    assert alive.in_flight == gone.in_flight == 0


def test_with_all_of_them_out_it_is_said_at_once(rig: Rig) -> None:
    engines = engines_of(rig, 2)
    for engine in engines:
        rig.run(engine.stop())
    while not all(lane.standing.out for lane in lanes(rig)):
        assert rig.chat("tiny").status == 503
    failures = [lane.standing.failures for lane in lanes(rig)]
    reply = rig.chat("tiny")
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert [lane.standing.failures for lane in lanes(rig)] == failures
    assert rig.activity.balance("running") == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.trap("dead-backends")
def test_a_replica_that_takes_requests_and_answers_none_is_out(
    impatient: Rig, stream: bool
) -> None:
    rig = impatient
    bad = engines_of(rig, 2)[0]
    for lane in lanes(rig):
        with preferred(rig, lane):
            while not lane.known:
                assert rig.chat("tiny", stream=True, user="tokens=1").status == 200
    bad.wedged = True
    with preferred(rig, lanes(rig)[0]):
        assert rig.chat("tiny", stream=stream).status == 200  # by the other, in the end
    assert lanes(rig)[0].standing.out
    asked = [one for one in bad.seen if one.path == CHAT]
    for _ in range(5):
        assert rig.chat("tiny", stream=stream).status == 200
    assert [one for one in bad.seen if one.path == CHAT] == asked
    bad.wedged = False
    rig.until(lambda: not lanes(rig)[0].standing.out)


def test_an_engine_that_knows_no_completions_is_tried_by_one_request(rig: Rig) -> None:
    engines = engines_of(rig, 2)
    engines[0].model = "another"  # it answers our probe with a 404
    rig.run(engines[0].stop())
    for _ in range(LOST + 1):
        assert rig.chat("tiny").status == 200
    gone = lanes(rig)[0]
    rig.run(engines[0].start())
    rig.until(lambda: gone.mute)
    assert gone.standing.out
    engines[0].model = "ep_tiny"
    gone.standing.until = 0.0
    assert rig.chat("tiny", stream=True).status == 200
    assert not gone.standing.out


def test_the_last_replica_is_not_shut_for_errors_that_it_answers(rig: Rig) -> None:
    engines_of(rig, 2)
    for _ in range(3 * REFUSED):
        reply = rig.chat("tiny", user="error=500")
        assert (reply.status, reply.error["code"]) == (500, "engine_error")
    assert [lane.standing.out for lane in lanes(rig)].count(True) <= 1
    assert rig.chat("tiny").status == 200


def test_an_engine_at_its_capacity_is_not_to_blame(rig: Rig) -> None:
    engines_of(rig, 1)
    for _ in range(3 * REFUSED):
        assert rig.chat("tiny", user="error=503").error["code"] == "engine_overloaded"
        assert rig.chat("tiny", user="error=400").status == 400
    assert lanes(rig)[0].standing.failures == 0


# --- poisoned requests --------------------------------------------------------------------
@pytest.mark.parametrize("stream", [True, False])
def test_a_poisoned_request_fells_two_engines_and_no_third(rig: Rig, stream: bool) -> None:
    engines = engines_of(rig, 3)
    reply = rig.chat("tiny", user="die=0", stream=stream)
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    for _ in range(3):  # a client library comes again on a 503
        reply = rig.chat("tiny", user="die=0", stream=stream)
        assert (reply.status, reply.error["code"]) == (400, "request_suspect")
    assert sorted(seen(engines)) == [0, 1, 1]
    assert rig.chat("tiny", stream=stream).status == 200
    assert [record.finish for record in rig.closed(2)] == ["engine_gone", "complete"]
    assert sum(lane.in_flight for lane in lanes(rig)) == 0


def test_retries_end_with_their_budget(rig: Rig) -> None:
    engines = engines_of(rig, 2)
    rig.run(engines[0].stop())
    pool = rig.server.context.pools.of(rig.endpoints["tiny"])
    while pool.may_retry(1e9):
        pass
    reply = rig.chat("tiny")
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    assert seen(engines) == [0, 0]
