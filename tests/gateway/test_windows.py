"""While two versions with other context lengths serve, each request goes where it fits."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import arms, operations, request, sizes, windows
from gateway.budgets import NO_RUN
from gateway.directory import Replica, Rollout
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import Response

SMALL, LARGE = 100, 1000
OLD, NEW = "rep_tiny_0", "rep_tiny_1"
PROMPT = "/v1/completions"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.key()
    rig.endpoint("tiny", [rig.engine("ep_tiny"), rig.engine("ep_tiny")])
    yield rig
    rig.stop()


def roll(rig: Rig, old: int, new: int, share: float | None = None) -> Rollout:
    """One replica of each version, with these windows."""
    replicas = tuple(
        msgspec.structs.replace(one, window=window)
        for one, window in zip(rig.replicas("tiny", rig.engines), (old, new), strict=True)
    )
    rollout = Rollout("rol_1", 2, 1, share, frozenset({NEW}))
    window, uneven = windows.spread(replicas)
    rig.change("tiny", replicas=replicas, max_model_len=window, uneven=uneven, rollout=rollout)
    return rollout


def ask(rig: Rig, tokens: int = 500, **more: Any) -> Response:
    """A prompt of so many tokens."""
    return rig.post(PROMPT, {"model": "tiny", "prompt": [1] * tokens, **more}, key=KEY)


def went(reply: Response) -> str:
    assert reply.status == 200, reply.body
    return reply.headers["x-stoa-replica"]


def refused(reply: Response) -> int:
    """By the window that it is told."""
    assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")
    words: str = reply.error["message"]
    return int(words.removeprefix("This model's maximum context length is ").split(" ")[0])


def both(rig: Rig) -> dict[str, Response]:
    """Two short requests at once, by the replica that each went to."""
    with rig.connect() as connection:
        body = {"model": "tiny", "prompt": [1] * 5, "user": "gate=1"}
        connection.post(PROMPT, body, key=KEY)
        rig.until(lambda: any(engine.at_once for engine in rig.engines))
        second = ask(rig, 5)
        for engine in rig.engines:
            rig.loop.call_soon_threadsafe(engine.gate.set)
        return {went(reply): reply for reply in (connection.response(), second)}


@pytest.mark.parametrize(("old", "new", "fits"), [(LARGE, SMALL, OLD), (SMALL, LARGE, NEW)])
def test_a_rolling_update_sends_it_where_it_fits(rig: Rig, old: int, new: int, fits: str) -> None:
    roll(rig, old, new)
    assert Counter(went(ask(rig)) for _ in range(8)) == {fits: 8}
    assert both(rig).keys() == {OLD, NEW}
    # What asks for a long answer too, and what fits nowhere.
    assert went(ask(rig, 5, max_tokens=500)) == fits
    assert refused(ask(rig, 2000)) == LARGE
    # A conversation is measured by what its bytes probably are.
    long = {"model": "tiny", "messages": [{"role": "user", "content": "word " * 100}]}
    assert {went(rig.post("/v1/chat/completions", long, key=KEY)) for _ in range(6)} == {fits}


def test_what_a_smaller_canary_cannot_hold_the_old_version_answers(rig: Rig) -> None:
    roll(rig, LARGE, SMALL, share=60.0)
    assert Counter(went(ask(rig)) for _ in range(12)) == {OLD: 12}
    assert {went(ask(rig, 5)) for _ in range(40)} == {OLD, NEW}


def test_what_only_a_larger_canary_holds_is_judged_by_its_arm(rig: Rig) -> None:
    """It gets its share, and nothing that others were refused."""
    rollout = roll(rig, SMALL, LARGE, share=40.0)
    served = set()
    for number in range(24):
        key = f"cache{number}"
        reply = ask(rig, prompt_cache_key=key)
        fields = {"prompt_cache_key": msgspec.Raw(json.dumps(key).encode())}
        if arms.fresh(rollout, NO_RUN, fields):
            served.add(went(reply))
        else:
            assert refused(reply) == SMALL
    assert served == {NEW}
    # But where no old one stands, it is the only one that can answer.
    rig.run(rig.engines[0].stop())
    rig.change("tiny", replicas=rig.endpoints["tiny"].replicas[1:], max_model_len=LARGE)
    assert {went(ask(rig)) for _ in range(6)} == {NEW}


def test_what_an_engine_finds_too_long_a_larger_one_answers(rig: Rig) -> None:
    """The gateway does not count tokens; the smaller one's engine does."""
    roll(rig, SMALL, LARGE)
    rig.engines[0].faults = "error=400"
    assert {went(rig.chat("tiny")) for _ in range(8)} == {NEW}
    assert {went(rig.chat("tiny", stream=True)) for _ in range(8)} == {NEW}
    assert rig.engines[0].seen  # it was asked
    rig.engines[1].faults = "error=400"
    assert {refused(rig.chat("tiny")) for _ in range(8)} == {64}  # as its engine says
    rollout = roll(rig, SMALL, LARGE, share=30.0)
    rig.engines[1].faults = ""
    for number in range(12):
        key = f"cache{number}"
        fields = {"prompt_cache_key": msgspec.Raw(json.dumps(key).encode())}
        status = 200 if arms.fresh(rollout, NO_RUN, fields) else 400
        assert rig.chat("tiny", prompt_cache_key=key).status == status


