"""A model for a replica or a pull: from the cache where that may be, else from its source."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.fleet import wire
from workers.agent.runner import Door, Progress
from workers.agent.weights.cache import PUBLIC, Cache, Kept, Snapshot, lock_of, locked
from workers.agent.weights.download import Body, download
from workers.agent.weights.errors import (
    FETCH_FAILED,
    Cancelled,
    Denied,
    Missing,
    ModelError,
    Unreachable,
)
from workers.agent.weights.hub import Hub
from workers.agent.weights.listing import File, Listing, ListingError
from workers.agent.weights.proofs import Proofs
from workers.agent.weights.s3 import Bucket
from workers.agent.weights.signing import Keys
from workers.agent.weights.tree import Tree
from workers.agent.weights.upload import Upload

AT_ONCE = 4  # files of one model


class Remote(Protocol):
    """A model at its source, as one project sees it. All raise ModelError."""

    def list(self, revision: str) -> Listing: ...
    def open(self, revision: str, file: File, start: int) -> AbstractContextManager[Body]: ...
    def prove(self, known: Listing) -> None: ...
    def open_to_all(self, known: Listing) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Wish:
    """`holder` keeps the snapshot from being thrown away until it lets go; empty: nobody does."""

    kind: wire.SourceKind
    model: str
    revision: str
    request: wire.SourceRequest
    holder: str = ""


class Weights:
    def __init__(self, cache: Cache, door: Door, *, clock: Callable[[], float] = time.time) -> None:
        self.cache = cache
        self._proofs = Proofs(cache.root / "proofs")
        self._door, self._clock = door, clock

    def fetch(self, wish: Wish, progress: Progress, cancelled: Callable[[], bool]) -> Snapshot:
        """The snapshot, held by `wish.holder`. Blocks; raises ModelError and OSError."""
        while True:
            found = self._at_hand(wish) or self._brought(wish, progress, cancelled)
            if self.cache.use(found, wish.holder):
                return found

    def _at_hand(self, wish: Wish) -> Snapshot | None:
        """What anybody may have and is named exactly needs nobody to be asked."""
        if wish.kind not in (wire.SourceKind.HUB, wire.SourceKind.MIRROR) or not wish.revision:
            return None
        found = self.cache.find(_hub_key(wish.kind, wish.model), wish.revision)
        return found if found is not None and found.kept.public else None

    def _brought(self, wish: Wish, progress: Progress, cancelled: Callable[[], bool]) -> Snapshot:
        source = self._door.source(wish.request, cancelled)
        with closing(self._remote(source)) as remote:
            fetch = _Fetch(self.cache, self._proofs, source, remote, progress, cancelled)
            try:
                return fetch.run(self._clock())
            except ListingError as error:
                raise ModelError(FETCH_FAILED, f"{source.model}: {error}") from error

    def _remote(self, source: wire.Source) -> Remote:
        if source.kind is wire.SourceKind.UPLOAD:
            return Upload(source, self._door.signed)
        if source.kind is wire.SourceKind.S3:
            keys = None
            if source.access_key_id:
                keys = Keys(source.access_key_id, source.secret_access_key, source.region)
            return Bucket(source.url, source.model, keys)
        if source.url.startswith("file:"):
            return Tree(source.url, source.model)
        return Hub(source.url, source.model, source.token)


def here(cache: Cache, kind: wire.SourceKind, model: str, revision: str) -> bool:
    """Whether nothing of it has to be fetched, as far as can be known without asking."""
    if kind is wire.SourceKind.S3:  # its key needs the service; its revision is a digest
        return bool(revision) and cache.has("s3", revision)
    key = _hub_key(kind, model)
    return cache.find(key, revision or cache.named(key, "")) is not None


@dataclass
class _Fetch:
    cache: Cache
    proofs: Proofs
    source: wire.Source
    remote: Remote
    progress: Progress
    cancelled: Callable[[], bool]
    key: str = ""

    def run(self, now: float) -> Snapshot:
        self.key = _key(self.source)
        wanted = self.source.revision
        found = self.cache.find(self.key, wanted) if wanted else None
        listing = None
        if found is None:
            try:
                listing = self.remote.list(wanted)
            except Unreachable:
                # A branch is then what it last was.
                found = self.cache.find(self.key, self.cache.named(self.key, wanted))
                if found is None:
                    raise
            else:
                found = self.cache.find(self.key, listing.revision)
        if found is not None:
            if not found.kept.public:
                self._prove(found.kept.listing, now, kept=True)
            return found
        assert listing is not None
        return self._bring(listing, now)

    def _prove(self, known: Listing, now: float, *, kept: bool) -> None:
        """Raises unless this project's own credentials open it, now or lately."""
        told = (self.key, self.source.project_id, _credentials(self.source))
        try:
            self.remote.prove(known)
        except (Denied, Missing) as error:
            self.proofs.withdraw(self.key, self.source.project_id)
            raise Denied(str(error)) from error
        except Unreachable:
            if kept and self.proofs.holds(*told, now):
                return
            raise
        self.proofs.give(*told, now)

    def _bring(self, listing: Listing, now: float) -> Snapshot:
        public = self.remote.open_to_all(listing)
        if not public:
            self._prove(listing, now, kept=False)
        with self.cache.alone(self.key, listing.revision, self.cancelled):
            found = self.cache.find(self.key, listing.revision)
            if found is None:
                scope = PUBLIC if public else self.key.replace("/", "~")
                sums = self._download(listing, scope)
                kept = Kept(listing=listing, public=public, sha256=sums)
                found = self.cache.finish(self.key, kept)
        self.cache.name(self.key, self.source.revision, listing.revision)
        return found

    def _download(self, listing: Listing, scope: str) -> dict[str, str]:
        """Every file, a few at a time; SHA-256 by path."""
        self.cache.make_room(
            self._missing_bytes(listing, scope), {file.identity(scope) for file in listing.files}
        )
        work = _Work(list(listing.files))

        def told(file: File, here: int) -> None:
            done = work.note(file, here)
            self.progress(f"fetching {self.source.model}", done, listing.size_bytes)

        def one(file: File) -> str:
            return self._file(listing, scope, file, lambda here: told(file, here), work.over)

        return work.run(one, self.cancelled)

    def _missing_bytes(self, listing: Listing, scope: str) -> int:
        missing = 0
        for file in listing.files:
            identity = file.identity(scope)
            sha256 = file.sha256 or self.cache.known(identity)
            if not (sha256 and self.cache.blob(scope, sha256).exists()):
                part = self.cache.part(identity)
                missing += file.size_bytes - (part.stat().st_size if part.exists() else 0)
        return missing

    def _file(
        self,
        listing: Listing,
        scope: str,
        file: File,
        told: Callable[[int], None],
        over: Callable[[], bool],
    ) -> str:
        identity = file.identity(scope)
        part = self.cache.part(identity)
        with locked(lock_of(part), over):
            place = (self.key, listing.revision, file)
            sha256 = file.sha256 or self.cache.known(identity)
            if sha256 and self.cache.linked(*place, self.cache.blob(scope, sha256), None):
                told(file.size_bytes)
                return sha256

            def opened(file: File, start: int) -> AbstractContextManager[Body]:
                return self.remote.open(listing.revision, file, start)

            sha256 = download(file, part, opened, told=told, cancelled=over)
            if not file.sha256:
                self.cache.know(identity, sha256)
            self.cache.settle(part)
            self.cache.linked(*place, self.cache.blob(scope, sha256), part)
            return sha256


