"""One engine's life on this node: start it, prove it, stop it, and say why it ended.

Everything here blocks; call it from a thread. Nothing here remembers: `Running` is all there is
to know about an engine, and the agent writes it down before it believes in it.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from controlplane.fleet import engines as kinds
from controlplane.fleet import wire
from workers.agent import caches, command, kin, probing, proving, startup_log, tunnel, walls
from workers.agent.environment import LAUNCHER, Environment
from workers.agent.launcher.isolation import Isolation
from workers.agent.standby import Standby, StandbyError
from workers.agent.start_flags import Chosen

SOCKET = "engine.sock"
SCRATCH = "t"
KEPT = "caches"  # beside homes/
# What is left of a unix socket's 107 bytes for `Place.run_directory`.
RUN_DIRECTORY_MAX = 107 - len("/e/") - 12 - len(f"/{SCRATCH}/") - 36
SLEEP_TIMEOUT_S = 120.0  # it answers what came last first


class ProofError(Exception):
    """An engine that cannot do what its endpoint promises; the message is for a person."""

    def __init__(self, capability: wire.Capability, message: str) -> None:
        super().__init__(message)
        self.capability = capability


class StartError(Exception):
    """The engine could not be started at all; the message is for a person."""


@dataclass(frozen=True)
class Place:
    """Where and with what an engine runs on this node."""

    environment: Environment
    run_directory: Path  # holds each engine's socket directory; a short path
    cache: Path  # holds each engine's home, under homes/
    log: Path
    model: Path
    survey: walls.Survey
    device_kind: str = "cpu"
    standby: Standby | None = None
    template: Path | None = None  # a chat template for a model that brings none
    marks: Mapping[str, str] = field(default_factory=dict)  # environment of a plain start
    threads: int = 1  # of computation, on a CPU
    flags: Chosen = field(default_factory=Chosen)  # what cuts the start
    kept: Path | None = None  # where caches outlive engines (caches.py); closed to all but us
    kept_bytes: int = 20 << 30


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was started. With `boot_id`, pid and start time name one process for ever."""

    replica_id: str
    pid: int
    start_time: int  # clock ticks since boot
    boot_id: str
    socket: str
    tier: wire.StartTier
    log: str
    directory: str  # its socket and scratch files
    home: str  # its caches
    recipe: wire.Recipe | None = None
    template: bool = False  # its chat template is the recipe's
    adapters: str = ""  # where its adapters lie, if it takes any; the agent's alone to write
    exit_file: str
    uid: int | None = None
    cache: str = ""  # its slot of what outlives it
    flags: dict[str, str] = {}  # what was added to cut its start (start_flags.py)
    engine: str = "vllm"  # of which kind (controlplane.fleet.engines)
    health: str = "/health"  # answers 200 once it is loaded
    image: str = ""  # registry/repository@sha256:… that it was started from, if from one
    container: str = ""  # the id of the container that it runs in; `pid` is then its door's


# Plain starts are our own children: unreaped they would linger, and only we learn their status.
_children: dict[int, subprocess.Popen[bytes]] = {}


def start(spec: wire.ReplicaSpec, place: Place) -> Running:
    """Start the engine and return at once; it listens some seconds later (`listening`).

    From the standby where there is one, else as a plain process. Raises command.SpecError,
    walls.WallError, StartError; then nothing of it is left.
    """
    directory = socket_directory(place.run_directory, spec.replica_id)
    home = place.cache / "homes" / spec.replica_id
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    _check_length(directory / SOCKET)
    kind = kinds.of(spec.engine)
    inside = _inside(spec, place, directory, home)
    argv = command.arguments(spec, inside)
    if spec.seat is not None and wire.Wall.GANG not in place.survey.can:
        raise walls.WallError("this node cannot give an engine a gang's private network")
    adapters: Path | None = place.cache / "adapters" / spec.replica_id
    if not kind.takes_adapters(spec):
        adapters = None
    uid = walls.claim_uid(directory) if wire.Wall.UID in place.survey.can else None
    cache: Path | None = None
    try:
        cache = _cache(spec, place, uid)
        walls.private_directory(directory, uid)
        walls.private_directory(home, uid)
        walls.private_directory(inside.scratch, uid)
        if adapters is not None:
            adapters.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            shutil.rmtree(adapters, ignore_errors=True)
            adapters.mkdir()
            adapters.chmod(0o755)  # whatever the umask
        inside = replace(inside, kept=cache)
        _write(kind.files(spec, inside))
        request = _request(spec, place, inside, argv, directory, uid, adapters)
        pid, start_time, tier = _launch(request, place)
    except (OSError, StartError) as error:
        tidy(directory, home, uid, adapters, cache)
        raise StartError(str(error)) from error
    return Running(
        replica_id=spec.replica_id,
        pid=pid,
        start_time=start_time,
        boot_id=boot_id(),
        socket=str(directory / SOCKET),
        tier=tier,
        log=str(place.log),
        directory=str(directory),
        home=str(home),
        template=place.template is not None,
        adapters=str(adapters or ""),
        exit_file=request["exit"],
        uid=uid,
        cache=str(cache or ""),
        flags=place.flags.told,
        engine=spec.engine,
        health=kind.health_path(spec),
    )


