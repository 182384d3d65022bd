"""A node that leaves the fleet for good erases what tenants left on it.

What is there is counted and written down before the first file goes, and what is gone after: an
agent that was killed at any line goes on where it stopped, and says in the end what there was.
Files are removed, not overwritten: on flash storage that would prove nothing (docs/nodes.md).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from controlplane.fleet import wire
from workers.agent import credential, files, processes, sharing
from workers.agent.containers import brought
from workers.agent.settings import Settings

STATE = "erase.json"
SHARED = "another agent of this machine uses it"
_CREDENTIAL = (credential.IDENTITY, credential.CERTIFICATE, credential.PENDING_KEY)


class _State(msgspec.Struct):
    id: str
    items: dict[str, wire.ErasedItem] = {}


class Eraser:
    """Of one agent's directories; nothing of it may run any more. Blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.directory / STATE

    def erase(self, id: str, step: Callable[[str], None] = lambda _: None) -> wire.Erased:
        """Remove all but the credential; what is done and what is not. Safe to repeat.

        `step` is told what comes next: for tests.
        """
        state = self._load(id)
        for what, path, shared in self._places():
            if shared:
                kept = wire.ErasedItem(what=what, path=str(path), done=True, why=SHARED)
                state.items[what] = kept
            else:
                self._remove(state, what, [path], step)
        self._remove_images(state, step)
        return wire.Erased(id=id, items=list(state.items.values()))

    def _remove_images(self, state: _State, step: Callable[[str], None]) -> None:
        """Those of tenants that were brought for their containers; then the list of them."""
        directory = self._settings.directory
        if sharing.others(self._settings.cache, processes.mark(directory)):
            item = wire.ErasedItem(what="images", path="", done=True, why=SHARED)
            state.items["images"] = item
            return
        why = brought.remove(directory, self._settings.containers)
        if not why:
            self._remove(state, "images", [directory / brought.FOLDER], step)
        else:
            state.items["images"] = wire.ErasedItem(what="images", path="", done=False, why=why)

    def erase_credential(
        self, id: str, step: Callable[[str], None] = lambda _: None
    ) -> wire.Erased:
        """The last thing to go: who has it in memory may say so once more."""
        state = self._load(id)
        paths = [self._settings.directory / name for name in _CREDENTIAL]
        self._remove(state, "credential", paths, step)
        return wire.Erased(id=id, items=list(state.items.values()))

    def forget(self) -> None:
        """It has been told: nothing is left of this either."""
        files.remove(self._path)

    def _places(self) -> Iterable[tuple[str, Path, bool]]:
        """What, where, and whether it is not ours alone."""
        settings = self._settings
        mark = processes.mark(settings.directory)
        shared = sharing.others(settings.cache, mark)
        yield "weights", settings.cache / "weights", shared
        yield "templates", settings.cache / "templates", shared
        yield "engine_caches", settings.cache / "nodes" / mark[:6], False
        yield "sockets", settings.run_dir / mark[:6], False
        for name in ("logs", "cursors", "replicas", "events", "meter", "devices.json"):
            yield name.removesuffix(".json"), settings.directory / name, False

    def _remove(
        self, state: _State, what: str, paths: list[Path], step: Callable[[str], None]
    ) -> None:
        item = state.items.get(what)
        if item is None or (item.why == SHARED and item.done):
            count, size, digest = _measured(paths)
            where = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
            item = wire.ErasedItem(what=what, path=where, files=count, bytes=size, sha256=digest)
        elif item.done and not any(os.path.lexists(path) for path in paths):
            return
        item.done, item.why = False, ""
        state.items[what] = item
        step(f"remove {what}")
        self._save(state)
        why = [said for path in paths if (said := _gone(path))]
        item.done, item.why = not why, "; ".join(why)[:300]
        step(f"removed {what}")
        self._save(state)

    def _load(self, id: str) -> _State:
        content = files.read(self._path)
        if content is not None:
            state = msgspec.json.decode(content, type=_State)
            if state.id == id:
                return state
        return _State(id)

    def _save(self, state: _State) -> None:
        files.write(self._path, msgspec.json.encode(state))


def complete(erased: wire.Erased) -> bool:
    return all(item.done for item in erased.items)


def _measured(paths: Iterable[Path]) -> tuple[int, int, str]:
    """Files, bytes, and the SHA-256 of the listing. A file that has two names counts twice."""
    lines: list[bytes] = []
    total = 0
    for path in paths:
        for found in _files(path):
            size = found.lstat().st_size
            total += size
            name = os.fsencode(found.relative_to(path.parent))
            lines.append(name + b"\0" + str(size).encode() + b"\n")
    return len(lines), total, hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def _files(path: Path) -> Iterable[Path]:
    if path.is_symlink() or path.is_file():
        yield path
        return
    for folder, _, names in os.walk(path, followlinks=False):
        yield from (Path(folder) / name for name in names)


def _gone(path: Path) -> str:
    """Remove it; empty when nothing is left, else why not."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""
