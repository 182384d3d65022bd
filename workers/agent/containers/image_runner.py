"""A replica from an image, from the wish to its end: node_runner's, where a wish names one."""

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from controlplane.fleet import engines as kinds
from controlplane.fleet import wire
from controlplane.fleet.engines.base import Engine, Place, SpecError, offline
from workers.agent import caches, egress, engines, processes, startup_log, walls
from workers.agent.containers import brought, door, driver, entry, images
from workers.agent.containers.driver import ContainerError, Driver, Found
from workers.agent.containers.images import Brought
from workers.agent.containers.isolation import HOME, MODEL, Box, Mount
from workers.agent.engines import Running, StartError
from workers.agent.runner import Door, Progress
from workers.agent.weights.errors import Cancelled, Unreachable

log = logging.getLogger("stoa.agent")

PIDS = 4096  # processes and threads of a container, unless its image says less
KEPT = Path("/stoa/kept")
SCRATCH = Path("/tmp")
EGRESS = "egress"  # the folder of the way out, in the replica's own
LAST_WORDS_S = 7.0  # for the door to write down what its container said last


@dataclass(frozen=True)
class Site:
    """Where on this node a replica runs. `memory_bytes`: what its devices come with."""

    device_kind: str
    threads: int
    memory_bytes: int
    model: Path | None
    template: Path | None = None
    kept: Path | None = None  # where caches outlive engines
    kept_bytes: int = 20 << 30


@dataclass(frozen=True)
class _Fetched:
    image: Brought
    secrets: wire.Secrets


@dataclass(frozen=True)
class _Room:
    """What one container has of this node, made for it and gone with it."""

    directory: Path  # its socket: the agent's and its door's
    home: Path
    uid: int
    adapters: Path | None
    cache: Path | None

    def tidy(self) -> None:
        engines.tidy(self.directory, self.home, self.uid, self.adapters, self.cache)


