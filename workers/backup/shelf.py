"""The folder that backups stand in: which there are, and which go."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from compliance import ids
from workers.backup import manifest, retention
from workers.backup.manifest import Manifest, ManifestError

PART = ".part"
_LOCK = ".lock"


class Busy(Exception):
    """Another backup is being made into this folder."""


@dataclass(frozen=True)
class Entry:
    """A backup, or what looks like one: then `problem` says what is wrong with it."""

    id: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""

    @property
    def snapshot_at(self) -> datetime | None:
        return datetime.fromisoformat(self.manifest.snapshot_at) if self.manifest else None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.manifest.files) if self.manifest else 0


def entries(folder: Path, signer: str = "") -> list[Entry]:
    """What stands there under a backup's name, the newest first. Raises OSError."""
    found = []
    for path in folder.iterdir():
        if not ids.valid(path.name, "bak"):
            continue
        try:
            found.append(Entry(path.name, path, manifest.read(path, signer)))
        except ManifestError as error:
            found.append(Entry(path.name, path, None, str(error)))
    return sorted(found, key=lambda entry: entry.id, reverse=True)


def newest(folder: Path, signer: str = "") -> Entry | None:
    """The newest whose manifest is good. Raises OSError."""
    return next((entry for entry in entries(folder, signer) if entry.manifest), None)


def find(folder: Path, id: str, signer: str = "") -> Entry:
    """The one of that id, or the newest for `latest`. Raises ManifestError, OSError."""
    if id == "latest":
        found = newest(folder, signer)
        if found is None:
            raise ManifestError(f"there is no good backup in {folder}")
        return found
    if not ids.valid(id, "bak"):
        raise ManifestError(f"{id[:80]!r} is no backup's id (bak_…)")
    return Entry(id, folder / id, manifest.read(folder / id, signer))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else makes or removes backups there. Raises Busy, OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"a backup into {folder} is under way") from None
        yield


@contextmanager
def draft(folder: Path, id: str) -> Iterator[Path]:
    """A new folder that gets its name when this ends well. What others left half-done is removed.

    To be entered alone.
    """
    for left in folder.glob(f"*{PART}"):
        shutil.rmtree(left)
    made = folder / f"{id}{PART}"
    made.mkdir(mode=0o700)
    try:
        yield made
        sync(made)
        made.rename(folder / id)
        sync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(made)
        raise


def sync(folder: Path) -> None:
    """Names and files of a folder are on the disk."""
    for path in (*folder.iterdir(), folder):
        if path.is_symlink() or not (path.is_file() or path == folder):
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def prune(folder: Path, keys_folder: Path | None, rules: retention.Rules, signer: str) -> list[str]:
    """Remove the backups whose time is over, keys files included; their ids. To be entered alone.

    One that cannot be read is never counted, and never removed: a person should look at it.
    """
    known = [entry for entry in entries(folder, signer) if entry.snapshot_at]
    stay = retention.kept(((one.id, one.snapshot_at) for one in known if one.snapshot_at), rules)
    gone = [entry for entry in known if entry.id not in stay]
    for entry in gone:
        # Its manifest first: half a backup must not look like one.
        (entry.folder / manifest.NAME).unlink()
        shutil.rmtree(entry.folder)
        if keys_folder is not None:
            keys_file(keys_folder, entry.id).unlink(missing_ok=True)
    return [entry.id for entry in gone]


def keys_file(keys_folder: Path, id: str) -> Path:
    return keys_folder / f"{id}.keys.age"
