"""Nodes of other hosts, reached over their relays: what spans two, what moves, what crashes.

Two agents of this machine with a device each, and each engine behind its own walls.
"""

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.flows.api import moment
from tests.flows.conftest import Made
from tests.flows.nodes import Fleet, Host, fleet
from tests.flows.stoa import Stoa, until
from tests.flows.traffic import Crowd
from workers.agent import tunnel

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(),
    reason="a gang's network needs root and /dev/net/tun",
)


@pytest.fixture(scope="module")
def pair(stoa: Stoa) -> Iterator[Fleet]:
    with fleet(stoa, 2) as pair:
        yield pair


def serving(stoa: Stoa, endpoint_id: str) -> dict[str, Any]:
    """Its only replica, once it is ready."""

    def look() -> dict[str, Any] | None:
        found: list[dict[str, Any]] = stoa.api.get(f"/endpoints/{endpoint_id}")["replicas"]
        return found[0] if [one["state"] for one in found] == ["ready"] else None

    found = until(look, within_s=300, every_s=0.2, what="it serves")
    assert found is not None
    return found


# --- a gang ---------------------------------------------------------------------------------


def by_rank(pair: Fleet, replica_id: str) -> list[Host]:
    def rank(host: Host) -> int:
        seat = host.record(replica_id).spec.seat
        assert seat is not None
        return seat.rank

    return sorted(pair.hosts, key=rank)


def established(pid: int, address: str) -> int:
    """Connections of a process's network to an address."""
    packed = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    v6 = Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]
    remotes = [line.split()[2] for line in lines + v6 if line.split()[3] == "01"]
    return sum(remote.rpartition(":")[0].endswith(packed) for remote in remotes)


