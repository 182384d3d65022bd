"""Answers that end early: clients that leave, engines that die. The engine stops, and what was
delivered is what is booked."""

import pytest

from tests.gateway.fake_engine import PROMPT_TOKENS
from tests.gateway.rig import KEY, Rig

CHAT = "/v1/chat/completions"


def body(how: str, **fields: object) -> dict[str, object]:
    return {"model": "tiny", "messages": [], "user": how, **fields}


@pytest.mark.parametrize("pack", [1, 3])
@pytest.mark.trap("dropped-stream", "abandoned-generation")
def test_a_client_that_leaves_pays_for_what_it_got(tiny: Rig, pack: int) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, body(f"tokens=999;delay=0.01;pack={pack}", stream=True), key=KEY)
        connection.head()
        got = [connection.chunk() for _ in range(5)]
    (record,) = tiny.closed()
    seen = tiny.engines[0].seen[0]
    tiny.until(lambda: seen.aborted)
    assert (record.status, record.finish, record.counted_by) == (499, "client_gone", "delivered")
    assert record.input_tokens == PROMPT_TOKENS
    assert len(got) * pack <= record.output_tokens <= seen.generated < 999
    assert tiny.activity.balance("running") == 0


def test_several_choices_are_added_up(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, body("tokens=999;delay=0.01", stream=True, n=3), key=KEY)
        connection.head()
        events = b""
        while events.count(b"data: ") < 9:
            events += connection.chunk()
    (record,) = tiny.closed()
    assert record.input_tokens == PROMPT_TOKENS  # one prompt, not three
    assert 9 <= record.output_tokens <= tiny.engines[0].seen[0].generated


def test_several_prompts_are_added_up(tiny: Rig) -> None:
    asked = {"model": "tiny", "prompt": ["a", "b"], "stream": True, "n": 2}
    with tiny.connect() as connection:
        connection.post("/v1/completions", {**asked, "user": "tokens=999;delay=0.01"}, key=KEY)
        connection.head()
        events = b""
        while events.count(b"data: ") < 8:
            events += connection.chunk()
    (record,) = tiny.closed()
    assert record.input_tokens == 2 * PROMPT_TOKENS
    assert 8 <= record.output_tokens <= tiny.engines[0].seen[0].generated


def test_a_client_that_leaves_before_anything_came_pays_nothing(tiny: Rig) -> None:
    for stream in (False, True):
        with tiny.connect() as connection:
            connection.post(CHAT, body("silent=1", stream=stream), key=KEY)
            tiny.until(lambda: bool(tiny.engines[0].seen))
        tiny.until(lambda: tiny.engines[0].seen[0].aborted)
        (record,) = tiny.closed()
        assert (record.finish, record.input_tokens, record.output_tokens) == ("client_gone", 0, 0)
        tiny.engines[0].seen.clear()
        tiny.spool.closed.clear()


def test_a_client_that_leaves_after_the_end_is_a_completed_request(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, body("tokens=3", stream=True), key=KEY)
        connection.head()
        while b"[DONE]" not in connection.chunk():
            pass
        # Booked before the client could know that it is served.
        assert [record.finish for record in tiny.spool.closed] == ["complete"]
    assert len(tiny.closed()) == 1


def test_an_engine_that_dies_in_a_stream(tiny: Rig) -> None:
    with tiny.connect() as connection:
        connection.post(CHAT, body("tokens=9;delay=0.01;die=4", stream=True), key=KEY)
        reply = connection.response()
        assert connection.closed
    *events, last = reply.events
    assert len(events) == 4
    assert last["error"]["code"] == "engine_gone"
    (record,) = tiny.closed()
    assert (record.finish, record.counted_by) == ("engine_gone", "delivered")
    assert (record.input_tokens, record.output_tokens) == (PROMPT_TOKENS, 4)


