"""A change of spec under load: no request is lost, and a version that serves worse goes again."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.flows.api import moment
from tests.flows.conftest import OVER, Made
from tests.flows.stoa import Stoa, until
from tests.flows.test_crash import UNDER_WAY, calmly
from tests.flows.traffic import Client, Crowd, Got

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

LONG, CHOICES = 3900, 8  # tokens of streams that take far longer than a rolling update


def all_answered(crowd: Crowd[Got], *more: Got) -> None:
    """Every one of them in full."""
    assert crowd.failures == []
    answers = [*crowd.answers, *more]
    assert [g for g in answers if g.end != "complete" or g.output_tokens != g.most] == []


def serving(stoa: Stoa, endpoint_id: str, count: int) -> set[str]:
    """The ids of its replicas, once so many serve."""

    def look() -> set[str]:
        rows = stoa.api.replicas(endpoint_id)
        ready = {row["id"] for row in rows if row["state"] == "ready"}
        return ready if len(ready) == count else set()

    return until(look, within_s=120, what=f"{count} replicas serve")


def rollout(stoa: Stoa, endpoint_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stoa.api.get(f"/endpoints/{endpoint_id}")["rollout"]
    return found


def until_over(stoa: Stoa, endpoint_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        newest = calmly(lambda: rollout(stoa, endpoint_id))
        return newest if newest is not None and newest["state"] != "progressing" else None

    found = until(look, within_s=180, what="the rollout is over")
    assert found is not None
    return found


def ask_rolled(client: Client) -> Got:
    return client.ask("rolled", 6) if random.getrandbits(1) else client.stream("rolled", 40).read()


def test_a_rolling_update_under_load_loses_no_request(stoa: Stoa, made: Made) -> None:
    """Streams included that go on for long after their replica's turn; the reconciler dies in the
    middle."""
    arguments = {"max_model_len": 4096}
    endpoint = made("rolled", engine_args=arguments, min_replicas=2, max_replicas=2)
    old = serving(stoa, endpoint["id"], 2)
    run = stoa.run
    with (
        Client(run["gateway_url"], run["api_key"]) as client,
        ThreadPoolExecutor(2) as readers,
        Crowd(lambda: ask_rolled(client), clients=2) as crowd,
    ):
        stoa.api.post(
            f"/endpoints/{endpoint['id']}/versions",
            {"engine_args": arguments | {"max_num_seqs": 24}, "rollout": {"for_s": 0}},
        )
        until(lambda: coming(stoa, endpoint["id"], old), every_s=0.02, what="a new one starts")
        streams = [client.stream("rolled", LONG, choices=CHOICES) for _ in range(2)]
        ended = [readers.submit(lambda one: (one.read(), datetime.now(UTC)), s) for s in streams]
        killed = stoa.kill("worker")
        until(lambda: stoa.restarted("worker", killed), what="the worker is back")
        over = until_over(stoa, endpoint["id"])
        long = [one.result() for one in ended]
    assert (over["state"], over["to_version"]) == ("complete", 2)
    new = serving(stoa, endpoint["id"], 2)
    assert not new & old
    all_answered(crowd, *(got for got, _ in long))
    assert {got.replica for got in crowd.answers} >= new  # and nobody waited for the end of it
    assert len(crowd.answers) > 50
    drained = {
        (row["replica"], row["to_state"]): row for row in stoa.api.transitions(endpoint["id"])
    }
    for got, at in long:
        assert got.replica in old
        assert moment(drained[got.replica, "draining"]["at"]) < at
    # Which is as long as their requests needed.
    assert max(drained[id, "stopped"]["seconds"] for id in old) > 10


def coming(stoa: Stoa, endpoint_id: str, old: set[str]) -> bool:
    rows = stoa.api.replicas(endpoint_id)
    return any(row["state"] in UNDER_WAY for row in rows if row["id"] not in old)


def any_prompt(client: Client) -> Got:
    """Long, and unlike any other: nothing of it is in a cache."""
    return client.ask("tried", 4, prompt=[random.randint(100, 250) for _ in range(1000)])


def test_a_slow_canary_is_taken_back_and_traffic_goes_on(stoa: Stoa, made: Made) -> None:
    """Its engine reads prompts in small pieces: its probe is as quick as ever, requests are not."""
    endpoint = made.ready("tried")
    (old,) = serving(stoa, endpoint["id"], 1)
    arguments, run = endpoint["engine_args"], stoa.run
    with (
        Client(run["gateway_url"], run["api_key"]) as client,
        Crowd(lambda: any_prompt(client), clients=3) as crowd,
    ):
        stoa.api.post(
            f"/endpoints/{endpoint['id']}/versions",
            {
                "engine_args": arguments | {"max_num_seqs": 4, "max_num_batched_tokens": 16},
                "rollout": {"strategy": "canary", "share": 10, "for_s": 600},
            },
        )
        over = until_over(stoa, endpoint["id"])
        until(lambda: only(stoa, endpoint["id"], old), what="the canary is gone")
        before = len(crowd.answers)
        until(lambda: len(crowd.answers) > before + 5, what="traffic goes on")
    assert (over["state"], over["reason"]) == ("failed", "latency"), over
    assert over["health"]["new"]["errors"] == 0
    assert stoa.api.get(f"/endpoints/{endpoint['id']}")["version"] == 1
    all_answered(crowd)
    assert {got.replica for got in crowd.answers} > {old}
    assert {got.replica for got in crowd.answers[before + 3 :]} == {old}


def only(stoa: Stoa, endpoint_id: str, replica_id: str) -> bool:
    live = [row["id"] for row in stoa.api.replicas(endpoint_id) if row["state"] not in OVER]
    return live == [replica_id]