class ImageRunner:
    """Blocking throughout. `directory` is the agent's, `address` what the settings say."""

    def __init__(self, directory: Path, run_dir: Path, homes: Path, address: str) -> None:
        self._directory, self._run_dir, self._homes = directory, run_dir, homes
        self._setting = address
        self._driver: Driver | None = None
        self._door: Door | None = None
        self._fetched: dict[str, _Fetched] = {}

    def connect(self, door: Door) -> None:
        self._door = door

    def close(self) -> None:
        """Let go of the engine of containers; what runs goes on."""
        if self._driver is not None:
            self._driver.close()

    # --- what the node has -----------------------------------------------------------------

    def title(self) -> str:
        """What runs images here, e.g. "podman 4.3.1 (runc)"; empty: nothing does."""
        return self.survey()[0]

    def survey(self) -> tuple[str, str]:
        """The title, and what is wrong where there is none."""
        try:
            found = self._engine()
            missing = found.lacks()
            return ("", "; ".join(missing)) if missing else (found.title(), "")
        except ContainerError as error:
            return "", str(error)

    def _engine(self) -> Driver:
        if self._driver is None:
            address = driver.find(self._setting)
            if not address:
                raise ContainerError("no podman or Docker socket is here")
            self._driver = Driver(address)
        return self._driver

    # --- bringing it -----------------------------------------------------------------------

    def here(self, spec: wire.ReplicaSpec) -> bool:
        assert spec.image is not None
        try:
            return images.here(self._engine(), spec.image.reference)
        except ContainerError:
            return True  # to bring anything will not help: `fetch` says why

    def fetch(
        self, spec: wire.ReplicaSpec, progress: Progress, cancelled: Callable[[], bool]
    ) -> str:
        """Bring the image, and what this start is told in confidence; what the image is called
        for ever. Raises ModelError."""
        assert spec.image is not None and self._door is not None
        title, missing = self.survey()
        if not title:
            raise Unreachable(f"this node runs no images: {missing}")
        secrets = self._door.secrets(wire.SecretsRequest(replica_id=spec.replica_id), cancelled)
        if not spec.image.reference.startswith(images.LOCAL):
            brought.note(self._directory, spec.image.reference)
        image = images.bring(
            self._engine(), spec.image.reference, secrets.registry, progress, cancelled
        )
        if cancelled():
            raise Cancelled
        self._fetched[spec.replica_id] = _Fetched(image, secrets)
        return image.pinned or image.id

    def forget(self, replica_id: str) -> None:
        self._fetched.pop(replica_id, None)

    # --- its life --------------------------------------------------------------------------

    def start(self, spec: wire.ReplicaSpec, site: Site) -> Running:
        """Make the container and the door that starts it; it listens some seconds later.

        Raises SpecError, WallError, StartError; then nothing of it is left.
        """
        assert spec.image is not None
        fetched, kind = self._fetched.pop(spec.replica_id), kinds.of(spec.engine)
        if spec.image.port == egress.PORT:
            raise SpecError(f"port {egress.PORT} is that of the way out")
        room: _Room | None = None
        try:
            room = self._room(spec, kind, fetched.image, site)
            pipe = room.directory / "secrets" if fetched.secrets.env else None
            container = self._engine().create(self._box(spec, kind, fetched, site, room, pipe))
            return self._open(spec, kind, site, container, fetched, room, pipe)
        except (OSError, StartError, SpecError, ContainerError, entry.EntryError) as error:
            with contextlib.suppress(ContainerError):
                self._engine().remove(_name(spec))
            if room is not None:
                room.tidy()
            if isinstance(error, SpecError):
                raise
            raise StartError(str(error)) from error

    def _room(self, spec: wire.ReplicaSpec, kind: Engine, image: Brought, site: Site) -> _Room:
        directory = engines.socket_directory(self._run_dir, spec.replica_id)
        home = self._homes / "homes" / spec.replica_id
        for folder in (directory, home):
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        uid = walls.claim_uid(directory)
        walls.private_directory(directory, None)
        walls.private_directory(home, uid)
        adapters, cache = self._adapters(spec, kind), self._cache(spec, image, site, uid)
        return _Room(directory, home, uid, adapters, cache)

    def _box(
        self,
        spec: wire.ReplicaSpec,
        kind: Engine,
        fetched: _Fetched,
        site: Site,
        room: _Room,
        pipe: Path | None,
    ) -> Box:
        assert spec.image is not None
        place = Place(
            model=MODEL,
            home=HOME,
            scratch=SCRATCH,
            device_kind=site.device_kind,
            port=spec.image.port,
            kept=KEPT if room.cache is not None else None,
            template=site.template,
            threads=site.threads,
        )
        _write(kind.files(spec, place), room.home, room.uid)
        command: list[str] | None = [*kind.program, *kind.arguments(spec, place)] or None
        mounts = _mounts(site, room)
        if pipe is not None:
            command, more = _in_confidence(command, fetched, pipe, room.uid)
            mounts += more
        return Box(
            name=_name(spec),
            image=fetched.image.id,
            uid=room.uid,
            memory_bytes=spec.image.memory_bytes or site.memory_bytes,
            pids=spec.image.pids or PIDS,
            labels={
                driver.AGENT: processes.mark(self._directory),
                driver.REPLICA: spec.replica_id,
                driver.ORGANIZATION: spec.organization_id,
            },
            entrypoint=command,
            environment=_environment(spec, kind, place, site),
            mounts=mounts,
            devices=_devices(spec, site),
        )

    def _open(
        self,
        spec: wire.ReplicaSpec,
        kind: Engine,
        site: Site,
        container: str,
        fetched: _Fetched,
        room: _Room,
        pipe: Path | None,
    ) -> Running:
        """Start the door, which starts the container."""
        assert spec.image is not None
        out = room.directory / EGRESS
        out.mkdir(mode=0o700)
        egress.write_rules(out, spec)
        log_file = self._directory / "logs" / f"{spec.replica_id}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        exit_file = Path(f"{log_file}.exit")
        exit_file.unlink(missing_ok=True)
        python = [sys.executable, "-P", "-m"]
        request = door.Request(
            address=self._engine().address,
            container=container,
            uid=room.uid,
            port=spec.image.port,
            socket=str(room.directory / engines.SOCKET),
            log=str(log_file),
            exit=str(exit_file),
            egress=str(out),
            proxy=egress.command(out),
            pipe=str(pipe or ""),
            secrets=fetched.secrets.env,
            devices=_nodes(spec, site),
        )
        pid, start_time = engines.spawn(
            [*python, "workers.agent.containers.door"],
            {**_python_path(), **processes.marks(self._directory, spec.replica_id)},
            msgspec.json.encode(request),
        )
        return Running(
            replica_id=spec.replica_id,
            pid=pid,
            start_time=start_time,
            boot_id=engines.boot_id(),
            socket=request.socket,
            tier=wire.StartTier.WARM,
            log=str(log_file),
            directory=str(room.directory),
            home=str(room.home),
            template=site.template is not None,
            adapters=str(room.adapters or ""),
            exit_file=str(exit_file),
            uid=room.uid,
            cache=str(room.cache or ""),
            engine=spec.engine,
            health=kind.health_path(spec),
            image=fetched.image.pinned,
            container=container,
        )

    def stop(self, running: Running, grace_s: float) -> None:
        """As runner.Runner.stop. Whatever the engine of containers says, no process is left."""
        try:
            if grace_s > 0 and engines.alive(running):
                self._engine().stop(running.container, grace_s)
                self._await_last_words(running)
            self._engine().remove(running.container)
        except ContainerError as error:  # what is left is a name, which the next start removes
            log.warning("%s: its container was not removed: %s", running.replica_id, error)
        self._await_last_words(running)
        engines.stop(running, 0.0)

    def _await_last_words(self, running: Running) -> None:
        deadline = time.monotonic() + LAST_WORDS_S
        while engines.alive(running) and time.monotonic() < deadline:
            time.sleep(0.02)

    def exit_reason(self, running: Running) -> str:
        """Why a container that is gone ended, as its door wrote it down."""
        said = ""
        with contextlib.suppress(OSError), Path(running.log).open(errors="replace") as file:
            said = startup_log.complaint(deque(file, maxlen=500))
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(Path(running.exit_file).read_text())
            if noted["pid"] == running.pid:
                ending = _ending(noted)
                return f"{ending}: {said}" if said else ending
        return "the process beside the container is gone, and the container with it"

    def allow(self, running: Running, spec: wire.ReplicaSpec) -> None:
        """What a container may reach outside from here on. Raises OSError."""
        egress.write_rules(Path(running.directory) / EGRESS, spec)

    def reached(self, running: Running) -> list[wire.EgressCount]:
        return egress.read_counts(Path(running.directory) / EGRESS)

    # --- what is there, for the reaper -----------------------------------------------------

    def list(self) -> Sequence[Found]:
        """Every container of this agent, whether it runs or not; none where nothing runs any."""
        if not driver.find(self._setting):
            return []
        return self._engine().list(processes.mark(self._directory))

    def remove(self, id: str) -> None:
        """Kill it if it runs, and let nothing of it be left. Raises ContainerError."""
        self._engine().remove(id)

    def tidy(self) -> None:
        """Remove containers of ours that no door stands beside. For a starting agent, once every
        process without a record is gone."""
        try:
            found = self.list()
            doors = {one.replica_id for one in processes.marked(self._directory)}
            for one in found:
                if one.replica_id not in doors:
                    log.warning("removed a container without a record: %s", one.name)
                    self._engine().remove(one.id)
        except ContainerError as error:
            log.warning("containers without a record may be left: %s", error)

    # --- parts of a start ------------------------------------------------------------------

    def _adapters(self, spec: wire.ReplicaSpec, kind: Engine) -> Path | None:
        if not kind.takes_adapters(spec):
            return None
        folder = self._homes / "adapters" / spec.replica_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        return folder

    def _cache(self, spec: wire.ReplicaSpec, image: Brought, site: Site, uid: int) -> Path | None:
        if site.kept is None or site.model is None:
            return None
        key = caches.key(
            organization=spec.organization_id,
            model=str(site.model),
            environment=image.id,
            device_kind=site.device_kind,
        )
        return caches.take(site.kept, key, spec.replica_id, uid, most_bytes=site.kept_bytes)