@needs_root
def test_two_nodes_serve_one_model(stoa: Stoa, made: Made, pair: Fleet) -> None:
    endpoint = made("spread", pool=pair.pool, node_count=2, device_count=1)
    replica = serving(stoa, endpoint["id"])
    assert [member["rank"] for member in replica["members"]] == [0, 1]
    assert {member["node"] for member in replica["members"]} == {host.id for host in pair.hosts}
    leader, follower = by_rank(pair, replica["id"])

    with stoa.client() as sdk:
        # A client of the gateway, with an API key, is answered by both, word by word.
        stream = iter(
            sdk.completions.create(
                model="spread",
                prompt="import os",
                max_tokens=1900,
                stream=True,
                extra_body={"ignore_eos": True},
            )
        )
        for _ in range(20):
            assert next(stream).choices

        # Both compute, each in a network of its own, and only there.
        running = leader.record(replica["id"]).running
        assert running is not None
        log = Path(running.log).read_text()
        assert re.search(r"world_size=2 rank=0 .*tcp://10\.0\.0\.1:29501 backend=gloo", log)
        networks = {
            os.readlink(f"/proc/{host.engine(replica['id']).pid}/ns/net") for host in pair.hosts
        }
        assert len(networks | {os.readlink("/proc/self/ns/net")}) == 3
        assert established(leader.engine(replica["id"]).pid, tunnel.address(1)) > 0

        # The follower is killed under it: the client is told, and the gang falls as a whole.
        os.kill(follower.engine(replica["id"]).pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as told:
            for _ in stream:
                pass
        # Who notices first, rank 0's engine or its node that kills it, says it in our words.
        assert (told.value.code, told.value.message) in (
            ("engine_gone", "The engine went away before the answer was complete."),
            ("engine_error", "The engine failed to answer this request."),
        )

    # Who asks again, as the SDK does by itself, is answered by the whole gang that follows.
    with stoa.client().with_options(max_retries=2) as sdk:
        raw = sdk.completions.with_raw_response.create(
            model="spread", prompt="import os", max_tokens=8, extra_body={"ignore_eos": True}
        )
    usage = raw.parse().usage
    assert usage is not None and usage.completion_tokens == 8
    assert raw.headers["x-stoa-replica"] == serving(stoa, endpoint["id"])["id"] != replica["id"]
    fallen = stoa.api.get(f"/replicas/{replica['id']}")
    assert (fallen["state"], fallen["reason"]) == ("failed", "engine_exited")
    assert fallen["detail"].startswith("rank 1: ")
    stoa.api.delete(f"/endpoints/{endpoint['id']}")
    until(lambda: pair.free(stoa) == 2, what="the devices of both nodes are free")


# --- a crash loop ---------------------------------------------------------------------------


@pytest.fixture
def torn(stoa: Stoa) -> Iterator[str]:
    """A model whose weights end in their middle: no engine gets through its start."""
    folder = Path(stoa.env["TMPDIR"]) / "torn"
    shutil.copytree(stoa.api.endpoint("hello")["model"], folder)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    yield str(folder)
    shutil.rmtree(folder)


def test_an_engine_that_crashes_again_and_again_holds_no_device(
    stoa: Stoa, made: Made, pair: Fleet, torn: str
) -> None:
    """There is one device. Between the tries of one endpoint it is another's, which serves."""
    pair.act(pair.hosts[1], "cordon")
    broken = made("broken", model=torn, pool=pair.pool)

    def tries() -> list[dict[str, Any]]:
        failed = [r for r in stoa.api.replicas(broken["id"]) if r["state"] == "failed"]
        assert {one["reason"] for one in failed} <= {"engine_exited"}
        return failed

    def placed() -> bool:
        return any(one["to_state"] == "placed" for one in stoa.api.transitions(broken["id"]))

    until(placed, what="the broken one has the device")
    patient = made("patient", pool=pair.pool)
    replica = serving(stoa, patient["id"])
    before = len(tries())
    assert before > 0
    with stoa.client() as sdk:
        until(lambda: "patient" in {one.id for one in sdk.models.list()}, what="it is routed")
        assert sdk.completions.create(model="patient", prompt="import os", max_tokens=3).choices
    # Nobody takes from it what it has; the broken one waits, and is tried when there is room.
    assert serving(stoa, patient["id"])["id"] == replica["id"]
    assert len(tries()) == before
    stoa.api.delete(f"/endpoints/{patient['id']}")
    until(lambda: len(tries()) > before, within_s=120, what="it is tried again")
    until(lambda: pair.free(stoa) == 1, every_s=0.02, what="and has let go of the device")
    pair.act(pair.hosts[1], "uncordon")


# --- a move ---------------------------------------------------------------------------------


def asked(sdk: openai.OpenAI, model: str) -> tuple[str, str]:
    """Who answered, and what."""
    raw = sdk.completions.with_raw_response.create(
        model=model, prompt="import os", max_tokens=16, temperature=0
    )
    return raw.headers["x-stoa-replica"], raw.parse().choices[0].text


def test_adapters_move_with_their_endpoint(stoa: Stoa, made: Made, pair: Fleet) -> None:
    """From a node that is drained, without a request lost; then from one that dies."""
    first, second = pair.hosts
    pair.act(second, "cordon")
    model = Path(stoa.api.endpoint("hello")["model"])
    endpoint = made(
        "mover",
        pool=pair.pool,
        engine_args={"max_model_len": 2048, "max_loras": 1, "max_lora_rank": 8},
        adapters=[{"name": "noisy", "path": str(model.parent / "adapter")}],
    )
    old = serving(stoa, endpoint["id"])
    assert old["node"] == first.id
    pair.act(second, "uncordon")

    with stoa.client() as sdk:
        until(lambda: "mover:noisy" in {one.id for one in sdk.models.list()}, what="it is routed")
        answer = asked(sdk, "mover:noisy")[1]
        assert answer != asked(sdk, "mover")[1]

    with stoa.client() as sdk, Crowd(lambda: asked(sdk, "mover:noisy")) as seen:
        pair.act(first, "drain")

        def moved() -> bool:
            return seen.answers[-1:] != [] and seen.answers[-1][0] != old["id"]

        until(moved, within_s=120, what="another replica answers")
        new = serving(stoa, endpoint["id"])
    assert new["node"] == second.id
    assert seen.failures == []
    assert {text for _, text in seen.answers} == {answer}
    assert {replica for replica, _ in seen.answers} == {old["id"], new["id"]}
    states = {
        (one["replica"], one["to_state"]): one for one in stoa.api.transitions(endpoint["id"])
    }
    gone = states[old["id"], "draining"]
    assert gone["reason"] == "node_drain"
    assert moment(states[new["id"], "ready"]["at"]) <= moment(gone["at"])
    until(
        lambda: stoa.api.get(f"/replicas/{old['id']}")["state"] == "stopped",
        what="the drained node is empty",
    )
    no_second_is_billed_twice(stoa, endpoint["id"], old["id"], new["id"])

    # That node dies, and its operator says so: the adapter is back where it came from.
    pair.act(first, "uncordon")
    second.die(new["id"])
    pair.operator.delete(f"/nodes/{second.id}")
    with stoa.client().with_options(max_retries=5) as sdk:
        last, text = asked(sdk, "mover:noisy")
    assert text == answer
    assert last == serving(stoa, endpoint["id"])["id"]
    assert stoa.api.get(f"/replicas/{last}")["node"] == first.id
    assert stoa.api.get(f"/replicas/{new['id']}")["reason"] == "node_lost"


def no_second_is_billed_twice(stoa: Stoa, endpoint_id: str, old: str, new: str) -> None:
    """By the usage of both: what the one served alone, then what the other did."""
    at = {
        (one["replica"], one["to_state"]): moment(one["at"])
        for one in stoa.api.transitions(endpoint_id)
    }
    alone_s = (at[new, "ready"] - at[old, "ready"]).total_seconds()
    served_s = (at[old, "draining"] - at[old, "ready"]).total_seconds()
    slots: Counter[tuple[str, str]] = Counter()  # seconds of a replica in a minute

    def settled() -> bool:
        slots.clear()
        charged = 0
        for row in stoa.api.usage(endpoint=endpoint_id):
            if row["meter"] == "device_seconds" and row["basis"] in ("charge", "credit"):
                charge = row["basis"] == "charge"
                slots[row["replica"], row["at"]] += row["quantity"] * (1 if charge else -1)
                charged += row["quantity"] if charge and row["replica"] == old else 0
        mine = sum(quantity for (replica, _), quantity in slots.items() if replica == old)
        both = {replica for replica, _ in slots} >= {old, new}
        return both and charged >= served_s - 5 and mine <= alone_s

    # The new one is billed by whole minutes while it serves.
    until(settled, within_s=300, every_s=1, what=f"both are billed, the first {alone_s} s")
    minutes: Counter[str] = Counter()
    for (_, minute), quantity in slots.items():
        minutes[minute] += quantity
    assert max(minutes.values()) <= 60
