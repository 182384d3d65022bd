"""TensorRT-LLM's driver against a server that behaves as NVIDIA documents it, over real sockets.

No GPU and no image of theirs is here: what this shows is that we say what the documentation takes.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.endpoints import engine_args
from controlplane.endpoints.errors import Invalid
from controlplane.fleet import engines as kinds
from controlplane.fleet import wire
from controlplane.fleet.engines import Place, SpecError
from controlplane.fleet.engines.base import Figures, Shape, offline
from tests.agent.fake_runner import wait_until
from tests.agent.node import ROOT, spec
from workers.agent import engines, leaving
from workers.agent.engines import ProofError, Running

H200 = "nvidia-h200"
TRTLLM = kinds.of("trtllm")


def wish(**engine_args: Any) -> wire.ReplicaSpec:
    return spec("org/model", engine="trtllm", engine_args=engine_args)


def place(folder: Path, port: int = 8000, **changes: Any) -> Place:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return Place(model, folder, folder, H200, port=port, **changes)


def config(folder: Path, **engine_args: Any) -> dict[str, Any]:
    ((path, text),) = TRTLLM.files(wish(**engine_args), place(folder)).items()
    assert path == folder / "trtllm.yaml"
    found: dict[str, Any] = yaml.safe_load(text)
    return found


# --- what it is started with -----------------------------------------------------------------


def test_its_command(tmp_path: Path) -> None:
    here = place(tmp_path, 9000, template=Path("/t.jinja"))
    assert [
        *TRTLLM.program,
        *TRTLLM.arguments(wish(tool_parser="qwen3", max_seq_len=64), here),
    ] == [
        "trtllm-serve",
        str(tmp_path / "model"),
        "--host=127.0.0.1",
        "--port=9000",
        f"--config={tmp_path / 'trtllm.yaml'}",
        "--tool_parser=qwen3",
        "--chat_template=/t.jinja",
    ]


def test_its_configuration(tmp_path: Path) -> None:
    ours = {"enable_iter_perf_stats": True, "guided_decoding_backend": "xgrammar"}
    assert config(tmp_path) == ours
    found = config(
        tmp_path,
        max_batch_size=64,
        tensor_parallel_size=2,
        kv_cache_free_gpu_memory_fraction=0.8,
        kv_cache_dtype="fp8",
        enable_block_reuse=False,
        cuda_graph_max_batch_size=32,
        cuda_graph_padding=True,
        tool_parser="qwen3",
        guided_decoding_backend="llguidance",
    )
    assert found == {
        "enable_iter_perf_stats": True,
        "guided_decoding_backend": "llguidance",
        "max_batch_size": 64,
        "tensor_parallel_size": 2,
        "kv_cache_config": {
            "free_gpu_memory_fraction": 0.8,
            "dtype": "fp8",
            "enable_block_reuse": False,
        },
        "cuda_graph_config": {"max_batch_size": 32, "enable_padding": True},
    }
    assert config(tmp_path, cuda_graphs=False) == {**ours, "cuda_graph_config": None}
    assert config(tmp_path, cuda_graphs=True, dtype=None) == ours
    with pytest.raises(SpecError, match="trust_remote_code"):
        config(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ({"trust_remote_code": True}, "engine_arg_forbidden", "runs code"),
        ({"otlp_traces_endpoint": "x"}, "engine_arg_forbidden", "send nothing anywhere"),
        ({"max_num_seqs": 8}, "engine_arg_unknown", "the nearest is"),
        ({"kv_cache_dtype": "fp4"}, "engine_arg_invalid", "expected one of auto"),
        ({"cuda_graphs": False, "cuda_graph_padding": True}, "engine_arg_invalid", "needs cuda"),
        ({"max_batch_size": 4, "cuda_graph_max_batch_size": 8}, "engine_arg_invalid", "above"),
        ({"tensor_parallel_size": 2}, "engine_arg_invalid", "uses 2 devices"),
    ],
)
def test_what_a_tenant_may_not_set(args: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as error:
        engine_args.validate(args, 1, H200, engine="trtllm")
    assert error.value.code == code


def test_the_split_over_devices_follows_from_them() -> None:
    assert TRTLLM.check({}, Shape(4, H200)) == {"tensor_parallel_size": 4}


def test_what_it_cannot_do_is_said() -> None:
    can = TRTLLM.can
    assert can.openai
    assert not (can.adapters or can.sleep or can.standby or can.gangs or can.recipes)
    assert can.proofs == {wire.Capability.JSON_SCHEMA}
    assert TRTLLM.serves(H200) and not TRTLLM.serves("cpu")
    assert not TRTLLM.can_sleep(wish(), H200)
    with pytest.raises(SpecError, match="from an image only"):
        TRTLLM.environment_for(H200)


@pytest.mark.parametrize("name", sorted(kinds.ENGINES))
def test_no_engine_reaches_a_hub_or_tells_anybody_anything(name: str, tmp_path: Path) -> None:
    engine = kinds.of(name)
    env = {**offline(), **engine.variables(spec("org/model", engine=name), place(tmp_path))}
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK"):
        assert env[variable] == "1"
    assert env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    own = {
        "vllm": {"VLLM_NO_USAGE_STATS": "1"},
        "trtllm": {"TRTLLM_NO_USAGE_STATS": "1", "TELEMETRY_DISABLED": "true"},
        "custom": {},
    }
    assert own[name].items() <= env.items()


# --- a server that runs ----------------------------------------------------------------------


def pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@dataclass
class Serving:
    """The server on a port, and the way to it: a unix socket, as a node's door gives."""

    process: subprocess.Popen[bytes]
    port: int
    running: Running
    listener: socket.socket

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outside, _ = self.listener.accept()
                threading.Thread(target=self.join, args=(outside,), daemon=True).start()

    def join(self, outside: socket.socket) -> None:
        with outside:
            try:
                inside = socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                return
            with inside:
                back = threading.Thread(target=pump, args=(inside, outside), daemon=True)
                back.start()
                pump(outside, inside)
                back.join()

    def metrics(self) -> Figures:
        status, body = engines.call(self.running.socket, TRTLLM.metrics_path, None, "", 10)
        assert status == 200
        return TRTLLM.figures(body)


Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Serving] = []

    def begin(**engine_args: Any) -> Serving:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        wanted, here = wish(**engine_args), place(tmp_path, port)
        for path, text in TRTLLM.files(wanted, here).items():
            path.write_text(text)
        path = tmp_path / "engine.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        log = tmp_path / "engine.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.agent.fake_trtllm", *TRTLLM.arguments(wanted, here)],
                env={**os.environ, **offline(), **TRTLLM.variables(wanted, here)},
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        running = Running(
            replica_id=wanted.replica_id,
            pid=os.getpid(),  # whose namespace the socket is in
            start_time=0,
            boot_id="",
            socket=str(path),
            tier=wire.StartTier.WARM,
            log=str(log),
            directory="",
            home="",
            exit_file="",
            engine="trtllm",
            health=TRTLLM.health_path(wanted),
        )
        serving = Serving(process, port, running, listener)
        threading.Thread(target=serving.accept, daemon=True).start()
        begun.append(serving)
        return serving

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()
        one.listener.close()