def alive(running: Running) -> bool:
    """True while the engine's first process lives. The others die with it, or by `stop`."""
    if running.boot_id != boot_id():
        return False
    if (child := _children.get(running.pid)) is not None:
        child.poll()
    process = kin.read(running.pid)
    return process is not None and process.start_time == running.start_time


def listening(running: Running) -> bool:
    """True once the engine answers at all: loaded, and not yet proved."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return call(running.socket, running.health, None, "", 2.0)[0] == 200
    return False


def probe(running: Running, spec: wire.ReplicaSpec, *, timeout_s: float = 60.0) -> str | None:
    """The smallest inference that the engine offers. None when it worked, else what went wrong."""
    if not kinds.of(running.engine).infers(spec):
        return None if listening(running) else f"GET {running.health} is not answered with 200"
    tried = []
    pooling = spec.engine_args.get("runner") == "pooling"
    for attempt in probing.attempts(spec.served_name, pooling_first=pooling):
        try:
            status, answer = call(
                running.socket, attempt.path, attempt.body, attempt.content_type, timeout_s
            )
        except (OSError, http.client.HTTPException) as error:
            return f"POST {attempt.path}: {error or type(error).__name__}"
        if status == 200:
            return probing.flaw(answer)
        if status not in probing.NOT_OFFERED:
            said = answer[:300].decode(errors="replace")
            return f"POST {attempt.path}: status {status}: {said}"
        tried.append(attempt.path)
    return f"the engine has none of {', '.join(tried)}"


def sleep(running: Running) -> str | None:
    """Weights to the host's memory, KV cache away. None, or why it does not sleep.

    Only where its kind `can_sleep`: elsewhere an engine says yes and frees nothing.
    """
    wrong = _told(running, "/sleep?level=1&mode=wait")
    if wrong is None and not _asleep(running):
        wrong = "the engine says that it does not sleep"
    return wrong


def wake(running: Running) -> str | None:
    """None when it is awake, else what is wrong."""
    return _told(running, "/wake_up")


def prove(
    running: Running,
    served_name: str,
    wanted: Collection[wire.Capability],
    *,
    timeout_s: float = 180.0,
) -> None:
    """Ask the engine for what it must be able to do. Raises ProofError, OSError, HTTPException."""
    recipe = running.recipe
    asked: list[tuple[wire.Capability, dict[str, Any], Callable[[bytes], str | None]]] = []
    if wire.Capability.TOOLS in wanted:
        tools = wire.Capability.TOOLS
        asked.append((tools, proving.forced_call(served_name, recipe), proving.no_call))
        if recipe is not None and recipe.call:
            asked.append((tools, proving.written_call(served_name, recipe), proving.no_call))
    if wire.Capability.JSON_SCHEMA in wanted:
        schema = proving.under_schema(served_name, recipe)
        asked.append((wire.Capability.JSON_SCHEMA, schema, proving.no_object))
    for capability, request, flaw in asked:
        body = json.dumps(request).encode()
        path = "/v1/chat/completions"
        status, answer = call(running.socket, path, body, "application/json", timeout_s)
        wrong = flaw(answer) if status == 200 else _refusal(status, answer)
        if wrong:
            raise ProofError(capability, wrong)


def _refusal(status: int, answer: bytes) -> str:
    said = answer[:400].decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        said = str(json.loads(answer)["error"]["message"])[:400]
    return f"the engine refused it with status {status}: {said}"


def stop(running: Running, grace_s: float) -> None:
    """SIGTERM, up to `grace_s` to end by itself, then SIGKILL to whatever is left of the engine.

    Whoever wants its requests answered waits for that first (leaving.py). Without grace no SIGTERM.
    Its directories and its uid are free afterwards. Safe to repeat, and on an engine that is
    dead. Raises StartError when a process survives SIGKILL.
    """
    if running.boot_id == boot_id():
        if alive(running) and grace_s > 0:
            _ask_to_end(running, grace_s)
        left = kin.end(running.pid, running.start_time, running.uid)
        if (child := _children.get(running.pid)) is not None:
            child.poll()
        if left:
            raise StartError(f"processes that do not die: {[process.pid for process in left]}")
    adapters = Path(running.adapters) if running.adapters else None
    cache = Path(running.cache) if running.cache else None
    tidy(Path(running.directory), Path(running.home), running.uid, adapters, cache)


def exit_reason(running: Running) -> str:
    """Why an engine that is not alive ended, as far as anybody knows."""
    status: int | None = None
    if (child := _children.get(running.pid)) is not None:
        status = child.poll()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(Path(running.exit_file).read_text())
        if noted["pid"] == running.pid:
            status = os.waitstatus_to_exitcode(noted["status"])
    said = ""
    with contextlib.suppress(OSError), Path(running.log).open(errors="replace") as file:
        said = startup_log.complaint(deque(file, maxlen=500))
    if status is None:
        ending = "the engine's process is gone"
    elif status == -signal.SIGKILL:
        ending = "the engine was killed (SIGKILL: out of memory, or by hand)"
    elif status < 0:
        ending = f"the engine died of {signal.Signals(-status).name}"
    else:
        ending = f"the engine ended with status {status}"
    return f"{ending}: {said}" if said else ending


def report(running: Running) -> wire.EngineReport:
    """What the engine printed while it started."""
    with contextlib.suppress(OSError), Path(running.log).open(errors="replace") as file:
        return startup_log.parse(file)
    return wire.EngineReport()


def sweep(run_directory: Path, cache: Path, keep: Collection[str]) -> None:
    """Remove the directories, and so free the uids, of engines that are none of `keep` (replica
    ids). For a starting agent, once every process of theirs is gone."""
    caches.sweep(cache / KEPT, set(keep))
    short = {socket_directory(run_directory, replica_id).name for replica_id in keep}
    whole = set(keep)
    places = ((run_directory / "e", short), (cache / "homes", whole), (cache / "adapters", whole))
    for folder, kept in places:
        with contextlib.suppress(FileNotFoundError):
            for entry in folder.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)


def boot_id() -> str:
    """Changes when the machine starts anew, and with it every pid."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def socket_directory(run_directory: Path, replica_id: str) -> Path:
    """Where an engine's socket is: the end of an id is random, and paths of sockets are short."""
    return run_directory / "e" / replica_id[-12:]


