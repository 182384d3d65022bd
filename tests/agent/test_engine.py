"""A real vLLM through the standby: started, proved, asked, walled in, killed and stopped."""

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from controlplane.fleet import wire
from tests.agent.engine_bench import Bench, ask, chat, wait
from workers.agent import engines, kin, leaving
from workers.agent.standby import Standby, StandbyError

# One worker for them all: they share a standby, and two would fight for two cores.
pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("engine")]

TWO_DEVICES = {"kv_cache_memory_bytes": 64 << 20, "tensor_parallel_size": 2}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can raise every wall")


@pytest.fixture(scope="module")
def engine(bench: Bench) -> engines.Running:
    """One that lives as long as this module, with room for adapters."""
    arguments = {"kv_cache_memory_bytes": 64 << 20, "max_loras": 2, "max_lora_rank": 8}
    return bench.serve(bench.spec("rep_shared", engine_args=arguments), bench.standby())


def test_a_standby_has_one_thread_and_no_secret(bench: Bench, engine: engines.Running) -> None:
    standby = bench.standby()
    assert len(os.listdir(f"/proc/{standby.pid}/task")) == 1
    environment = Path(f"/proc/{standby.pid}/environ").read_bytes()
    for name in ("STOA_SECRET_KEY", "STOA_MASTER_KEY", "DATABASE_URL"):
        assert name in os.environ
        assert name.encode() not in environment


def test_the_probe_is_an_inference(bench: Bench, engine: engines.Running) -> None:
    assert engines.probe(engine, bench.spec("rep_shared")) is None
    wrong = engines.probe(engine, bench.spec("rep_shared", served_name="another"))
    assert wrong is not None
    assert "404" in wrong or "none of" in wrong


def test_it_chats_and_counts_tokens(engine: engines.Running) -> None:
    answer = chat(engine)
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens_details"] is not None
    assert (
        answer["choices"][0]["message"]["content"]
        == chat(engine)["choices"][0]["message"]["content"]
    )


def test_log_probabilities_do_not_compile(engine: engines.Running) -> None:
    answer = chat(engine, logprobs=True, top_logprobs=2)
    assert len(answer["choices"][0]["logprobs"]["content"]) == 8


def test_the_start_is_reported_as_vllm_printed_it(engine: engines.Running) -> None:
    report = engines.report(engine)
    assert report.version == "0.32.0"
    assert report.kv_cache_bytes == round(0.06 * (1 << 30))  # vLLM rounds to 0.01 GiB
    assert report.kv_cache_tokens == 131_072
    assert report.max_model_len == 4_096
    assert report.max_concurrency == 32.0


def test_what_it_writes_for_itself_lies_in_its_own_folder(engine: engines.Running) -> None:
    """The standby's idea of a folder for temporary files is not its engines'."""
    log = Path(engine.log).read_text()
    assert f"distributed_init_method=file://{engine.directory}/" in log


def test_running_survives_being_written_down(engine: engines.Running) -> None:
    copy = msgspec.json.decode(msgspec.json.encode(engine), type=engines.Running)
    assert copy == engine
    assert engines.alive(copy)


def test_a_pooling_engine_embeds(bench: Bench, engine: engines.Running) -> None:
    arguments = {"runner": "pooling", "convert": "embed", "kv_cache_memory_bytes": 64 << 20}
    spec = bench.spec("rep_pooling", engine_args=arguments)
    running = bench.serve(spec, bench.standby())
    assert running.tier is wire.StartTier.STANDBY
    assert engines.probe(running, spec) is None
    answer = ask(running, "/v1/embeddings", {"input": "hello"})
    assert len(answer["data"][0]["embedding"]) == 128
    engines.stop(running, 5.0)


def test_stopping_lets_requests_finish_and_leaves_nothing(
    bench: Bench, engine: engines.Running
) -> None:
    running = bench.serve(bench.spec("rep_stop"), bench.standby())
    family = kin.of(running.pid, running.start_time, running.uid)
    assert len(family) > 1  # the API server and its engine core
    leaving.close(running)
    assert not engines.listening(running)
    assert leaving.busy(running) is False
    engines.stop(running, 5.0)
    assert not engines.alive(running)
    assert [one for one in family if kin.read(one.pid) is not None] == []
    # Its user id may be another engine's by now.
    assert kin.of(running.pid, running.start_time, None) == []
    assert not Path(running.directory).exists()
    assert not Path(running.home).exists()
    assert "[shutdown] EngineCore: request processing complete" in Path(running.log).read_text()
    engines.stop(running, 5.0)  # again: nothing happens
    assert engines.alive(engine)


def test_a_killed_engine_is_noticed_and_its_core_does_not_stay(
    bench: Bench, engine: engines.Running
) -> None:
    running = bench.serve(bench.spec("rep_killed"), bench.standby())
    family = kin.of(running.pid, running.start_time, running.uid)
    os.kill(running.pid, signal.SIGKILL)
    wait(lambda: not engines.alive(running), 5.0)
    wait(lambda: Path(running.exit_file).exists(), 5.0)
    assert "SIGKILL" in engines.exit_reason(running)
    assert not engines.listening(running)
    engines.stop(running, 5.0)
    assert [one for one in family if kin.read(one.pid) is not None] == []


def _ranks(running: engines.Running) -> dict[int, int]:
    """Rank to the process that computes it, as vLLM's own log says."""
    found = re.findall(r"\(Worker_TP(\d+) pid=(\d+)\)", Path(running.log).read_text())
    return {int(rank): int(pid) for rank, pid in found}


