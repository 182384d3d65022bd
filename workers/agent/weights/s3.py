"""A folder in a bucket of any service that speaks S3's protocol, in path style."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from urllib.parse import quote

from workers.agent.weights import http, listing, signing
from workers.agent.weights.download import Body
from workers.agent.weights.errors import Denied, Missing, Unreachable
from workers.agent.weights.listing import File, Listing
from workers.agent.weights.signing import Keys

_PAGES = 20  # of a thousand names each


def _utc() -> datetime:
    return datetime.now(UTC)


class Bucket:
    """`model` is `s3://bucket/folder`; without `keys` it is asked for as anybody would."""

    def __init__(
        self, url: str, model: str, keys: Keys | None, clock: Callable[[], datetime] = _utc
    ) -> None:
        bucket, _, folder = model.removeprefix("s3://").partition("/")
        self._model = model
        self._bucket_url = f"{url.rstrip('/')}/{quote(bucket, safe='')}"
        self._prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        self._keys, self._clock = keys, clock
        self._http = http.client(url)

    def close(self) -> None:
        self._http.close()

    def list(self, revision: str) -> Listing:
        """What lies there now. Raises ListingError where that is not `revision` any more."""
        found: list[File] = []
        query = {"list-type": "2", "prefix": self._prefix, "max-keys": "1000"}
        for _ in range(_PAGES):
            page = self._page(query)
            found += [file for entry in _all(page, "Contents") if (file := self._file(entry))]
            if _text(page, "IsTruncated") != "true":
                break
            query["continuation-token"] = _text(page, "NextContinuationToken")
        if not found:
            raise Missing(f"{self._model}: nothing lies there")
        sums = self._sums() if any(file.path == listing.SUMS for file in found) else {}
        return listing.as_pinned(listing.of("", (_summed(file, sums) for file in found)), revision)

    def open(self, revision: str, file: File, start: int) -> AbstractContextManager[Body]:
        url = self._object(file.path)
        # What was replaced meanwhile is another file: the service refuses (412).
        headers = self._signed("GET", url, {}, {"if-match": file.etag} if file.etag else {})
        return http.body(self._http, f"{self._model}: {file.path}", url, headers, start)

    def prove(self, known: Listing) -> None:
        """Raises Denied, Missing or Unreachable unless these keys open the weights."""
        url = self._object(known.largest().path)
        http.allowed(self._http, self._model, url, self._signed("HEAD", url, {}, {}))

    def open_to_all(self, known: Listing) -> bool:
        if self._keys is None:
            return True
        try:
            http.allowed(self._http, self._model, self._object(known.largest().path), {})
        except (Denied, Missing):
            return False
        return True

    def _page(self, query: dict[str, str]) -> ElementTree.Element:
        headers = self._signed("GET", self._bucket_url, query, {})
        url = f"{self._bucket_url}?{signing.canonical_query(query)}"
        answer = http.content(self._http, self._model, url, headers)
        try:
            if b"<!DOCTYPE" in answer or b"<!ENTITY" in answer:
                raise ElementTree.ParseError
            return ElementTree.fromstring(answer)
        except ElementTree.ParseError:
            raise Unreachable(f"{self._model}: the answer is none of S3's protocol") from None

    def _file(self, entry: ElementTree.Element) -> File | None:
        path = _text(entry, "Key").removeprefix(self._prefix)
        size = _text(entry, "Size")
        if not path or path.endswith("/") or not size.isdigit():
            return None
        return File(path=path, size_bytes=int(size), etag=_text(entry, "ETag"))

    def _sums(self) -> dict[str, str]:
        url = self._object(listing.SUMS)
        headers = self._signed("GET", url, {}, {})
        answer = http.content(self._http, f"{self._model}: {listing.SUMS}", url, headers)
        return listing.sums(answer.decode(errors="replace"))

    def _object(self, path: str) -> str:
        return f"{self._bucket_url}/{quote(self._prefix + path, safe='/~')}"

    def _signed(
        self, method: str, url: str, query: dict[str, str], headers: dict[str, str]
    ) -> dict[str, str]:
        if self._keys is None:
            return headers
        return signing.sign(method, url, query, headers, self._keys, self._clock())


def _summed(file: File, sums: dict[str, str]) -> File:
    return File(
        path=file.path,
        size_bytes=file.size_bytes,
        etag=file.etag,
        sha256=sums.get(file.path, ""),
    )


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return element.findall(f"{{*}}{name}")


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}", "")
