"""A whole Stoa, started as a person starts it, and looked at from outside."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai

from tests.flows.api import Api
from workers.agent import kin, processes
from workers.agent.environment import default_cache
from workers.local.embedded import free_port, port_taken

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
UP_S = 240.0
DOWN_S = 90.0
PORTS = (
    *("STOA_WEB_PORT", "STOA_GATEWAY_PORT", "STOA_AGENTS_PORT"),
    *("STOA_POSTGRES_PORT", "STOA_VALKEY_PORT"),
)
READY_LINE = "stoa is up"
# What a person's shell would hand on; nothing of the test run's own servers.
_PASSED = ("PATH", "HOME", "LANG", "STOA_CACHE_DIR", "STOA_ENGINE_PYTHON", "STOA_UV")


def until(
    look: Callable[[], T], *, within_s: float = 60.0, every_s: float = 0.05, what: str = ""
) -> T:
    """The first true answer of `look`; fails with what it was that did not come to pass."""
    deadline = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or look}"
        time.sleep(every_s)


class Stoa:
    """One installation in `var`. `up` and `down` may be repeated; its data stay."""

    def __init__(self, var: Path, **settings: str) -> None:
        self.var = var
        self.output = var.with_suffix(".out")
        self.env = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self.env |= {"STOA_VAR_DIR": str(var), "HF_HUB_OFFLINE": "1"}
        self.env |= {name: str(free_port()) for name in PORTS}
        self.env |= settings
        self.process: subprocess.Popen[bytes] | None = None
        self._api: Api | None = None

    # --- its life --------------------------------------------------------------------

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        """`python -m workers.local up`, its screen in `output`."""
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "workers.local", "up"],
                cwd=ROOT,
                env=self.env | settings,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def up(self) -> None:
        self.process = process = self.start()
        until(
            lambda: READY_LINE in self.screen or process.poll() is not None,
            within_s=UP_S,
            what="stoa is up",
        )
        assert process.poll() is None, self.screen

    def down(self) -> None:
        """Ctrl-C, and proof that nothing is left."""
        process, self.process = self.process, None
        if self._api is not None:
            self._api.http.close()
            self._api = None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        status = process.wait(DOWN_S)
        left = self.leftovers()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"left behind: {left}"
        assert status == 0, self.screen
        assert not [name for name in PORTS if port_taken(int(self.env[name]))]

    def sweep(self) -> None:
        """Remove what its agent keeps outside `var`: empty folders, one set an installation."""
        mine = processes.mark(self.var / "agent")[:6]
        for folder in (*Path("/run/stoa").glob(f"*/{mine}"), default_cache() / "nodes" / mine):
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()

    @property
    def screen(self) -> str:
        return self.output.read_text(errors="replace")

    # --- who uses it -------------------------------------------------------------------

    @property
    def run(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.var / "run.json").read_text())
        return found

    @property
    def api(self) -> Api:
        if self._api is None:
            self._api = Api(self.run["console_url"], self.run["api_key"])
        return self._api

    def client(self, api_key: str = "") -> openai.OpenAI:
        """OpenAI's own SDK, which tries nothing twice here."""
        run = self.run
        return openai.OpenAI(
            base_url=f"{run['gateway_url']}/v1",
            api_key=api_key or run["api_key"],
            timeout=180,
            max_retries=0,
        )

    # --- what runs -----------------------------------------------------------------------

    def leftovers(self) -> dict[int, str]:
        """Every process of this installation: engines, servers, our own."""
        mark = f"{processes.AGENT_MARK}={processes.mark(self.var / 'agent')}".encode()
        wanted = (str(self.var).encode(), mark)
        found = {}
        for pid in _pids():
            command, environment = _file(pid, "cmdline"), _file(pid, "environ")
            if any(word in command or word in environment for word in wanted):
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace")[:200]
        return found

    def engines(self) -> list[str]:
        """The replica of each engine that runs, one entry an engine.

        An engine's first process leads a session of its own and writes to its replica's log.
        """
        logs = self.var / "agent" / "logs"
        found = []
        for pid in _pids():
            process = kin.read(pid)
            if process is None or process.session != pid:
                continue
            try:
                output = Path(f"/proc/{pid}/fd/1").readlink()
            except OSError:
                continue
            if output.parent == logs:
                found.append(output.stem)
        return sorted(found)

    def pid_of(self, name: str) -> int:
        """One of the processes that the supervisor keeps; raises LookupError while it is away."""
        words = {
            "web": (b"uvicorn", b"controlplane.asgi:application"),
            "worker": (b"celery", b"workers.celery"),
            "batches": (b"controlplane", b"run_batches"),
            "gateway": (b"-m", b"gateway"),
            "agent": (b"workers.agent", b"run"),
            "signer": (b"-m", b"workers.signer"),
            "postgres": (b"-D", str(self.var / "pg").encode()),
            "valkey": (b"valkey-server",),
        }[name]
        for pid in _pids():
            process = kin.read(pid)
            if process is None or process.parent != (self.process.pid if self.process else 0):
                continue
            command = _file(pid, "cmdline").split(b"\0")
            if all(any(word in part for part in command) for word in words):
                return pid
        raise LookupError(name)

    def kill(self, name: str) -> int:
        """kill -9 of one of them; its pid."""
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def restarted(self, name: str, killed: int) -> bool:
        """Whether the supervisor has it back."""
        try:
            return self.pid_of(name) != killed
        except LookupError:
            return False

    def socket(self, replica_id: str) -> str:
        """Where its engine listens, as the agent wrote it down."""
        record = json.loads((self.var / "agent" / "replicas" / f"{replica_id}.json").read_text())
        path: str = record["running"]["socket"]
        return path


@contextmanager
def installation(var: Path, **settings: str) -> Iterator[Stoa]:
    stoa = Stoa(var, **settings)
    try:
        stoa.up()
        yield stoa
    except BaseException:
        print(tails(stoa))
        raise
    finally:
        stoa.down()
        stoa.sweep()


def tails(stoa: Stoa, lines: int = 40) -> str:
    """The ends of all its logs: what a failed test shows."""
    parts = [f"--- screen\n{stoa.screen[-4000:]}"]
    for log in sorted((stoa.var / "log").glob("*.log")):
        end = log.read_text(errors="replace").splitlines()[-lines:]
        parts.append(f"--- {log.name}\n" + "\n".join(end))
    return "\n".join(parts)


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with."""
    pairs = (entry.partition(b"=") for entry in _file(pid, "environ").split(b"\0"))
    return {name.decode(): value.decode() for name, _, value in pairs}


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def endpoint_body(stoa: Stoa, name: str, **changes: Any) -> dict[str, Any]:
    """A wish for the tiny model that `make up` serves."""
    hello = stoa.api.endpoint("hello")
    return {
        "project": hello["project"],
        "name": name,
        "model": hello["model"],
        "device_kind": "cpu",
        "engine_args": {"max_model_len": 2048},
        **changes,
    }