def test_two_devices_serve_as_one_and_fall_as_one(bench: Bench, engine: engines.Running) -> None:
    spec = bench.spec("rep_both", engine_args=TWO_DEVICES, device_indexes=[0, 1])
    running = bench.serve(spec, bench.standby())
    assert running.tier is wire.StartTier.STANDBY
    assert engines.probe(running, spec) is None
    assert chat(running)["usage"]["completion_tokens"] == 8
    workers = _ranks(running)
    assert sorted(workers) == [0, 1]
    family = kin.of(running.pid, running.start_time, running.uid)
    assert set(workers.values()) <= {one.pid for one in family}

    os.kill(workers[1], signal.SIGKILL)

    # Nobody is told that it lives when half of it does not.
    wait(lambda: not engines.alive(running), 30.0)
    engines.stop(running, 0.0)
    assert [one for one in family if kin.read(one.pid) is not None] == []
    assert not Path(running.directory).exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"max_model_len": 1_000_000}, "max_model_len"),
        ({"no_such_flag": 1}, "unrecognized arguments: --no-such-flag=1"),
        ({"dtype": "float7"}, "float7"),
        ({"tensor_parallel_size": 3}, "attention heads (2) must be divisible by tensor"),
    ],
)
def test_an_engine_that_cannot_start_says_why(
    bench: Bench, engine: engines.Running, arguments: dict[str, str | int], complaint: str
) -> None:
    running = bench.start(bench.spec("rep_bad", engine_args=arguments), bench.standby())
    wait(lambda: not engines.alive(running), 60.0)
    wait(lambda: Path(running.exit_file).exists(), 5.0)
    assert complaint in engines.exit_reason(running)
    engines.stop(running, 5.0)


@needs_root
def test_no_engine_reaches_another(bench: Bench, engine: engines.Running) -> None:
    """As the second engine's uid, in its namespaces: the first one's socket, its files, its
    processes, our loopback and the outside are all out of reach."""
    assert bench.survey.missing == {}
    second = bench.serve(bench.spec("rep_second"), bench.standby())
    assert second.uid is not None
    assert second.uid != engine.uid
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        report = _look_around(second, engine, port)
    assert report["own"] == "reached"
    assert report["other"] == "PermissionError"
    assert report["loopback"] == "ConnectionRefusedError"
    assert report["outside"] == "OSError"  # network is unreachable
    assert report["signal"] == "PermissionError"
    assert report["memory"] == "PermissionError"
    status = Path(f"/proc/{second.pid}/status").read_text()
    assert f"Uid:\t{second.uid}\t{second.uid}\t{second.uid}\t{second.uid}" in status
    assert "Groups:\t \n" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    limits = Path(f"/proc/{second.pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == [
        "1",
        "1",
    ]
    engines.stop(second, 0.0)


LOOK_AROUND = """
import json, os, signal, socket, sys
own, other, port, pid = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def attempt(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "reached"
def unix(path):
    with socket.socket(socket.AF_UNIX) as s: s.connect(path)
def tcp(host, port):
    with socket.socket() as s: s.settimeout(3); s.connect((host, port))
print(json.dumps({
    "own": attempt(lambda: unix(own)),
    "other": attempt(lambda: unix(other)),
    "loopback": attempt(lambda: tcp("127.0.0.1", port)),
    "outside": attempt(lambda: tcp("192.0.2.1", 80)),
    "signal": attempt(lambda: os.kill(pid, signal.SIGCONT)),
    "memory": attempt(lambda: open(f"/proc/{pid}/mem", "rb")),
}))
"""


def _look_around(inside: engines.Running, other: engines.Running, port: int) -> dict[str, str]:
    command = ["nsenter", f"--target={inside.pid}", "--net", "--mount"]
    command += [f"--setuid={inside.uid}", f"--setgid={inside.uid}", "--"]
    command += [os.readlink(f"/proc/{inside.pid}/exe"), "-I", "-c", LOOK_AROUND]
    command += [inside.socket, other.socket, str(port), str(other.pid)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    report: dict[str, str] = json.loads(done.stdout)
    return report


def test_a_standby_serves_one_organization(bench: Bench, engine: engines.Running) -> None:
    standby = bench.standby("org_1")
    with pytest.raises(StandbyError, match="belongs to org_1"):
        standby.bind("org_2")
    stranger = Standby(bench.environment, standby.directory, "org_2")
    with pytest.raises(StandbyError, match="belongs to org_1"):
        stranger._ask({"do": "fork", "organization": "org_2", "expires": float("inf")})
    assert bench.standby("org_2") is not standby


def test_a_fork_that_nobody_waits_for_does_not_happen(
    bench: Bench, engine: engines.Running
) -> None:
    standby = bench.standby("org_1")
    with pytest.raises(StandbyError, match="too late"):
        standby.fork({"expires": 0.0})


def test_an_agent_that_comes_back_adopts_its_standby(bench: Bench, engine: engines.Running) -> None:
    before = bench.standby("org_1")
    again = Standby(bench.environment, before.directory)
    again.start()
    assert again.pid == before.pid
    assert again.organization == "org_1"
    running = bench.serve(bench.spec("rep_adopted"), again)
    engines.stop(running, 5.0)


def test_without_a_standby_it_starts_cold(bench: Bench) -> None:
    """And behind the same walls. The standby named here was never started."""
    spec = bench.spec("rep_cold")
    running = bench.serve(spec, Standby(bench.environment, bench.root / "nobody"))
    assert running.tier is wire.StartTier.WARM
    assert engines.probe(running, spec) is None
    process = kin.read(running.pid)
    assert process is not None
    assert process.uid == (os.getuid() if running.uid is None else running.uid)
    assert "no standby, a plain start" in Path(running.log).read_text()
    engines.stop(running, 5.0)
    assert kin.of(running.pid, running.start_time, None) == []
