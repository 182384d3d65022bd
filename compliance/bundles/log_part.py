"""log/ of a bundle: exact events, hashes, checkpoint, openings; in bounded memory."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import rfc8785

from compliance.bundles.writer import Part, text

# Beyond it a bundle carries the subtrees beside its events, not the hashes of all.
MOST_HASHES = 4_000_000


@dataclass(frozen=True)
class Opening:
    """A personal value of an event, or (`redacted`) why it is gone and who certifies that."""

    index: int
    event: str
    path: str = ""
    salt: str = ""
    value: str = ""
    commitment: str = ""
    redacted: str = ""
    certificate: str = ""

    def line(self) -> dict[str, Any]:
        said: dict[str, Any] = {"index": self.index, "event": self.event}
        if self.redacted:
            gone = {"commitment": self.commitment, "redacted": self.redacted}
            return said | gone | {"certificate": self.certificate or None}
        return said | {"path": self.path, "salt": self.salt, "value": self.value}


class View(Protocol):
    """A log as of one signed checkpoint."""

    @property
    def origin(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def root(self) -> bytes: ...

    @property
    def note(self) -> str:
        """The signed checkpoint."""
        ...

    def hashes(self, start: int, end: int) -> Iterator[bytes]:
        """Leaf hashes start <= index < end, many of 32 bytes in each piece."""
        ...

    def subtree(self, start: int, end: int) -> bytes:
        """The root over the leaves start <= index < end, an aligned power of two of them."""
        ...

    def events(self, start: int, end: int) -> Iterator[bytes]:
        """The exact bodies, by index."""
        ...

    def meta(self) -> dict[str, Any] | None:
        """log/meta.json: the checkpoint in the log of checkpoints, if it is there already."""
        ...


def write(
    view: View,
    first: int,
    count: int,
    folder: Path,
    *,
    openings: Iterable[Opening] = (),
    certificates: Iterable[tuple[int, bytes]] = (),
    rotations: Iterable[tuple[int, bytes]] = (),
    bodies: bool = True,
    most_hashes: int = MOST_HASHES,
) -> tuple[list[Part], dict[str, Any]]:
    """Parts, and what the manifest says of the log (`log_proof`).

    The events are first <= index < first + count; without `bodies` the hashes alone. `openings`
    come by index. `certificates`: (index, body) of the events that issued those they name;
    `rotations`: of those in which the log's key announced the next one.
    """
    parts = [text("log/checkpoint", view.note.encode(), folder)]
    whole = view.size <= most_hashes or not bodies
    if whole:
        parts.append(_blocks("log/hashes.bin", view.hashes(0, view.size), folder))
    else:
        sides = {
            "left": _sides(view, 0, first),
            "right": _sides(view, first + count, view.size),
        }
        parts.append(text("log/range.json", rfc8785.dumps(sides), folder))
    if bodies:
        lines = (
            line(index, body) for index, body in enumerate(view.events(first, first + count), first)
        )
        parts.append(_blocks("log/events.jsonl", lines, folder, count))
        opened = (rfc8785.dumps(opening.line()) + b"\n" for opening in openings)
        parts += _if_any(_blocks("log/disclosed.jsonl", opened, folder))
    for path, told in (("log/certificates.jsonl", certificates), ("log/keys.jsonl", rotations)):
        proved = (line(index, body) for index, body in told)
        parts += _if_any(_blocks(path, proved, folder))
    if meta := view.meta():
        parts.append(text("log/meta.json", rfc8785.dumps(meta), folder))
    proof = {
        "origin": view.origin,
        "size": view.size,
        "root": base64.b64encode(view.root).decode(),
        "first": first,
        "count": count if bodies else 0,
    }
    return parts, proof


def aligned(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The largest whole subtrees, left to right, that cover start <= index < end."""
    while start < end:
        size = 1 << ((end - start).bit_length() - 1)
        if start:
            size = min(size, start & -start)
        yield start, start + size
        start += size


def _sides(view: View, start: int, end: int) -> list[str]:
    return [base64.b64encode(view.subtree(*one)).decode() for one in aligned(start, end)]


def line(index: int, body: bytes) -> bytes:
    """Canonical JSON, as the body is: its exact bytes stand in it."""
    return b'{"body":%b,"index":%d}\n' % (body, index)


def _blocks(path: str, blocks: Iterable[bytes], folder: Path, rows: int | None = None) -> Part:
    source = folder / path.replace("/", "-")
    with source.open("wb") as file:
        file.writelines(blocks)
    return Part(path, source, rows)


def _if_any(part: Part) -> list[Part]:
    return [part] if part.source.stat().st_size else []
