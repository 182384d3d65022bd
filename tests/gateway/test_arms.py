"""A canary gets its share: of runs and conversations each as a whole, and never more than that."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import arms
from gateway.budgets import NO_RUN, Run
from gateway.directory import Replica, Rollout
from gateway.trials import Tally
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.rig import KEY, Rig

ROLLOUT = Rollout("rol_1", 2, 1, 10.0, frozenset({"new"}))


def fields(**given: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in given.items()}


def chat(user: str, *more: str) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": user}]
    return turns + [{"role": "assistant", "content": text} for text in more]


@pytest.mark.parametrize("share", [1.0, 10.0, 50.0, 99.0])
def test_the_share_of_runs_and_conversations(share: float) -> None:
    """Within four standard deviations of 10,000."""
    rollout = msgspec.structs.replace(ROLLOUT, share=share)
    noise = 4 * (share / 100 * (1 - share / 100) / 10_000) ** 0.5 * 100
    runs = sum(arms.fresh(rollout, Run((f"run_{n}",)), {}) for n in range(10_000)) / 100
    assert runs == pytest.approx(share, abs=noise)
    talks = (fields(messages=chat(f"question {n}")) for n in range(10_000))
    assert sum(arms.fresh(rollout, NO_RUN, talk) for talk in talks) / 100 == pytest.approx(
        share, abs=noise
    )
    plain = fields(prompt="the same")
    anybody = sum(arms.fresh(rollout, NO_RUN, plain) for _ in range(10_000)) / 100
    assert anybody == pytest.approx(share, abs=noise)


def test_what_belongs_together_stays_together() -> None:
    half = msgspec.structs.replace(ROLLOUT, share=50.0)

    def where(run: Run = NO_RUN, **given: Any) -> bool:
        return arms.fresh(half, run, fields(**given))

    for n in range(50):
        first = where(messages=chat(f"q{n}"))
        assert {where(messages=chat(f"q{n}", "a", "b"[:k])) for k in range(5)} == {first}
        assert where(input=chat(f"q{n}", "a")) is first
        run = Run((f"root{n}", f"sub{n}"))
        assert {where(Run((f"root{n}", f"other{k}"))) for k in range(5)} == {where(run)}
        key = f"cache{n}"
        assert where(prompt_cache_key=key, messages=chat("x")) is where(prompt_cache_key=key)


def test_a_share_that_grows_keeps_whom_it_had_and_each_rollout_draws_anew() -> None:
    runs = [Run((f"run_{n}",)) for n in range(2000)]

    def chosen(**changes: Any) -> set[Run]:
        rollout = msgspec.structs.replace(ROLLOUT, **changes)
        return {run for run in runs if arms.fresh(rollout, run, {})}

    assert chosen(share=10.0) < chosen(share=50.0)
    both = chosen(share=50.0) & chosen(share=50.0, id="rol_2")
    assert 400 < len(both) < 600
    assert chosen(share=None) == set()


def test_odd_bodies_go_somewhere() -> None:
    for odd in (b"[]", b"[1]", b'[{"role": 7}]', b'"text"', b"[[", b"null", b'[{"role":"user"}]'):
        found = arms.fresh(ROLLOUT, NO_RUN, {"messages": msgspec.Raw(odd)})
        assert found in (True, False)


NEW, OLD = Replica("new", "ep", "unix:/n"), Replica("old", "ep", "unix:/o")


def test_a_canary_is_never_given_more_and_never_in_the_way() -> None:
    both, ids = [NEW, OLD], ["new", "old"]
    assert arms.allowed(ROLLOUT, True, both, ids) == [NEW]
    assert arms.allowed(ROLLOUT, False, both, ids) == [OLD]
    assert arms.allowed(ROLLOUT, True, [OLD], ids) == [OLD]  # it is full, or out
    assert arms.allowed(ROLLOUT, False, [NEW], ids) == ()  # waits for an old one
    assert arms.allowed(ROLLOUT, False, [NEW], ["new"]) == [NEW]  # there is no other


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.key()
    yield rig
    rig.stop()


def pair(rig: Rig, share: float | None = 20.0) -> tuple[FakeEngine, FakeEngine]:
    """An old and a new replica of one endpoint."""
    old, new = rig.engine("ep_tiny"), rig.engine("ep_tiny")
    rig.endpoint("tiny", [old, new])
    ids = frozenset({"rep_tiny_1"})
    rig.change("tiny", rollout=Rollout("rol_1", 2, 1, share, ids))
    return old, new


def ask(rig: Rig, text: str, **more: Any) -> tuple[int, str]:
    body = {"model": "tiny", "messages": chat(text), **more}
    answer = rig.post("/v1/chat/completions", body, key=KEY)
    return answer.status, answer.headers.get("x-stoa-replica", "")


def tallies(rig: Rig) -> dict[int, Tally]:
    return {version: one for (_, version), one in rig.server.context.trials.tallies.items()}


def test_the_gateway_keeps_to_the_share(rig: Rig) -> None:
    pair(rig)
    went = [ask(rig, f"question {n}", stream=n % 2 == 0) for n in range(200)]
    assert {status for status, _ in went} == {200}
    counts = Counter(replica for _, replica in went)
    assert 20 <= counts["rep_tiny_1"] <= 62  # 40, and four standard deviations
    again = [ask(rig, f"question {n}") for n in range(200)]
    assert [replica for _, replica in again] == [replica for _, replica in went]
    seen = tallies(rig)
    assert seen[2].requests == 2 * counts["rep_tiny_1"]
    assert seen[1].requests == 2 * counts["rep_tiny_0"]
    assert sum(seen[2].total.values()) == seen[2].requests
    streams = sum(r == "rep_tiny_1" for n, (_, r) in enumerate(went) if n % 2 == 0)
    assert sum(seen[2].first.values()) == streams
    assert seen[1].errors == seen[2].errors == 0


def test_what_a_canary_fails_another_answers_and_it_is_told(rig: Rig) -> None:
    """Nothing reaches a client of an engine that hangs up: the old version answers."""
    _, new = pair(rig, share=99.0)
    rig.run(new.stop())
    went = [ask(rig, f"question {n}") for n in range(30)]
    assert set(went) == {(200, "rep_tiny_0")}
    seen = tallies(rig)
    assert seen[2].errors == seen[2].requests > 0
    assert (seen[1].requests, seen[1].errors) == (30, 0)


def test_an_engines_own_error_counts_against_its_version(rig: Rig) -> None:
    pair(rig, share=99.0)
    assert ask(rig, "question 1", user="error=500")[0] >= 500
    assert tallies(rig)[2].errors == 1
    assert ask(rig, "question 1", user="error=400")[0] == 400
    assert tallies(rig)[2].requests == 1


def test_full_old_replicas_make_no_canary_of_who_waits(rig: Rig) -> None:
    """He waits for his own version though the canary has room."""
    old, _ = pair(rig, share=0.0001)
    one = rig.endpoints["tiny"].replicas
    rig.change("tiny", replicas=tuple(msgspec.structs.replace(r, max_num_seqs=1) for r in one))
    first = threading.Thread(target=ask, args=(rig, "first"), kwargs={"user": "gate=1"})
    first.start()
    rig.until(lambda: len(old.seen) == 1)
    went: list[tuple[int, str]] = []
    second = threading.Thread(target=lambda: went.append(ask(rig, "question")))
    second.start()
    rig.until(lambda: rig.server.context.admission.waiting == 1)
    rig.loop.call_soon_threadsafe(old.gate.set)
    first.join()
    second.join()
    assert went == [(200, "rep_tiny_0")]


def test_without_a_rollout_nothing_is_counted(rig: Rig) -> None:
    rig.endpoint("tiny", [rig.engine("ep_tiny")])
    assert ask(rig, "hello")[0] == 200
    assert tallies(rig) == {}
