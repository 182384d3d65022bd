"""Engines of every kind on this node: engines.py and its neighbours, as the loop wants them
(runner.Runner). What is an engine's own stands in its class (controlplane.fleet.engines)."""

import contextlib
import http.client
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from controlplane.fleet import engines as kinds
from controlplane.fleet import wire
from controlplane.fleet.wire import AdapterReason
from workers.agent import (
    adapters,
    engines,
    environment,
    inventory,
    leaving,
    models,
    processes,
    recipes,
    walls,
)
from workers.agent.command import SpecError
from workers.agent.containers.image_runner import ImageRunner, Site
from workers.agent.engines import Place, Running
from workers.agent.environment import Environment, InstallError
from workers.agent.model_facts import ModelFacts
from workers.agent.runner import CannotStart, Door, Progress
from workers.agent.settings import Settings
from workers.agent.standby import Standby, Standbys
from workers.agent.tuning import Tuning
from workers.agent.weights import weights
from workers.agent.weights.cache import Cache, Snapshot
from workers.agent.weights.errors import MODEL_NOT_FOUND, ModelError
from workers.agent.weights.weights import Weights, Wish

log = logging.getLogger("stoa.agent")

ENGINE_EXITED = "engine_exited"
FETCH_FAILED = "fetch_failed"
_UNPROVED = {
    wire.Capability.TOOLS: "tool_probe_failed",
    wire.Capability.JSON_SCHEMA: "schema_probe_failed",
}
WALLS_MISSING = "walls_missing"


@dataclass(frozen=True)
class _Fetched:
    """What a replica needs that is now on this node."""

    environment: Environment | None  # None: it runs from an image
    model: Path | None  # None: it brings its own


