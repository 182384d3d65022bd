"""vLLM's own caches (compiled graphs, what it knows of models), kept on the node between starts.

What is compiled is code that the next engine runs, so it is kept by who made it: a cache belongs to
one organization, model, engine environment and kind of device, and no organization meets another's.
Engines that run at once have a slot each. A slot keeps its path, which stands in what is compiled.

    <directory>/<key>/<number>          the slot, mode 0700, its engine's uid, else root's
    <directory>/<key>/<number>.json     whose it is: written by the agent, not to be reached by one

The directory is closed; launcher.isolation shows an engine its own slot alone. Everything blocks.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from workers.agent import files

_lock = threading.Lock()


class _Note(msgspec.Struct):
    replica_id: str = ""  # who has it; empty: nobody
    uid: int | None = None  # whose files are in it
    used_at: float = 0.0  # Unix seconds
    bytes: int = 0  # when it was given back


def key(*, organization: str, model: str, environment: str, device_kind: str) -> str:
    """A folder's name. `model`: its path on this node, which names its revision."""
    told = json.dumps([organization, model, environment, device_kind])
    return hashlib.sha256(told.encode()).hexdigest()[:20]


def take(directory: Path, key: str, replica_id: str, uid: int | None, *, most_bytes: int) -> Path:
    """A slot for this replica's engine, with what earlier ones left. Raises OSError.

    Of what nobody uses, the longest unused goes until `most_bytes` are kept.
    """
    with _lock:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        folder = directory / key
        folder.mkdir(exist_ok=True, mode=0o700)
        slot = _free(folder, replica_id)
        note = _note(slot)
        if not _hand_over(slot, note.uid, uid):
            shutil.rmtree(slot, ignore_errors=True)
            slot.mkdir(mode=0o700)
            _own(slot, uid)
        _write(slot, _Note(replica_id, uid, time.time(), note.bytes))
        _evict(directory, most_bytes)
        return slot


def give_back(slot: Path) -> None:
    """Its engine is gone. Safe to repeat."""
    with _lock:
        note = _note(slot)
        if note.replica_id and slot.is_dir():
            if os.geteuid() == 0:
                os.chown(slot, 0, 0)  # its uid may be another engine's next
            _write(slot, _Note("", note.uid, time.time(), size(slot)))


def held(directory: Path) -> dict[Path, str]:
    """The slots that somebody has, and which replica."""
    notes = {slot: _note(slot).replica_id for slot in _slots(directory)}
    return {slot: replica_id for slot, replica_id in notes.items() if replica_id}


def sweep(directory: Path, keep: set[str]) -> None:
    """Give back what none of these replicas has. For a starting agent."""
    for slot in _slots(directory):
        if _note(slot).replica_id not in keep:
            give_back(slot)


def size(folder: Path) -> int:
    """Bytes of the files in it; links are not followed."""
    total = 0
    for _, _, names, handle in os.fwalk(folder, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(name, dir_fd=handle, follow_symlinks=False).st_size
    return total


def _free(folder: Path, replica_id: str) -> Path:
    number = 0
    while True:
        slot = folder / str(number)
        if not slot.is_dir():
            slot.mkdir(mode=0o700)
            return slot
        if _note(slot).replica_id in ("", replica_id):
            return slot
        number += 1


def _hand_over(slot: Path, before: int | None, uid: int | None) -> bool:
    """Make all in it `uid`'s; False where there is what no engine's cache holds.

    Nobody runs who could change it meanwhile: its engine is gone, and the folder is closed.
    """
    if uid is None:
        return True
    expected = {before, uid, 0}
    try:
        for _, folders, names, handle in os.fwalk(slot, follow_symlinks=False):
            for name in (*folders, *names):
                found = os.stat(name, dir_fd=handle, follow_symlinks=False)
                plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
                if found.st_uid not in expected or not (plain or stat.S_ISDIR(found.st_mode)):
                    return False
                os.chown(name, uid, uid, dir_fd=handle, follow_symlinks=False)
        _own(slot, uid)
    except OSError:
        return False
    return True


def _own(slot: Path, uid: int | None) -> None:
    if uid is not None:
        os.chown(slot, uid, uid)


def _evict(directory: Path, most_bytes: int) -> None:
    kept = [(slot, _note(slot)) for slot in _slots(directory)]
    total = sum(note.bytes for _, note in kept)
    for slot, note in sorted(kept, key=lambda one: one[1].used_at):
        if total <= most_bytes:
            return
        if not note.replica_id:
            shutil.rmtree(slot, ignore_errors=True)
            _path(slot).unlink(missing_ok=True)
            total -= note.bytes


def _slots(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(directory.iterdir()):
            yield from (path for path in sorted(folder.iterdir()) if path.is_dir())


def _path(slot: Path) -> Path:
    return slot.with_suffix(".json")


def _note(slot: Path) -> _Note:
    content = files.read(_path(slot))
    if content is not None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(content, type=_Note)
    return _Note()


def _write(slot: Path, note: _Note) -> None:
    files.write(_path(slot), msgspec.json.encode(note), durable=False)
