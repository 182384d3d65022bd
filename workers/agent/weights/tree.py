"""A tree of files that the operator mounts on the nodes: `<root>/<owner>/<name>[/<revision>]`."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workers.agent.weights import listing
from workers.agent.weights.download import BUFFER, Body
from workers.agent.weights.errors import Missing, Unreachable
from workers.agent.weights.listing import File, Listing


class Tree:
    """One model of a `file:///root`. Everybody's: the operator put it there."""

    def __init__(self, url: str, model: str) -> None:
        self._model, self._folder = model, Path(unquote(urlsplit(url).path)) / model

    def close(self) -> None:
        pass

    def list(self, revision: str) -> Listing:
        named = self._folder / revision if revision else self._folder
        folder = named if named.is_dir() else self._folder
        if not folder.is_dir():
            raise Missing(f"{self._model}: the mirror has no such model")
        sums_file = folder / listing.SUMS
        sums = listing.sums(sums_file.read_text()) if sums_file.is_file() else {}
        found = listing.of("", self._files(folder, sums))
        return found if revision and folder is named else listing.as_pinned(found, revision)

    def open(self, revision: str, file: File, start: int) -> AbstractContextManager[Body]:
        return self._body(file, start)

    def prove(self, known: Listing) -> None:
        pass

    def open_to_all(self, known: Listing) -> bool:
        return True

    @contextlib.contextmanager
    def _body(self, file: File, start: int) -> Iterator[Body]:
        try:
            with open(file.etag.partition(":")[2], "rb") as source:
                source.seek(start)
                yield Body(start, iter(lambda: source.read(BUFFER), b""))
        except OSError as error:
            raise Unreachable(f"{self._model}: {file.path}: {error.strerror}") from None

    def _files(self, folder: Path, sums: dict[str, str]) -> Iterator[File]:
        for directory, _, names in os.walk(folder):
            for name in names:
                path = Path(directory, name)
                told, found = str(path.relative_to(folder)), path.stat()
                yield File(
                    path=told,
                    size_bytes=found.st_size,
                    sha256=sums.get(told, ""),
                    etag=f"{found.st_mtime_ns}:{path}",
                )