def test_an_engine_whose_core_dies_in_a_stream(tiny: Rig) -> None:
    """Its server says so in words of its own, and lives a moment longer."""
    reply = tiny.chat("tiny", stream=True, user="tokens=9;delay=0.01;core=4")
    *events, last = reply.events
    assert len(events) == 4
    assert (last["error"]["code"], last["error"]["message"]) == (
        "engine_gone",
        "The engine went away before the answer was complete.",
    )
    (record,) = tiny.closed()
    assert (record.finish, record.counted_by) == ("engine_gone", "delivered")
    assert (record.input_tokens, record.output_tokens) == (PROMPT_TOKENS, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_what_an_engines_dying_core_has_not_begun_another_answers(rig: Rig, stream: bool) -> None:
    dying, well = (rig.engine("ep_tiny") for _ in range(2))
    rig.endpoint("tiny", [dying, well])
    dying.faults = "core=0"
    assert [rig.chat("tiny", stream=stream).status for _ in range(3)] == [200, 200, 200]
    assert len(dying.seen) > 0
    assert [record.finish for record in rig.closed(3)] == ["complete"] * 3


@pytest.mark.parametrize("how", ["die=0", "core=0"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_before_its_first_word_is_tried_once_more(
    rig: Rig, how: str, stream: bool
) -> None:
    first, second, third = (rig.engine("ep_tiny") for _ in range(3))
    rig.endpoint("tiny", [first, second, third])
    reply = rig.chat("tiny", user=how, stream=stream)  # each engine dies of it: it is poisoned
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    assert [len(engine.seen) for engine in (first, second, third)] == [1, 1, 0]
    (record,) = rig.closed()
    assert (record.finish, record.output_tokens) == ("engine_gone", 0)


def test_an_engine_without_its_last_chunk(tiny: Rig) -> None:
    reply = tiny.chat("tiny", stream=True, user="tokens=2;trail=1")
    assert reply.events[-1] == "[DONE]"
    assert [record.finish for record in tiny.closed()] == ["complete"]


def test_a_connection_that_the_engine_had_closed_is_no_failure(rig: Rig) -> None:
    engine = rig.engine("ep_tiny")
    rig.endpoint("tiny", [engine])
    assert rig.chat("tiny").status == 200

    async def hang_up() -> None:
        engine.hang_up()

    rig.run(hang_up())
    assert rig.chat("tiny").status == 200
    assert rig.chat("tiny", user="idle=1").status == 200
    assert rig.chat("tiny").status == 200


@pytest.mark.trap("one-bad-replica")
def test_a_replica_that_refuses_is_passed_over(rig: Rig) -> None:
    gone, alive = rig.engine("ep_tiny"), rig.engine("ep_tiny")
    rig.run(gone.stop())
    rig.endpoint("tiny", [gone, alive])
    for stream in (False, True):
        assert rig.chat("tiny", stream=stream).status == 200
    assert len(alive.seen) == 2
    assert [record.replica_id for record in rig.closed(2)] == ["rep_tiny_1"] * 2


def test_no_replica_can_be_reached(rig: Rig) -> None:
    engines = [rig.engine("ep_tiny") for _ in range(2)]
    rig.endpoint("tiny", engines)
    for engine in engines:
        rig.run(engine.stop())
    reply = rig.chat("tiny")
    assert (reply.status, reply.error["code"]) == (503, "engine_unavailable")
    assert reply.headers["retry-after"]
    assert rig.closed()[0].finish == "engine_gone"
    assert rig.activity.balance("running") == 0


def test_the_least_busy_replica_is_chosen(rig: Rig) -> None:
    engines = [rig.engine("ep_tiny") for _ in range(3)]
    rig.endpoint("tiny", engines)
    held = [rig.connect() for _ in range(6)]
    for connection in held:
        connection.post(CHAT, body("silent=1"), key=KEY)
    rig.until(lambda: sum(len(engine.seen) for engine in engines) == 6)
    assert [len(engine.seen) for engine in engines] == [2, 2, 2]
    for connection in held:
        connection.close()
    rig.until(lambda: not rig.server.context.pools.in_flight)


def test_what_a_running_stream_delivered_is_noted_each_second(rig: Rig) -> None:
    """A gateway that is killed must find it in the spool."""
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    noted: list[tuple[int, ...]] = []
    rig.spool.progress = lambda _, at_us, *tokens: noted.append(tokens)  # type: ignore[method-assign]
    assert rig.chat("tiny", stream=True, user="tokens=13;delay=0.1").status == 200
    ((prompt, cached, output),) = noted
    assert (prompt, cached) == (PROMPT_TOKENS, 0)
    assert 8 <= output <= 12