def test_what_waited_goes_where_it_fits(rig: Rig) -> None:
    rig.change("tiny", replicas=(), max_model_len=None)
    with rig.connect() as connection, rig.connect() as too_long:
        connection.post(PROMPT, {"model": "tiny", "prompt": [1] * 500}, key=KEY)
        too_long.post(PROMPT, {"model": "tiny", "prompt": [1] * 5000}, key=KEY)
        rig.until(lambda: rig.activity.balance("waiting") == 2)
        roll(rig, SMALL, LARGE)
        assert went(connection.response()) == NEW
        assert refused(too_long.response()) == LARGE


def test_the_answering_replica_says_how_full_its_window_is(rig: Rig) -> None:
    roll(rig, SMALL, LARGE)
    full = both(rig)
    assert full[OLD].headers["x-stoa-context-usage"] == "0.17"  # 7 and 10 tokens
    assert full[NEW].headers["x-stoa-context-usage"] == "0.02"


def test_models_tell_what_every_replica_holds(rig: Rig) -> None:
    roll(rig, SMALL, LARGE)
    assert rig.get("/v1/models/tiny").json["max_model_len"] == SMALL


# --- pure -------------------------------------------------------------------------------------


def replica(id: str, window: int | None) -> Replica:
    return Replica(id, "ep", "unix:/e", window=window)


ALL = (replica("s", SMALL), replica("l", LARGE), replica("?", None))


def holding(body: dict[str, Any], expected: int, beyond: int = 0) -> set[str]:
    operation = operations.COMPLETIONS
    call = request.read(json.dumps({"model": "m", **body}).encode(), operation)
    need = windows.Need(call, sizes.measure(call), expected)
    if beyond:
        need.outgrown(beyond)
    return {one.id for one in need.holding(ALL)}


@pytest.mark.parametrize(
    ("body", "expected", "held"),
    [
        ({"prompt": "a"}, 3, "sl?"),
        ({"prompt": [1] * (SMALL - 1)}, 0, "sl?"),
        ({"prompt": [1] * SMALL}, 0, "l?"),  # no room for an answer
        ({"prompt": [1] * 60, "max_tokens": 40}, 0, "sl?"),
        ({"prompt": [1] * 60, "max_tokens": 41}, 0, "l?"),
        ({"prompt": "a", "max_tokens": SMALL + 1}, 3, "l?"),
        # By what it probably is.
        ({"prompt": "a" * 500}, 150, "l?"),
        ({"prompt": ["a" * 300] * 3}, 270, "sl?"),
        ({"prompt": "a" * 5000}, 1500, "?"),
        ({"prompt": [1] * LARGE}, 0, "?"),
        ({"prompt": [1] * LARGE, "truncate_prompt_tokens": 5}, 0, "sl?"),
    ],
)
def test_which_hold_it(body: dict[str, Any], expected: int, held: str) -> None:
    assert holding(body, expected) == set(held)


def test_a_guess_refuses_nobody_and_an_engine_counts() -> None:
    sure = tuple(one for one in ALL if one.window)
    call = request.read(b'{"model": "m", "prompt": "aaa"}', operations.COMPLETIONS)
    need = windows.Need(call, sizes.measure(call), 5000)
    assert [one.id for one in need.holding(sure)] == ["s", "l"]
    assert holding({"prompt": "a"}, 3, beyond=SMALL) == {"l", "?"}
    need.outgrown(LARGE)
    assert need.holding(sure) == []


def test_the_windows_of_replicas() -> None:
    assert windows.spread(ALL) == (LARGE, True)
    assert windows.spread(ALL[1:]) == (LARGE, False)
    assert windows.spread(()) == windows.spread(ALL[2:]) == (None, False)
    assert windows.smallest(ALL) == SMALL
    assert windows.smallest(()) is None
