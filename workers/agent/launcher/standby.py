"""The standby's program: import vLLM once, then fork an engine for each request on a socket.

One request and one reply per connection, each a line of JSON:

    {"do": "status"}                -> {"pid", "organization", "warm", "fingerprint", "import_s"}
    {"do": "fork", …engine.py…, "organization", "exit": FILE, "expires": T}
                                    -> {"pid", "start_time"}

A refusal is {"error": TEXT}. The first fork binds the standby to its organization for good.
After T on the monotonic clock nobody waits for the fork any more, and it must not happen: the
agent has started the engine otherwise. SIGTERM ends the standby; its engines live on.

The socket appears when the core imports are done; the optional ones follow while nobody asks.
How an engine ended is written to its exit file.
"""

import contextlib
import gc
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from . import engine, preload, quiet

# How long nobody must have asked for a fork before idle imports go on: a new engine needs the
# processor more than we do.
QUIET_S = 3.0


class Refused(Exception):
    """A request that this standby does not serve; the message goes to the agent."""


class Standby:
    def __init__(self, directory: Path, organization: str, fingerprint: str) -> None:
        self.directory = directory
        self.organization = organization
        self.fingerprint = fingerprint
        self.import_s = 0.0
        self.warm = False
        self.children: dict[int, str] = {}  # pid -> exit file
        self.last_fork = float("-inf")

    def run(self) -> None:
        started = time.monotonic()
        preload.core()
        self.import_s = round(time.monotonic() - started, 3)
        gc.collect()
        gc.freeze()
        bell, ringer = self._child_bell()
        with self._listen() as listener, bell, ringer:
            print(f"standby: imports took {self.import_s} s", flush=True)
            steps = preload.optional()
            while True:
                self._reap()
                ready, _, _ = select.select([listener, bell], [], [], self._patience())
                if bell in ready:
                    with contextlib.suppress(BlockingIOError):
                        bell.recv(4096)
                if listener in ready:
                    connection, _ = listener.accept()
                    self._answer(connection, (listener, bell, ringer))
                elif not ready:
                    self._import_one(steps)

    def _patience(self) -> float | None:
        """How long to wait for somebody before the next idle import; None: for ever."""
        if self.warm:
            return None
        return max(0.0, self.last_fork + QUIET_S - time.monotonic())

    def _import_one(self, steps: Iterator[Callable[[], None]]) -> None:
        step = next(steps, None)
        if step is not None:
            step()
            return
        gc.freeze()
        self.warm = True
        print("standby: warm", flush=True)

    def _listen(self) -> socket.socket:
        path = self.directory / "standby.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        os.umask(0o177)
        listener.bind(str(path))
        os.umask(0o077)
        listener.listen(16)
        return listener

    def _child_bell(self) -> tuple[socket.socket, socket.socket]:
        """A pair of sockets, the first of which becomes readable when a child ends."""
        bell, ringer = socket.socketpair()
        bell.setblocking(False)
        ringer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ringer.fileno(), warn_on_full_buffer=False)
        return bell, ringer

    def _reap(self) -> None:
        for pid in list(self.children):
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    _write(self.children.pop(pid), {"pid": pid, "status": status})

    def _answer(self, connection: socket.socket, ours: tuple[socket.socket, ...]) -> None:
        with connection:
            connection.settimeout(5)
            try:
                request = json.loads(connection.makefile("rb").readline())
                reply = self._serve(request, (*ours, connection))
            except Refused as refusal:
                reply = {"error": str(refusal)}
            except (OSError, ValueError, KeyError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(reply).encode() + b"\n")
            except OSError:
                # Nobody knows of this engine, so it must not live.
                if "start_time" in reply:
                    os.kill(reply["pid"], signal.SIGKILL)

    def _serve(self, request: dict[str, Any], ours: tuple[socket.socket, ...]) -> dict[str, Any]:
        match request["do"]:
            case "status":
                return self._status()
            case "fork":
                return self._fork(request, ours)
            case other:
                raise Refused(f"unknown request {other!r}")

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "organization": self.organization,
            "warm": self.warm,
            "fingerprint": self.fingerprint,
            "import_s": self.import_s,
        }

    def _fork(self, request: dict[str, Any], ours: tuple[socket.socket, ...]) -> dict[str, Any]:
        if self.organization not in ("", request["organization"]):
            raise Refused(f"this standby belongs to {self.organization}")
        if time.monotonic() > request["expires"]:
            raise Refused("the request came too late")
        if preload.gpu_touched():
            raise Refused("the standby has touched a GPU, which no fork can use then")
        self.organization = request["organization"]
        gc.freeze()  # pages that the collector never touches stay shared
        self.last_fork = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become_engine(request, ours)
        self.children[pid] = request["exit"]
        return {"pid": pid, "start_time": _start_time(pid)}


def _become_engine(request: dict[str, Any], inherited: tuple[socket.socket, ...]) -> NoReturn:
    """The forked child: it never returns into the standby's loop."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for connection in inherited:
            connection.close()
        engine.prepare(request)
        gc.enable()
        random.seed()
        tempfile.tempdir = None  # the standby's, if any import asked for it
        quiet.install()
        quiet.keep_uploads()
        _serve_stock(request["argv"])
        status = 0
    except KeyboardInterrupt:
        status = 0  # vLLM's own answer to SIGTERM during its start
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 1
        if isinstance(ending.code, str):
            engine.say(ending.code)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not sys.exit: the standby's own clean-up is not ours to run.
        os._exit(status)


def _serve_stock(argv: list[str]) -> None:
    """What `vllm serve ARGV` does, from its argument parser on."""
    import torch
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.logger import configure_logging_from_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    # The standby was told to use one thread, and libraries read that only once.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        import torch._dynamo

        torch._dynamo.config.disable = True
    sys.argv = ["vllm", "serve", *argv]
    args = make_arg_parser(FlexibleArgumentParser(prog="vllm serve")).parse_args(argv)
    args.subparser = "serve"
    configure_logging_from_args(args)
    command = ServeSubcommand()
    command.validate(args)
    command.cmd(args)


def _start_time(pid: int) -> int:
    """Clock ticks since boot: with the pid, no other process shares it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19])


def _write(path: str, content: dict[str, Any]) -> None:
    """Replace `path` in one step. The agent may have forgotten the engine: then nobody reads it."""
    draft = f"{path}.new"
    with contextlib.suppress(OSError):
        Path(draft).write_text(json.dumps(content))
        os.replace(draft, path)


def main() -> None:
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the supervisor's
    Standby(Path(options["directory"]), options["organization"], options["fingerprint"]).run()