def _inside(spec: wire.ReplicaSpec, place: Place, directory: Path, home: Path) -> command.Place:
    return command.Place(
        model=place.model,
        home=home,
        scratch=directory / SCRATCH,
        device_kind=place.device_kind,
        socket=directory / SOCKET,
        template=place.template,
        threads=place.threads,
        added=place.flags.arguments,
        network=command.network(spec.seat),
    )


def _request(
    spec: wire.ReplicaSpec,
    place: Place,
    inside: command.Place,
    argv: list[str],
    directory: Path,
    uid: int | None,
    adapters: Path | None,
) -> dict[str, Any]:
    """What launcher/engine.py is asked for."""
    network = place.survey.network
    reach = [place.environment.root, place.environment.base, place.model, directory, inside.home]
    ours = (adapters, inside.kept, place.template)
    reach += [LAUNCHER / "quiet.py", *(path for path in ours if path is not None)]
    gang = tunnel.address(spec.seat.rank) if spec.seat is not None else ""
    isolation = Isolation(uid, network, tuple(str(path) for path in reach), gang)
    place.log.parent.mkdir(parents=True, exist_ok=True)
    return {
        "argv": argv,
        "entry": [part.format(launcher=LAUNCHER) for part in kinds.of(spec.engine).entry],
        "env": command.environment(spec, inside, place.environment.root / "bin"),
        "log": str(place.log),
        "directory": str(inside.home),
        "isolation": isolation.encode(),
        "exit": f"{place.log}.exit",
    }


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        path.write_text(text)
        path.chmod(0o644)  # whatever the umask; none but the engine enters its home