def _name(spec: wire.ReplicaSpec) -> str:
    return f"stoa-{spec.replica_id}"


def _mounts(site: Site, room: _Room) -> list[Mount]:
    found = [Mount(room.home, HOME, writable=True)]
    found += [Mount(site.model, MODEL)] if site.model is not None else []
    found += [Mount(room.cache, KEPT, writable=True)] if room.cache is not None else []
    found += [Mount(one, one) for one in (room.adapters, site.template) if one is not None]
    return found


def _environment(spec: wire.ReplicaSpec, kind: Engine, place: Place, site: Site) -> dict[str, str]:
    """Beside the image's own. What an endpoint asks for goes before what every engine has."""
    assert spec.image is not None
    found = {
        "HOME": str(HOME),
        "USER": "engine",
        "LOGNAME": "engine",
        "TMPDIR": str(SCRATCH),
        "XDG_CACHE_HOME": f"{HOME}/cache",
        "XDG_CONFIG_HOME": f"{HOME}/config",
        "HF_HOME": f"{HOME}/cache/huggingface",
        **offline(),
        **egress.environment(),
        **spec.image.env,
        **kind.variables(spec, place),
    }
    if site.model is not None:
        found["STOA_MODEL_DIR"] = str(MODEL)
    return found


def _in_confidence(
    command: list[str] | None, fetched: _Fetched, pipe: Path, uid: int
) -> tuple[list[str], list[Mount]]:
    """The command that reads the secrets first, and what it needs. Raises EntryError."""
    shell = entry.shell()
    if shell is None:
        raise entry.EntryError(
            "secrets need a static busybox on the node: run `apt-get install busybox-static`"
        )
    entry.check(fetched.secrets.env)
    own = command or [*fetched.image.entrypoint, *fetched.image.command]
    if not own:
        raise entry.EntryError("the image has no command of its own: give it one")
    entry.make_pipe(pipe, uid)
    return entry.around(own), entry.mounts(shell, pipe)


