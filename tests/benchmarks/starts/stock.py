"""Stock `vllm serve` in a shell, with what our engines get: same model, flags and environment."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai

from controlplane.fleet import wire
from tests.flows.stoa import until
from workers.agent import command, engines, environment, kin
from workers.agent.progress import Watch
from workers.local.embedded import free_port

NAME = "stock"
PROMPT = "import os"
PATIENCE_S = 600.0


@dataclass
class Stock:
    """`root` holds its caches and log, so that a second start finds what the first one left."""

    engine: environment.Environment
    model: Path
    root: Path
    engine_args: dict[str, command.Value]
    device_kind: str = "cpu"
    threads: int = 1
    phases: list[dict[str, float]] = field(default_factory=list)  # of each start, in seconds

    def start(self) -> float:
        """Seconds from the shell's command until the first streamed token; then it is ended."""
        port = free_port()
        sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        log = self.root / "stock.log"
        began = time.monotonic()
        process = self._spawn(port, log)
        try:
            watch = Watch(_running(process.pid, log), began)
            until(lambda: _listens(port, process, watch), within_s=PATIENCE_S, what="it listens")
            watch.listens()
            listened = time.monotonic()
            with sdk:
                until(lambda: first_token(sdk, NAME), every_s=0.01, what="a token")
            done = time.monotonic()
            self.phases.append({**watch.seconds, "probed": done - listened})
            return done - began
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _spawn(self, port: int, log: Path) -> subprocess.Popen[bytes]:
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        spec = self._spec()
        place = command.Place(
            model=self.model,
            home=home,
            scratch=self.root,
            device_kind=self.device_kind,
            port=port,
            threads=self.threads,
        )
        argv = command.arguments(spec, place)
        env = command.environment(spec, place, self.engine.root / "bin")
        with log.open("wb") as output:
            return subprocess.Popen(
                [str(self.engine.root / "bin" / "vllm"), "serve", *argv],
                env=env,
                cwd=home,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _spec(self) -> wire.ReplicaSpec:
        return wire.ReplicaSpec(
            replica_id="rep_stock",
            endpoint_id="ep_stock",
            organization_id="org_stock",
            model=str(self.model),
            revision="",
            engine="vllm",
            engine_args=self.engine_args,
            adapters=[],
            served_name=NAME,
            device_indexes=[0],
            share_standby=False,
            start_timeout_s=PATIENCE_S,
        )


def first_token(sdk: openai.OpenAI, model: str) -> bool:
    """Whether one came; not while the endpoint is unknown or stopped, or nothing listens yet."""
    try:
        with sdk.completions.create(model=model, prompt=PROMPT, max_tokens=8, stream=True) as words:
            return any(chunk.choices and chunk.choices[0].text for chunk in words)
    except (openai.InternalServerError, openai.NotFoundError, openai.APIConnectionError):
        return False


def _listens(port: int, process: subprocess.Popen[bytes], watch: Watch) -> bool:
    assert process.poll() is None, "vllm serve has ended"
    watch.look()
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _running(pid: int, log: Path) -> engines.Running:
    found = kin.read(pid)
    return engines.Running(
        replica_id="rep_stock",
        pid=pid,
        start_time=found.start_time if found else 0,
        boot_id=engines.boot_id(),
        socket="",
        tier=wire.StartTier.WARM,
        log=str(log),
        directory="",
        home="",
        exit_file="",
    )
