"""A hub that speaks Hugging Face's protocol: the hub itself, or the operator's mirror."""

from contextlib import AbstractContextManager
from urllib.parse import quote

import msgspec

from workers.agent.weights import http, listing
from workers.agent.weights.download import Body
from workers.agent.weights.errors import Denied, Missing, Unreachable
from workers.agent.weights.listing import File, Listing


class _Large(msgspec.Struct):
    sha256: str
    size: int


class _Sibling(msgspec.Struct, rename={"blob_id": "blobId"}):
    rfilename: str
    size: int | None = None
    blob_id: str = ""
    lfs: _Large | None = None


class _Info(msgspec.Struct):
    sha: str
    siblings: list[_Sibling] = []


class Hub:
    """One model of a hub, as whoever holds `token` sees it; empty: as anybody does."""

    def __init__(self, url: str, model: str, token: str = "") -> None:
        self._url, self._model = url.rstrip("/"), model
        self._http = http.client(url)
        self._token = token

    def close(self) -> None:
        self._http.close()

    def list(self, revision: str) -> Listing:
        """The files of a branch, a tag or a commit; empty: of the default branch."""
        path = f"{self._url}/api/models/{self._model}/revision/{quote(revision or 'main', safe='')}"
        answer = http.content(self._http, self._model, f"{path}?blobs=true", self._headers())
        try:
            info = msgspec.json.decode(answer, type=_Info)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreachable(f"{self._model}: the source's answer is none of a hub") from None
        if not info.sha.isalnum():
            raise Unreachable(f"{self._model}: the source names no commit")
        return listing.of(info.sha, map(_file, info.siblings))

    def open(self, revision: str, file: File, start: int) -> AbstractContextManager[Body]:
        what = f"{self._model}: {file.path}"
        return http.body(self._http, what, self._resolve(revision, file), self._headers(), start)

    def prove(self, known: Listing) -> None:
        """Raises Denied, Missing or Unreachable unless these credentials open the weights."""
        url = self._resolve(known.revision, known.largest())
        http.allowed(self._http, self._model, url, self._headers())

    def open_to_all(self, known: Listing) -> bool:
        """Whether anybody may have it."""
        if not self._token:
            return True
        try:
            url = self._resolve(known.revision, known.largest())
            http.allowed(self._http, self._model, url, {})
        except (Denied, Missing):
            return False
        return True

    def _resolve(self, revision: str, file: File) -> str:
        return f"{self._url}/{self._model}/resolve/{quote(revision, safe='')}/{quote(file.path)}"

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} if self._token else {}


def _file(found: _Sibling) -> File:
    if found.lfs is not None:
        return File(path=found.rfilename, size_bytes=found.lfs.size, sha256=found.lfs.sha256)
    if found.size is None or not found.blob_id:
        raise Unreachable(f"{found.rfilename}: the source lists nothing to verify it by")
    return File(path=found.rfilename, size_bytes=found.size, git_sha1=found.blob_id)