class NodeRunner:
    """Blocking throughout. Its threads never meet over one replica."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Several agents of one machine may share the cache and the run directory.
        mine = self._mine = processes.mark(settings.directory)[:6]
        self._run_dir, self._homes = settings.run_dir / mine, settings.cache / "nodes" / mine
        self._cache = Cache(settings.cache / "weights", limit_bytes=settings.weights_bytes)
        self._weights: Weights | None = None
        self._images = ImageRunner(
            settings.directory, self._run_dir, self._homes, settings.containers
        )
        self._walls: dict[frozenset[str], walls.Survey] = {}
        self._tuning = Tuning(self._homes / "shapes")
        self._standbys: dict[str, Standbys] = {}
        self._fetched: dict[str, _Fetched] = {}
        self._devices: list[wire.DeviceInfo] = []
        self.model_facts = ModelFacts()

    @property
    def containers(self) -> ImageRunner:
        """The containers of this agent, for who lists and removes them."""
        return self._images

    def let_go(self) -> None:
        """Let go of what runs containers; engines run on."""
        self._images.close()

    # --- what the node has -----------------------------------------------------------------

    def survey(self) -> wire.Inventory:
        """The node's inventory. Raises SettingError."""
        ready = self._ready()
        raised = self._raised(ready)
        found = inventory.collect(
            self._settings,
            walls=sorted(raised.can),
            missing_walls=dict(raised.missing),
            engines=[environment.title(one.name) for one in ready],
            containers=self._images.title(),
        )
        self._devices = found.devices
        return found

    def _ready(self) -> list[Environment]:
        found = (environment.locate(name, self._settings.cache) for name in environment.RECIPES)
        return [one for one in found if one is not None]

    def _raised(self, ready: list[Environment]) -> walls.Survey:
        """The walls that stand; tried once for what engines must be able to reach."""
        paths = [path for one in ready for path in (one.root, one.base)]
        key = frozenset(str(path) for path in paths)
        if key not in self._walls:
            self._walls[key] = walls.survey(paths)
        return self._walls[key]

    def _kind(self, spec: wire.ReplicaSpec) -> str:
        """The kind of the devices that a replica holds."""
        if not self._devices:
            self.survey()
        kinds = {one.kind for one in self._devices if one.index in spec.device_indexes}
        if len(kinds) != 1:
            raise CannotStart(
                FETCH_FAILED, f"this node has no devices {spec.device_indexes} of one kind"
            )
        return kinds.pop()

    # --- runner.Runner ---------------------------------------------------------------------

    def connect(self, door: Door) -> None:
        self._weights = Weights(self._cache, door)
        self._images.connect(door)

    def here(self, spec: wire.ReplicaSpec) -> bool:
        try:
            ready = (
                environment.locate(self._environment(spec), self._settings.cache) is not None
                if spec.image is None
                else self._images.here(spec)
            )
            if spec.model.startswith("/"):
                models.folder(spec.model)
        except (CannotStart, SpecError, InstallError, ModelError, OSError):
            return True  # to bring anything will not help: `fetch` says why
        if not spec.model or spec.model.startswith("/"):
            return ready
        return ready and weights.here(self._cache, spec.source, spec.model, spec.revision)

    def fetch(
        self, spec: wire.ReplicaSpec, progress: Progress, cancelled: Callable[[], bool]
    ) -> str:
        found: Environment | None = None
        model: Path | None = None
        try:
            if spec.image is not None:
                revision = self._images.fetch(spec, progress, cancelled)
            else:
                found, revision = self._install(spec, progress), ""
            public = False
            if spec.model.startswith("/"):
                model = models.folder(spec.model)
            elif spec.model or spec.image is None:
                snapshot = self._snapshot(spec, progress, cancelled)
                model, revision = snapshot.folder, snapshot.revision
                public = snapshot.kept.public
            if model is not None:
                self._check_readable(model)
                told = revision if not spec.model.startswith("/") else ""
                self.model_facts.note(
                    model, replica_id=spec.replica_id, revision=told, public=public
                )
        except ModelError as error:
            raise CannotStart(error.reason, str(error)) from error
        except (SpecError, InstallError, OSError) as error:
            raise CannotStart(FETCH_FAILED, str(error)) from error
        self._fetched[spec.replica_id] = _Fetched(found, model)
        return revision

    def _install(self, spec: wire.ReplicaSpec, progress: Progress) -> Environment:
        return environment.install(
            self._environment(spec),
            self._settings.cache,
            progress=lambda label, done, total: progress(
                f"{label}: {done} of {total}" if total else label
            ),
        )

    def _snapshot(
        self, spec: wire.ReplicaSpec, progress: Progress, cancelled: Callable[[], bool]
    ) -> Snapshot:
        assert self._weights is not None
        request = wire.SourceRequest(replica_id=spec.replica_id)
        holder = f"{self._mine}-{spec.replica_id}"
        wish = Wish(spec.source, spec.model, spec.revision, request, holder)
        return self._weights.fetch(wish, progress, cancelled)

    def pull(self, pull: wire.Pull, progress: Progress, cancelled: Callable[[], bool]) -> str:
        assert self._weights is not None
        request = wire.SourceRequest(pull_id=pull.pull_id)
        wish = Wish(pull.source, pull.model, pull.revision, request)
        try:
            found = self._weights.fetch(wish, progress, cancelled)
            self.model_facts.note(
                found.folder,
                pull_id=pull.pull_id,
                revision=found.revision,
                public=found.kept.public,
            )
            return found.revision
        except ModelError as error:
            raise CannotStart(error.reason, str(error)) from error
        except OSError as error:
            raise CannotStart(FETCH_FAILED, str(error)) from error

    def forget(self, replica_id: str) -> None:
        self._fetched.pop(replica_id, None)
        self._images.forget(replica_id)
        self._cache.release(f"{self._mine}-{replica_id}")

    def start(self, spec: wire.ReplicaSpec) -> Running:
        fetched, kind = self._fetched.pop(spec.replica_id), self._kind(spec)
        recipe: wire.Recipe | None = None
        template: Path | None = None
        try:
            if fetched.model is not None:
                chosen = recipes.choose(spec, fetched.model)
                recipe = chosen.recipe
                spec = msgspec.structs.replace(spec, engine_args=dict(chosen.engine_args))
                if chosen.template:
                    templates = self._settings.cache / "templates"
                    template = recipes.keep_template(chosen.template, templates)
            if spec.image is not None:
                running = self._images.start(spec, self._site(spec, kind, fetched, template))
            else:
                running = engines.start(spec, self._place(spec, kind, fetched, template))
            return msgspec.structs.replace(running, recipe=recipe)
        except walls.WallError as error:
            raise CannotStart(WALLS_MISSING, str(error)) from error
        except (SpecError, OSError, engines.StartError) as error:
            raise CannotStart(ENGINE_EXITED, str(error)) from error

    def _place(
        self, spec: wire.ReplicaSpec, kind: str, fetched: _Fetched, template: Path | None
    ) -> Place:
        assert fetched.environment is not None and fetched.model is not None
        return Place(
            environment=fetched.environment,
            run_directory=self._run_dir,
            cache=self._homes,
            log=self._settings.directory / "logs" / f"{spec.replica_id}.log",
            model=fetched.model,
            survey=self._raised(self._ready()),
            device_kind=kind,
            standby=self._lend(spec, fetched.environment),
            template=template,
            marks=processes.marks(self._settings.directory, spec.replica_id),
            threads=max(1, self._threads(kind) * spec.device_share // 1000),
            flags=self._tuning.choose(spec, fetched.environment, kind),
            kept=self._homes / engines.KEPT,
            kept_bytes=self._settings.caches_bytes,
        )

    def _site(
        self, spec: wire.ReplicaSpec, kind: str, fetched: _Fetched, template: Path | None
    ) -> Site:
        return Site(
            device_kind=kind,
            threads=self._threads(kind),
            memory_bytes=self._memory(spec, kind),
            model=fetched.model,
            template=template,
            kept=self._homes / engines.KEPT,
            kept_bytes=self._settings.caches_bytes,
        )

    def _memory(self, spec: wire.ReplicaSpec, kind: str) -> int:
        """Of the host: a CPU share's own, and with a GPU its part of nearly all there is."""
        mine = [one for one in self._devices if one.index in spec.device_indexes]
        if kind == "cpu":
            return sum(one.memory_bytes for one in mine)
        return int(inventory.memory_bytes() * 0.9) * len(mine) // len(self._devices)

    def alive(self, running: Running) -> bool:
        return engines.alive(running)

    def listening(self, running: Running) -> bool:
        return engines.listening(running)

    def probe(self, running: Running, spec: wire.ReplicaSpec) -> str | None:
        return engines.probe(running, spec)

    def prove(self, running: Running, spec: wire.ReplicaSpec) -> wire.Proof:
        recipe, wanted = running.recipe, spec.capabilities
        if wanted is None:  # a guess by the model's files promises nothing
            wanted = recipe.capabilities if recipe is not None and recipe.by_name else []
        try:
            engines.prove(running, spec.served_name, wanted)
        except engines.ProofError as error:
            raise CannotStart(_UNPROVED[error.capability], str(error)) from error
        except http.client.HTTPException as error:
            raise OSError(f"the engine did not answer: {error}") from error
        given = recipe.engine_args if recipe is not None else {}
        return wire.Proof(
            recipe=recipe.name if recipe is not None else "",
            engine_args={k: v for k, v in given.items() if k not in spec.engine_args},
            template=running.template,
            proved=list(wanted),
        )

    def adapt(
        self, running: Running, spec: wire.ReplicaSpec, cancelled: Callable[[], bool]
    ) -> list[wire.AdapterReport]:
        try:
            return adapters.settle(running, spec, lambda one: self._adapter(one, spec, cancelled))
        except http.client.HTTPException as error:
            raise OSError(f"the engine did not answer: {error}") from error

    def stop(self, running: Running, grace_s: float) -> None:
        if running.container:
            self._images.stop(running, grace_s)
        else:
            engines.stop(running, grace_s)

    def close(self, running: Running) -> None:
        leaving.close(running)

    def can_sleep(self, running: Running, spec: wire.ReplicaSpec) -> bool:
        return kinds.of(spec.engine).can_sleep(spec, self._kind(spec))

    def busy(self, running: Running) -> bool | None:
        return leaving.busy(running)

    def sleep(self, running: Running) -> str | None:
        return engines.sleep(running)

    def wake(self, running: Running) -> str | None:
        return engines.wake(running)

    def allow(self, running: Running, spec: wire.ReplicaSpec) -> None:
        if running.container:
            self._images.allow(running, spec)

    def reached(self, running: Running) -> list[wire.EgressCount]:
        return self._images.reached(running) if running.container else []

    def exit_reason(self, running: Running) -> str:
        if running.container:
            return self._images.exit_reason(running)
        self._tuning.failed(running)
        return engines.exit_reason(running)

    def engine_report(self, running: Running) -> wire.EngineReport:
        report = engines.report(running)
        if not running.container:
            self._tuning.proved(running, report)
        return report

    def tidy(self, keep: set[str]) -> None:
        self._images.tidy()
        engines.sweep(self._run_dir, self._homes, keep)
        self._cache.keep(f"{self._mine}-", {f"{self._mine}-{replica_id}" for replica_id in keep})

    def tend(self) -> None:
        if not self._settings.standby:
            return
        for one in self._ready():
            if one.name in self._wanted():
                try:
                    self._standbys_of(one).tend()
                except OSError as error:  # a plain start does without
                    log.warning("no standby for %s: %s", one.name, error)

    def standbys(self) -> set[int]:
        return {pid for one in list(self._standbys.values()) for pid in one.pids()}

    def _environment(self, spec: wire.ReplicaSpec) -> str:
        """The name of the environment that it runs in. Raises SpecError, CannotStart."""
        name = kinds.of(spec.engine).environment_for(self._kind(spec))
        here = environment.RECIPES[name].version
        if spec.engine_version not in ("", here):
            raise SpecError(f"this node's agent brings {name} {here}, not {spec.engine_version}")
        return name

    def _wanted(self) -> set[str]:
        """The environments that this node's devices can use, of engines with standbys."""
        if not self._devices:
            self.survey()
        found = set()
        for device in self._devices:
            for engine in kinds.ENGINES.values():
                with contextlib.suppress(SpecError):
                    found |= {engine.environment_for(device.kind)} if engine.can.standby else set()
        return found

    def _lend(self, spec: wire.ReplicaSpec, one: Environment) -> Standby | None:
        """A standby to fork from. Waiting for a new one's imports is quicker than a plain start,
        which does them three times."""
        if not self._settings.standby or not kinds.of(spec.engine).can.standby:
            return None
        standbys = self._standbys_of(one)
        try:
            standbys.tend()
            return standbys.lend(spec.organization_id, share=spec.share_standby)
        except OSError as error:
            log.warning("no standby for %s: %s", one.name, error)
            return None

    def _standbys_of(self, one: Environment) -> Standbys:
        if one.name not in self._standbys:
            directory = self._run_dir / "standby" / one.name
            marks = processes.marks(self._settings.directory)
            self._standbys[one.name] = Standbys(one, directory, marks=marks)
        return self._standbys[one.name]

    def _threads(self, kind: str) -> int:
        """A CPU share's part of the cores, for the process of each device; on a GPU the host has
        little to compute."""
        if kind != "cpu":
            return 1
        return max(1, inventory.cpu_count() // len(self._devices))

    def _check_readable(self, folder: Path) -> None:
        if os.geteuid() == 0 and (why := models.unreadable(folder)):
            raise CannotStart(FETCH_FAILED, why)

    def _adapter(
        self, one: wire.Adapter, spec: wire.ReplicaSpec, cancelled: Callable[[], bool]
    ) -> Path:
        """An adapter's folder, brought from the hub where need be. Raises AdapterError."""
        if one.path.startswith("/"):
            return Path(one.path)
        assert self._weights is not None
        request = wire.SourceRequest(replica_id=spec.replica_id, adapter_id=one.id)
        wish = Wish(wire.SourceKind.HUB, one.path, one.revision, request)
        try:
            return self._weights.fetch(wish, _silent, cancelled).folder
        except ModelError as error:
            missing = error.reason == MODEL_NOT_FOUND
            reason = AdapterReason.NOT_FOUND if missing else AdapterReason.FETCH_FAILED
            raise adapters.AdapterError(reason, str(error)) from error
        except OSError as error:
            raise adapters.AdapterError(AdapterReason.FETCH_FAILED, str(error)) from error


def _silent(text: str, done: int = 0, total: int = 0) -> None:
    """Of an adapter nobody waits for bytes."""
