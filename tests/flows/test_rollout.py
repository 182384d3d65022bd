"""A change of spec under load: no request is lost, and a version that serves worse goes again."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from tests.flows.api import moment
from tests.flows.conftest import OVER, Made
from tests.flows.stoa import Stoa, until
from tests.flows.test_crash import UNDER_WAY, calmly
from tests.flows.traffic import Client, Crowd, Got

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

LONG, CHOICES = 3900, 8  # tokens of streams that take longer than a rolling update, as a rule


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
        ThreadPoolExecutor(2) as pool,
        Crowd(lambda: ask_rolled(client), clients=2) as crowd,
    ):
        stoa.api.post(
            f"/endpoints/{endpoint['id']}/versions",
            {"engine_args": arguments | {"max_num_seqs": 24}, "rollout": {"for_s": 0}},
        )
        until(lambda: coming(stoa, endpoint["id"], old), every_s=0.02, what="a new one starts")
        turned = threading.Event()
        readers = [pool.submit(read_on, client, turned) for _ in range(2)]
        killed = stoa.kill("worker")
        until(lambda: stoa.restarted("worker", killed), what="the worker is back")
        over = until_over(stoa, endpoint["id"])
        turned.set()
        long = [one for reader in readers for one in reader.result()]
    assert (over["state"], over["to_version"]) == ("complete", 2)
    new = serving(stoa, endpoint["id"], 2)
    assert not new & old
    all_answered(crowd, *(one.got for one in long))
    assert {got.replica for got in crowd.answers} >= new  # and nobody waited for the end of it
    assert len(crowd.answers) > 50
    drained = until(lambda: stops(stoa, endpoint["id"], old), what="the old ones are gone")
    assert drained is not None
    beyond = [one for one in long if one.got.replica in old and one.holds(drained)]
    assert beyond  # streams in the middle of which their replica's turn came
    # Which waited for as long as they needed.
    assert all(one.ended < drained[one.got.replica, "stopped"] for one in beyond)


class Read(NamedTuple):
    got: Got
    began: datetime
    ended: datetime

    def holds(self, moments: dict[tuple[str, str], datetime]) -> bool:
        return self.began < moments[self.got.replica, "draining"] < self.ended


def read_on(client: Client, over: threading.Event) -> list[Read]:
    """One long stream after another; one where the machine is no slower than usual."""
    read: list[Read] = []
    while not over.is_set():
        began = datetime.now(UTC)
        got = client.stream("rolled", LONG, choices=CHOICES).read()
        read.append(Read(got, began, datetime.now(UTC)))
    return read


def stops(stoa: Stoa, endpoint_id: str, old: set[str]) -> dict[tuple[str, str], datetime] | None:
    """When each old one came to each state, once all have stopped."""
    rows = stoa.api.transitions(endpoint_id)
    found = {(row["replica"], row["to_state"]): moment(row["at"]) for row in rows}
    return found if all((id, "stopped") in found for id in old) else None


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
