"""What starts of each shape showed, on disk, and the flags that follow from it (start_flags.py)."""

import hashlib
import json
import threading
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import files
from workers.agent.engines import Running
from workers.agent.environment import Environment
from workers.agent.start_flags import Chosen, Learned, choose

_MARGIN = 0.99  # the engine rounds what it says


class Tuning:
    """A shape is a model, its arguments, its environment and its devices. Threads may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._under_trial: dict[str, Path] = {}  # replica -> its shape's file
        self._lock = threading.Lock()

    def choose(self, spec: wire.ReplicaSpec, environment: Environment, device_kind: str) -> Chosen:
        shape = self._shape(spec, environment, device_kind)
        with self._lock:
            self._under_trial[spec.replica_id] = shape
        packages = next(environment.root.glob("lib/python*/site-packages"), environment.root)
        return choose(spec, device_kind=device_kind, packages=packages, learned=_read(shape))

    def proved(self, running: Running, report: wire.EngineReport) -> None:
        """It came to serve: what it found for its cache is what the next one is given."""
        shape = self._ended(running)
        if shape is None or "kv_cache_memory_bytes" in running.flags or not report.kv_cache_bytes:
            return
        learned = _read(shape)
        learned.kv_cache_bytes = int(report.kv_cache_bytes * _MARGIN)
        _write(shape, learned)

    def failed(self, running: Running) -> None:
        """An engine ended. Where that was its start, and flags of ours may be why, leave them."""
        shape = self._ended(running)
        if shape is not None and running.flags:
            _write(shape, Learned(failed=True))

    def _ended(self, running: Running) -> Path | None:
        with self._lock:
            return self._under_trial.pop(running.replica_id, None)

    def _shape(self, spec: wire.ReplicaSpec, environment: Environment, device_kind: str) -> Path:
        told: dict[str, object] = {
            "model": [spec.model, spec.revision],
            "args": spec.engine_args,
            "adapters": len(spec.adapters),
            "sleeps": spec.may_sleep,
            "devices": [device_kind, len(spec.device_indexes)],
            "environment": str(environment.root),
        }
        text = json.dumps(told, sort_keys=True)
        return self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def _read(shape: Path) -> Learned:
    try:
        content = files.read(shape)
        return msgspec.json.decode(content, type=Learned) if content else Learned()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Learned()


def _write(shape: Path, learned: Learned) -> None:
    files.write(shape, msgspec.json.encode(learned), durable=False)
