"""The files of one revision of a model, as its source lists them. Pure."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec

from controlplane.fleet import wire

SUMS = "SHA256SUMS"
CONFIGS = ("config.json", "adapter_config.json")  # one of them makes it a model, or an adapter
MAX_FILES = 10_000


class ListingError(Exception):
    """A source listed what cannot be a model; the message is for a person."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file. Of the three that tell its content at least one is there."""

    path: str
    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""  # of git's blob: header and content
    etag: str = ""  # changes when the content does; says nothing of the content

    def identity(self, scope: str) -> str:
        """Names the bytes that a download collects: equal only where the content is."""
        if self.sha256:
            return self.sha256
        told = "\0".join((scope, self.path, str(self.size_bytes), self.git_sha1, self.etag))
        return hashlib.sha256(told.encode()).hexdigest()


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` names exactly these files: a commit, or a digest of the list."""

    revision: str
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def largest(self) -> File:
        """The file that is worth guarding: a gated model's small ones may be open to all."""
        return max(self.files, key=lambda file: (file.size_bytes, file.path))


def of(revision: str, files: Iterable[File]) -> Listing:
    """The part of a source's files that an engine needs. Raises ListingError."""
    chosen = sorted((file for file in files if wanted(file.path)), key=lambda file: file.path)
    if len(chosen) > MAX_FILES:
        raise ListingError(f"the source lists {len(chosen)} files; a model has at most {MAX_FILES}")
    for file in chosen:
        if not _plain(file.path) or file.size_bytes < 0:
            raise ListingError(f"the source lists a file that cannot be: {file.path[:80]!r}")
    if not any(file.path in CONFIGS for file in chosen):
        raise ListingError("the source holds no model there: it has no config.json")
    return Listing(revision=revision or digest(chosen), files=tuple(chosen))


def as_pinned(found: Listing, revision: str) -> Listing:
    """`found` if it is `revision` or nothing is pinned: all replicas serve the same files."""
    if revision and found.revision != revision:
        raise ListingError("the files at the source are others than those that were served so far")
    return found


def wanted(path: str) -> bool:
    return wire.is_model_file(path.rpartition("/")[2])


def digest(files: Iterable[File]) -> str:
    """A revision for what has none: it changes when a file does."""
    lines = (f"{f.path}\0{f.size_bytes}\0{f.sha256 or f.etag}\n" for f in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:40]


def sums(text: str) -> dict[str, str]:
    """Path to SHA-256, from the output of `sha256sum`. Raises ListingError."""
    found = {}
    for line in filter(None, text.splitlines()):
        digest, _, path = line.partition(" ")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ListingError(f"{SUMS} has a line that is none of sha256sum's: {line[:80]!r}")
        found[path.lstrip(" *").removeprefix("./")] = digest
    return found


def _plain(path: str) -> bool:
    """No way out of the folder, and nothing that a file system reads otherwise."""
    steps = PurePosixPath(path).parts
    return (
        bool(steps)
        and path.isprintable()
        and not path.startswith("/")
        and not {"", ".", ".."} & set(path.split("/"))
        and len(path.encode()) <= 512
        and all(len(step.encode()) <= 200 for step in steps)
    )