def _launch(request: dict[str, Any], place: Place) -> tuple[int, int, wire.StartTier]:
    Path(request["exit"]).unlink(missing_ok=True)
    if place.standby is not None:
        # Who has to wait for the imports did not have a standby, whatever it is forked from.
        tier = wire.StartTier.STANDBY if place.standby.ready() else wire.StartTier.WARM
        try:
            return (*place.standby.fork(request), tier)
        except StandbyError as error:
            with place.log.open("a") as log:
                log.write(f"stoa {time.strftime('%H:%M:%S')} no standby, a plain start: {error}\n")
    request["env"] = {**request["env"], **place.marks}
    program, bare = place.environment.program("plain"), {**place.marks, "PATH": "/usr/bin:/bin"}
    return (*spawn(program, bare, json.dumps(request).encode()), wire.StartTier.WARM)


def spawn(argv: list[str], env: dict[str, str], said: bytes) -> tuple[int, int]:
    """A process in a session of its own that is told `said`: pid and start time.

    Raises StartError, OSError.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=env,
        start_new_session=True,
    )
    _children[process.pid] = process
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(said)
    born = kin.read(process.pid)
    if born is None:
        raise StartError("the engine's process ended at once")
    return process.pid, born.start_time


def _told(running: Running, target: str) -> str | None:
    try:
        status, answer = call(running.socket, target, b"", "", SLEEP_TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        return f"POST {target}: {error or type(error).__name__}"
    if status == 200:
        return None
    return f"POST {target}: status {status}: {answer[:300].decode(errors='replace')}"


def _asleep(running: Running) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, TypeError, KeyError):
        status, answer = call(running.socket, "/is_sleeping", None, "", 10.0)
        return status == 200 and json.loads(answer)["is_sleeping"] is True
    return False


def _ask_to_end(running: Running, grace_s: float) -> None:
    process = kin.read(running.pid)
    if process is None:
        return
    kin.send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while alive(running) and time.monotonic() < deadline:
        time.sleep(0.05)


def _cache(spec: wire.ReplicaSpec, place: Place, uid: int | None) -> Path | None:
    """A slot for what outlives the engine, by its organization, model, environment and device."""
    if place.kept is None:
        return None
    key = caches.key(
        organization=spec.organization_id,
        model=str(place.model),
        environment=str(place.environment.root),
        device_kind=place.device_kind,
    )
    return caches.take(place.kept, key, spec.replica_id, uid, most_bytes=place.kept_bytes)


def tidy(
    directory: Path, home: Path, uid: int | None, adapters: Path | None, cache: Path | None
) -> None:
    if cache is not None:
        with contextlib.suppress(OSError):
            caches.give_back(cache)  # before its uid is another's
    for folder in (directory, home, *([adapters] if adapters else [])):
        shutil.rmtree(folder, ignore_errors=True)
    if uid is not None:
        walls.release_uid(uid, directory)


def _check_length(path: Path) -> None:
    # The sockets between an engine's processes have names of 36 characters.
    longest = path.parent / SCRATCH / ("x" * 36)
    if len(os.fsencode(longest)) > 107:
        raise StartError(
            f"{path.parent} is too long for unix sockets in it: set STOA_AGENT_RUN_DIR to a path of"
            f" at most {RUN_DIRECTORY_MAX} bytes"
        )


class _Connection(http.client.HTTPConnection):
    """HTTP to an engine, over its unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def call(
    path: str, target: str, body: bytes | None, kind: str, timeout_s: float
) -> tuple[int, bytes]:
    """Ask the engine at socket `path`: POST a body of type `kind`; GET where there is none."""
    connection = _Connection(path, timeout_s)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, target, body, {"content-type": kind} if kind else {})
        response = connection.getresponse()
        return response.status, response.read(1 << 20)
    finally:
        connection.close()
