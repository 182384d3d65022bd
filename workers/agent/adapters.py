"""The LoRA adapters of an engine that runs: what it has against what it should have.

The engine itself is asked what it has, so that an agent that was killed at any point, or an engine
that began anew, comes out right. An adapter lies in the engine's adapter folder under the id of
its load: the engine's prefix cache goes by name and path, so changed weights never meet the cache
of those before them. What is wrong with one adapter is said of it and ends nothing.
"""

import contextlib
import http.client
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.fleet import wire
from controlplane.fleet.wire import AdapterReason, AdapterReport, AdapterState
from workers.agent import engines
from workers.agent.engines import Running

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_FILES = {".json", ".safetensors", ".bin"}
MAX_RANK = 16  # where `max_lora_rank` is not given: vLLM's own
LOAD_S = 120.0
ASK_S = 10.0

# Where an adapter's files are on this node. Raises AdapterError.
Locate = Callable[[wire.Adapter], Path]


class AdapterError(Exception):
    """An adapter that cannot be loaded; the message is for a person."""

    def __init__(self, reason: AdapterReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Held:
    """An adapter that the engine has, as it names and finds it."""

    name: str
    path: str


def settle(running: Running, spec: wire.ReplicaSpec, locate: Locate) -> list[AdapterReport]:
    """Load what is missing, unload what nobody wants; how each wanted one is, in their order.

    Blocks. Raises OSError or HTTPException when the engine does not answer.
    """
    if not running.adapters:
        detail = "the engine was started without room for adapters"
        return [_failed(one, AdapterError(AdapterReason.NO_ROOM, detail)) for one in spec.adapters]
    folder = Path(running.adapters)
    wanted = {(one.name, str(folder / one.id)) for one in spec.adapters}
    held = {one.name: one.path for one in loaded(running)}
    for name, path in list(held.items()):
        if (name, path) not in wanted:
            with contextlib.suppress(AdapterError):  # else the next look finds it still there
                _ask(running, "/v1/unload_lora_adapter", {"lora_name": name})
            del held[name]
    _forget(folder, {one.id for one in spec.adapters})
    return [_settle_one(running, spec, one, held, locate) for one in spec.adapters]


def loaded(running: Running) -> list[Held]:
    """The adapters that the engine says it has. Raises OSError or HTTPException."""
    status, answer = engines.call(running.socket, "/v1/models", None, "", ASK_S)
    if status != 200:
        raise http.client.HTTPException(f"GET /v1/models: status {status}")
    try:
        models = json.loads(answer)["data"]
        return [Held(one["id"], one["root"]) for one in models if one.get("parent")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise http.client.HTTPException(f"GET /v1/models: {error!r}") from error


def rank(config: Mapping[str, Any]) -> int:
    """The highest rank that an adapter's configuration names. Raises AdapterError."""
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if config.get("peft_type") != "LORA":
        raise AdapterError(AdapterReason.INVALID, f"{CONFIG} does not say `peft_type: LORA`")
    if not all(isinstance(one, int) and one > 0 for one in ranks):
        raise AdapterError(AdapterReason.INVALID, f"{CONFIG} does not say its rank `r`")
    return max(one for one in ranks if isinstance(one, int))


def _settle_one(
    running: Running,
    spec: wire.ReplicaSpec,
    one: wire.Adapter,
    held: Mapping[str, str],
    locate: Locate,
) -> AdapterReport:
    target = Path(running.adapters) / one.id
    if held.get(one.name) == str(target):
        return AdapterReport(id=one.id, state=AdapterState.LOADED)
    try:
        source = locate(one)
        _check(source, spec)
        _stage(source, target)
        _ask(
            running,
            "/v1/load_lora_adapter",
            {"lora_name": one.name, "lora_path": str(target)},
        )
    except AdapterError as error:
        shutil.rmtree(target, ignore_errors=True)
        return _failed(one, error)
    return AdapterReport(id=one.id, state=AdapterState.LOADED)


def _failed(one: wire.Adapter, error: AdapterError) -> AdapterReport:
    return AdapterReport(
        id=one.id, state=AdapterState.FAILED, reason=error.reason, detail=str(error)[:500]
    )


def _check(source: Path, spec: wire.ReplicaSpec) -> None:
    """Before the engine is asked: what it would say of it is for its developers."""
    try:
        config = json.loads((source / CONFIG).read_text())
        assert isinstance(config, dict)
    except FileNotFoundError:
        message = f"there is no adapter at {source}: no {CONFIG} on this node"
        raise AdapterError(AdapterReason.NOT_FOUND, message) from None
    except (OSError, ValueError, AssertionError, RecursionError) as error:
        raise AdapterError(AdapterReason.INVALID, f"{CONFIG} cannot be read: {error}") from None
    if not any((source / name).is_file() for name in WEIGHTS):
        raise AdapterError(AdapterReason.INVALID, f"{source} has no {WEIGHTS[0]}")
    most = spec.engine_args.get("max_lora_rank") or MAX_RANK
    if (found := rank(config)) > int(most):
        message = f"its rank is {found}, the endpoint's max_lora_rank is {most}"
        raise AdapterError(AdapterReason.RANK_TOO_HIGH, message)


def _stage(source: Path, target: Path) -> None:
    """Put the adapter's files where the engine can read them; whole, or not at all."""
    draft = target.with_name(f".{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        draft.mkdir()
        draft.chmod(0o755)
        for path in sorted(source.iterdir()):
            if path.suffix in _FILES and path.is_file():
                _copy(path, draft / path.name)
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        message = f"its files cannot be copied: {error.strerror or error}"
        raise AdapterError(AdapterReason.FETCH_FAILED, message) from None


def _copy(source: Path, target: Path) -> None:
    """What not everybody may read, the agent, which may read all, does not give to an engine."""
    with source.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or not mode & stat.S_IROTH:
            raise OSError(f"{source.name} is not readable for engines (chmod o+r)")
        with target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    target.chmod(0o644)


def _forget(folder: Path, keep: Iterable[str]) -> None:
    kept = set(keep)
    with contextlib.suppress(FileNotFoundError):
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)


def _ask(running: Running, path: str, body: Mapping[str, str]) -> None:
    """Raises AdapterError with the engine's own words, and what `engines.call` raises."""
    content = json.dumps(body).encode()
    status, answer = engines.call(running.socket, path, content, "application/json", LOAD_S)
    if status != 200:
        raise AdapterError(AdapterReason.REFUSED, _words(answer) or f"status {status}")


def _words(answer: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        return str(json.loads(answer)["error"]["message"])[:400]
    return answer[:400].decode(errors="replace")