@dataclass
class _Work:
    """Files shared out among threads; the first that fails ends them all.

    Daemon threads: a download that hangs must not keep a stopped agent alive.
    """

    files: list[File]
    here: dict[str, int] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    error: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cancelled: Callable[[], bool] = lambda: False

    def note(self, file: File, here: int) -> int:
        with self._lock:
            self.here[file.path] = here
            return sum(self.here.values())

    def over(self) -> bool:
        return self.error is not None or self._cancelled()

    def run(self, one: Callable[[File], str], cancelled: Callable[[], bool]) -> dict[str, str]:
        self._cancelled = cancelled
        # The largest first: they take longest.
        queue = iter(sorted(self.files, key=lambda file: -file.size_bytes))
        threads = [
            threading.Thread(target=self._some, args=(queue, one), daemon=True, name="stoa fetch")
            for _ in range(min(AT_ONCE, len(self.files)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not cancelled():
                thread.join(0.2)
        if self.error is not None:
            raise self.error
        if cancelled():
            raise Cancelled
        return self.sums

    def _some(self, queue: Iterator[File], one: Callable[[File], str]) -> None:
        while not self.over():
            with self._lock:
                file = next(queue, None)
            if file is None:
                return
            try:
                sha256 = one(file)
            except BaseException as error:
                with self._lock:
                    self.error = self.error or error
                return
            self.sums[file.path] = sha256


def _key(source: wire.Source) -> str:
    """Names a model at its source, whoever asks; `kind/name`, both good for a folder."""
    if source.kind is wire.SourceKind.S3:
        place = f"{source.url}\0{source.model}"
        return f"s3/{hashlib.sha256(place.encode()).hexdigest()[:32]}"
    return _hub_key(source.kind, source.model)


def _hub_key(kind: wire.SourceKind, model: str) -> str:
    return f"{kind}/{model.replace('/', '~')}"


def _credentials(source: wire.Source) -> str:
    return "\0".join((source.token, source.access_key_id, source.secret_access_key))
