"""The weights that this machine keeps, for all its agents.

    <root>/blobs/<scope>/<sha256>           content; read-only
    <root>/parts/<identity>                 bytes of a blob that is under way
    <root>/snapshots/<key>/<revision>/      hard links to blobs
    <root>/snapshots/<key>/<revision>.json  written last: with it the snapshot is whole
    <root>/snapshots/<key>/.<revision>.part the folder while its blobs come in
    <root>/refs/<key>/<name>                the revision that a branch or tag last was
    <root>/known/<identity>                 the SHA-256 of a file that its source names otherwise
    <root>/uses/<holder>                    the snapshot that a replica may be reading
    <root>/lock                             held to give out a snapshot and to throw one away

A blob lives while a snapshot links to it: the file system counts. Nothing here has to be put
right after a kill: what is not whole is not found, and is the first to go when room is needed.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from workers.agent import files
from workers.agent.weights.errors import FETCH_FAILED, Cancelled, ModelError
from workers.agent.weights.listing import File, Listing

FREE_SHARE = 0.05  # of the disk stays free when no limit is set
PUBLIC = "public"  # the scope of blobs that anybody may have


class Kept(msgspec.Struct, kw_only=True):
    """What stands beside a snapshot."""

    listing: Listing
    public: bool
    sha256: dict[str, str]  # path to content, as verified


@dataclass(frozen=True)
class Snapshot:
    folder: Path
    kept: Kept

    @property
    def revision(self) -> str:
        return self.kept.listing.revision


class Cache:
    """`limit_bytes`: what blobs may take; 0: all but FREE_SHARE of the disk."""

    def __init__(self, root: Path, *, limit_bytes: int = 0) -> None:
        self.root, self._limit = root, limit_bytes

    # --- what is here ------------------------------------------------------------------

    def find(self, key: str, revision: str) -> Snapshot | None:
        """A whole snapshot by its exact revision; damage to it makes it unknown."""
        folder = self._folder(key, revision)
        content = files.read(folder.with_name(f"{folder.name}.json"))
        if content is None:
            return None
        try:
            kept = msgspec.json.decode(content, type=Kept)
            whole = all(
                (folder / file.path).stat().st_size == file.size_bytes
                for file in kept.listing.files
            )
        except (msgspec.DecodeError, OSError):
            return None
        return Snapshot(folder, kept) if whole else None

    def has(self, kind: str, revision: str) -> bool:
        """Whether any model of that kind has a snapshot of that revision."""
        return any(self.root.glob(f"snapshots/{kind}/*/{revision}.json"))

    def named(self, key: str, name: str) -> str:
        """The revision that a branch, a tag or the default last was; empty: not known."""
        return (files.read(self._ref(key, name)) or b"").decode()

    def name(self, key: str, name: str, revision: str) -> None:
        files.write(self._ref(key, name), revision.encode(), durable=False)

    def known(self, identity: str) -> str:
        """The SHA-256 of what was once brought under `identity`; empty: not known."""
        return (files.read(self.root / "known" / identity) or b"").decode()

    def know(self, identity: str, sha256: str) -> None:
        files.write(self.root / "known" / identity, sha256.encode(), durable=False)

    # --- bringing one in ---------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self, key: str, revision: str, cancelled: Callable[[], bool]) -> Iterator[None]:
        """One fetch of a snapshot at a time; the others wait, and then find it."""
        with locked(self._lock_of(self._folder(key, revision)), cancelled):
            yield

    def part(self, identity: str) -> Path:
        """Where a download collects its bytes, under `lock_of` it."""
        folder = self.root / "parts"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / identity

    def blob(self, scope: str, sha256: str) -> Path:
        folder = self.root / "blobs" / scope
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / sha256

    def settle(self, part: Path) -> None:
        """A verified part is read-only and on disk, whatever happens next; `linked` follows."""
        part.chmod(0o444)
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def linked(self, key: str, revision: str, file: File, blob: Path, part: Path | None) -> bool:
        """Put a blob, out of `part` where that is given, into the snapshot that is being made.

        False where there is no such blob. Under the lock: a blob without a link is rubbish.
        """
        target = self._draft(self._folder(key, revision)) / file.path
        with locked(self.root / "lock"):
            if part is not None and blob.exists():
                part.unlink()  # another file of the same content was quicker
            elif part is not None:
                part.rename(blob)
            elif not blob.exists():
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(blob, target)
        return True

    def finish(self, key: str, kept: Kept) -> Snapshot:
        """All blobs are linked: the snapshot can be found from now on."""
        folder = self._folder(key, kept.listing.revision)
        draft = self._draft(folder)
        for path in (draft, *(p for p in draft.rglob("*") if p.is_dir())):
            path.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)  # one whose list was never written
        draft.rename(folder)
        files.write(folder.with_name(f"{folder.name}.json"), msgspec.json.encode(kept))
        return Snapshot(folder, kept)

    # --- who reads it ------------------------------------------------------------------

    def use(self, snapshot: Snapshot, holder: str) -> bool:
        """Hold a snapshot until `release`; False where it has just been thrown away."""
        with locked(self.root / "lock"):
            stamp = snapshot.folder.with_name(f"{snapshot.folder.name}.json")
            if not stamp.exists():
                return False
            os.utime(stamp)
            if holder:
                where = str(snapshot.folder.relative_to(self.root))
                files.write(self.root / "uses" / holder, where.encode(), durable=False)
            return True

    def release(self, holder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.root / "uses" / holder).unlink()

    def keep(self, prefix: str, holders: set[str]) -> None:
        """Release all holders that begin with `prefix` and are none of `holders`."""
        for path in self.root.glob(f"uses/{prefix}*"):
            if path.name not in holders:
                self.release(path.name)

    # --- room --------------------------------------------------------------------------

    def make_room(self, needed_bytes: int, parts: Collection[str] = ()) -> None:
        """Throw away what was used longest ago until so much fits; not these parts, which go on.

        Raises ModelError where even that is not enough.
        """
        with locked(self.root / "lock"):
            for victim in [None, *self._disposable(parts)]:
                if victim is not None:
                    _discard(victim)
                    self._sweep_blobs()
                if needed_bytes <= (room := self._room()):
                    return
        raise ModelError(
            FETCH_FAILED,
            f"{needed_bytes / 1e9:.1f} GB are needed and {max(0, room) / 1e9:.1f} GB can be had:"
            " the rest of the weight cache is in use",
        )

    def stale(self, before: float) -> list[Path]:
        """What nobody finds or fetches, untouched since `before` (Unix seconds): parts and drafts
        whose fetch was given up, snapshots without their list, blobs without a snapshot."""
        drafts = [p for p in self.root.glob("snapshots/*/*/.*.part") if self._idle(p)]
        parts = [p for p in self._parts() if not _taken(lock_of(p))]
        halves = [
            path
            for path in self.root.glob("snapshots/*/*/[!.]*")
            if path.is_dir()
            and not path.with_name(f"{path.name}.json").exists()
            and not _taken(self._lock_of(path))
        ]
        blobs = [p for p in self.root.glob("blobs/*/*") if _links(p) == 1]
        return [p for p in (*drafts, *parts, *halves, *blobs) if self._touched(p) < before]

    def discard_stale(self, path: Path) -> bool:
        """Throw away what `stale` found, if it still is; whether it is gone."""
        with locked(self.root / "lock"):
            if path in self.stale(self._touched(path) + 1.0):
                _discard(path)
            return not path.exists()

    def _touched(self, path: Path) -> float:
        """A fetch that goes on touches its lock when it begins, and its files later."""
        locks = (lock_of(path), self._lock_of(_whole(path)))
        inside = (one for one in path.rglob("*")) if path.is_dir() else iter(())
        times = []
        for one in (path, *locks, *inside):
            with contextlib.suppress(OSError):
                # A hard link's own time is its blob's: the change of the inode says more.
                found = one.stat()
                times.append(max(found.st_mtime, found.st_ctime if one is path else 0.0))
        return max(times, default=0.0)

    def used_bytes(self) -> int:
        return sum(_size(path) for path in self._contents())

    def _contents(self) -> Iterator[Path]:
        yield from self.root.glob("blobs/*/*")
        yield from self._parts()

    def _parts(self) -> Iterator[Path]:
        yield from (path for path in self.root.glob("parts/*") if path.suffix != ".lock")

    def _room(self) -> int:
        disk = shutil.disk_usage(self.root)
        free = disk.free - int(disk.total * FREE_SHARE)
        return min(free, self._limit - self.used_bytes()) if self._limit else free

    def _disposable(self, going_on: Collection[str]) -> list[Path]:
        """Drafts that nobody fetches, parts, then snapshots that nobody holds, oldest first."""
        held = {self.root / (files.read(path) or b"").decode() for path in self._uses()}
        drafts = [p for p in self.root.glob("snapshots/*/*/.*.part") if self._idle(p)]
        parts = [p for p in self._parts() if p.name not in going_on and not _taken(lock_of(p))]
        stamps = [
            (path.stat().st_mtime, path.with_suffix(""))
            for path in self.root.glob("snapshots/*/*/*.json")
        ]
        return [*drafts, *parts, *(folder for _, folder in sorted(stamps) if folder not in held)]

    def _uses(self) -> Iterator[Path]:
        yield from (path for path in self.root.glob("uses/*") if not path.name.startswith("."))

    def _idle(self, draft: Path) -> bool:
        return not _taken(self._lock_of(_whole(draft)))

    def _sweep_blobs(self) -> None:
        for blob in self.root.glob("blobs/*/*"):
            if blob.stat().st_nlink == 1:
                blob.unlink()

    # --- names -------------------------------------------------------------------------

    def _folder(self, key: str, revision: str) -> Path:
        return self.root / "snapshots" / key / revision.replace("/", "~")

    def _draft(self, folder: Path) -> Path:
        draft = folder.with_name(f".{folder.name}.part")
        draft.mkdir(parents=True, exist_ok=True)
        return draft

    def _lock_of(self, folder: Path) -> Path:
        return folder.with_name(f".{folder.name}.lock")

    def _ref(self, key: str, name: str) -> Path:
        return self.root / "refs" / key / ((name or "main").replace("/", "~"))


@contextlib.contextmanager
def locked(path: Path, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock that the kernel lets go however this process ends. Raises Cancelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if cancelled():
                    raise Cancelled from None
                time.sleep(0.1)
        yield


def lock_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.lock")


def _whole(draft: Path) -> Path:
    """The folder that a draft becomes."""
    return draft.with_name(draft.name.removeprefix(".").removesuffix(".part"))


def _links(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_nlink
    return 0  # renamed meanwhile


def _taken(path: Path) -> bool:
    try:
        with path.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _discard(path: Path) -> None:
    """A snapshot loses its list first: then nobody finds what is half gone."""
    if path.is_dir():
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # renamed meanwhile