def _devices(spec: wire.ReplicaSpec, site: Site) -> list[str]:
    """Names of the Container Device Interface, as `nvidia-ctk cdi generate` gives them."""
    if not site.device_kind.startswith("nvidia-"):
        return []
    return [f"nvidia.com/gpu={index}" for index in spec.device_indexes]


def _nodes(spec: wire.ReplicaSpec, site: Site) -> list[str]:
    """What those names must have given it."""
    if not site.device_kind.startswith("nvidia-"):
        return []
    return [f"/dev/nvidia{index}" for index in spec.device_indexes]


def _write(files: Mapping[Path, str], home: Path, uid: int) -> None:
    """`files` by their paths in the container's home."""
    for path, text in files.items():
        target = home / path.relative_to(HOME)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        for one in (target, *(p for p in target.parents if p.is_relative_to(home) and p != home)):
            os.chown(one, uid, uid)


def _python_path() -> dict[str, str]:
    """For a process of our own program."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "PATH") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", **kept}


def _ending(noted: dict[str, object]) -> str:
    if noted["walls"]:
        return f"its walls do not stand: {noted['text']}"
    if noted["oom"]:
        return "the container used more memory than it may, and was killed"
    if noted["code"] is not None:
        return f"the container's program ended with status {noted['code']}"
    return f"the container could not be started: {noted['text']}"
