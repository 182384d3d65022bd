"""A project's own files, from the control plane that took them in."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from controlplane.fleet import wire
from workers.agent.weights import http, listing
from workers.agent.weights.download import Body
from workers.agent.weights.errors import Missing
from workers.agent.weights.listing import File, Listing


class Upload:
    """`sign` gives address and headers of a request for file number N. To be told of an upload is
    to be allowed it: the control plane tells nobody else."""

    def __init__(
        self, source: wire.Source, sign: Callable[[str], tuple[str, dict[str, str]]], url: str
    ) -> None:
        self._source, self._sign = source, sign
        self._http = http.client(url)
        self._numbers = {file.path: number for number, file in enumerate(source.files)}

    def close(self) -> None:
        self._http.close()

    def list(self, revision: str) -> Listing:
        if not self._source.files:
            raise Missing(f"{self._source.model}: there is no such upload")
        files = (
            File(path=one.path, size_bytes=one.size_bytes, sha256=one.sha256)
            for one in self._source.files
        )
        return listing.as_pinned(listing.of("", files), revision)

    def open(self, revision: str, file: File, start: int) -> AbstractContextManager[Body]:
        path = f"/uploads/{self._source.model}/{self._numbers[file.path]}"
        url, headers = self._sign(path)
        return http.body(self._http, f"{self._source.model}: {file.path}", url, headers, start)

    def prove(self, known: Listing) -> None:
        pass

    def open_to_all(self, known: Listing) -> bool:
        return False
