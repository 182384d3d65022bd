"""A project's own files, from the control plane that took them in."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from controlplane.fleet import wire
from workers.agent.weights import http, listing
from workers.agent.weights.download import Body
from workers.agent.weights.errors import Missing
from workers.agent.weights.listing import File, Listing

Sign = Callable[[str], tuple[str, dict[str, str], ssl.SSLContext]]


class Upload:
    """`sign` gives address, headers and TLS of a request for file number N. To be told of an upload
    is to be allowed it: the control plane tells nobody else."""

    def __init__(self, source: wire.Source, sign: Sign) -> None:
        self._source, self._sign = source, sign
        self._numbers = {file.path: number for number, file in enumerate(source.files)}

    def close(self) -> None:
        pass

    def list(self, revision: str) -> Listing:
        if not self._source.files:
            raise Missing(f"{self._source.model}: there is no such upload")
        files = (
            File(path=one.path, size_bytes=one.size_bytes, sha256=one.sha256)
            for one in self._source.files
        )
        return listing.as_pinned(listing.of("", files), revision)

    @contextmanager
    def open(self, revision: str, file: File, start: int) -> Iterator[Body]:
        path = f"/uploads/{self._source.model}/{self._numbers[file.path]}"
        url, headers, tls = self._sign(path)
        what = f"{self._source.model}: {file.path}"
        # A connection for each: it shows the certificate that signs, and that is renewed.
        with http.client(url, tls) as one, http.body(one, what, url, headers, start) as body:
            yield body

    def prove(self, known: Listing) -> None:
        pass

    def open_to_all(self, known: Listing) -> bool:
        return False