def listening(start: Start, **engine_args: Any) -> Serving:
    serving = start(**engine_args)
    wait_until(lambda: engines.listening(serving.running) or serving.process.poll() is not None, 60)
    assert serving.process.poll() is None, Path(serving.running.log).read_text()
    return serving


def test_ready_is_health_then_an_inference_then_its_proof(start: Start) -> None:
    serving = listening(start, max_batch_size=8, cuda_graphs=False, tool_parser="qwen3")
    assert engines.probe(serving.running, wish()) is None
    engines.prove(serving.running, "ep_1", TRTLLM.can.proofs)
    with pytest.raises(ProofError, match="no tool call"):
        engines.prove(serving.running, "ep_1", [wire.Capability.TOOLS])


def test_what_the_documentation_does_not_have_ends_it(start: Start) -> None:
    """The stand-in is strict, so that the tests above mean something."""
    serving = start(attn_backend=7)
    assert serving.process.wait(60) != 0
    assert "attn_backend: Input should be a valid str" in engines.exit_reason(serving.running)
    assert not engines.listening(serving.running)


def test_its_figures_are_gone_once_read(start: Start, tmp_path: Path) -> None:
    serving = listening(start)
    assert serving.metrics() == Figures()  # no iteration yet
    release = tmp_path / "go"
    with holding(serving, release):
        wait_until(lambda: leaving.busy(serving.running))
        found: list[Figures] = []

        def said() -> bool:
            found.append(serving.metrics())
            return found[-1].running is not None

        wait_until(said)
        assert found[-1] == Figures(running=1, waiting=0, kv_cache_usage=0.25)
        # It still computes, and says nothing of it: so its figures alone can end no drain.
        assert serving.metrics() == Figures()
        assert leaving.busy(serving.running) is True


def test_a_drain_waits_for_what_is_under_way(start: Start, tmp_path: Path) -> None:
    serving = listening(start)
    wait_until(lambda: leaving.busy(serving.running) is False)
    release = tmp_path / "go"
    with holding(serving, release) as answers:
        wait_until(lambda: leaving.busy(serving.running))
        leaving.close(serving.running)
        assert not engines.listening(serving.running)
        assert leaving.busy(serving.running) is True
        release.touch()
        wait_until(lambda: answers)
        assert answers[0]["usage"]["completion_tokens"] == 1
    wait_until(lambda: leaving.busy(serving.running) is False)


@contextlib.contextmanager
def holding(serving: Serving, release: Path) -> Iterator[list[dict[str, Any]]]:
    """A request that is answered once `release` is there; its answer. Never left hanging."""
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        body = json.dumps({"model": "ep_1", "prompt": str(release), "max_tokens": 1}).encode()
        with contextlib.suppress(OSError, http.client.HTTPException):
            _, answer = engines.call(
                serving.running.socket, "/v1/completions", body, "application/json", 60
            )
            answers.append(json.loads(answer))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        release.touch()
        asking.join(60)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", Figures()),
        (b"{}", Figures()),
        (b"\xff", Figures()),
        (b"[null]", Figures()),
        (b'[{"numActiveRequests": true}]', Figures()),
        (b'[{"numActiveRequests": 5}, {"numActiveRequests": 2}]', Figures(running=2)),
        (b'["{\\"numActiveRequests\\": 3, \\"numQueuedRequests\\": 1}"]', Figures(3, 1)),
        (
            b'[{"kvCacheStats": {"usedNumBlocks": 3, "maxNumBlocks": 0}}]',
            Figures(),
        ),
    ],
)
def test_figures_of_every_form(body: bytes, expected: Figures) -> None:
    assert TRTLLM.figures(body) == expected
