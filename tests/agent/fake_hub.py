"""A model hub on loopback, over Hugging Face's protocol, with a state that tests change.

Large files are redirected to a second server, as a hub's are: it refuses whoever brings a token.
"""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote, urlsplit

LARGE = 1 << 16
CHUNK = 1 << 14


@dataclass
class Repo:
    """`tokens`: who may have the files; None: everybody. `hidden`: others are not told of it."""

    files: dict[str, bytes]
    tokens: set[str] | None = None
    hidden: bool = False

    @property
    def commit(self) -> str:
        told = "".join(
            f"{path}{hashlib.sha256(content).hexdigest()}"
            for path, content in sorted(self.files.items())
        )
        return hashlib.sha1(told.encode()).hexdigest()


@dataclass
class FakeHub:
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "METHOD path"
    sent_bytes: dict[str, int] = field(default_factory=dict)  # file -> bytes of its content
    before_chunk: Callable[[str, int], None] = lambda path, at: None  # may raise BrokenPipeError
    ranges: bool = True
    corrupt: set[str] = field(default_factory=set)
    down: bool = False
    address: str = "127.0.0.1"
    port: int = 0  # 0: any; its second server has the next one

    def __enter__(self) -> "FakeHub":
        second = self.port + 1 if self.port else 0
        self._servers = [_Server(self, _Hub, self.port), _Server(self, _Cdn, second)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()

    @property
    def url(self) -> str:
        return self._servers[0].url

    @property
    def cdn(self) -> str:
        return self._servers[1].url


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub, handler: type["_Handler"], port: int) -> None:
        super().__init__((hub.address, port), type("Handler", (handler,), {"hub": hub}))
        self.hub_address = hub.address
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{self.hub_address}:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that were killed


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.down:
            self.close_connection = True
            return
        self.answer(unquote(urlsplit(self.path).path))

    do_HEAD = do_GET

    def answer(self, path: str) -> None:
        raise NotImplementedError

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("x-error-code", code)
        self.send_header("content-length", "0")
        self.end_headers()

    def give(self, name: str, content: bytes) -> None:
        """With ranges, and in chunks that a test can look at or break."""
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if asked and self.hub.ranges:
            start = int(asked[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("content-length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.corrupt:
            content = bytes(len(content))
        for at in range(start, len(content), CHUNK):
            self.hub.before_chunk(name, at)
            chunk = content[at : at + CHUNK]
            self.wfile.write(chunk)
            self.hub.sent_bytes[name] = self.hub.sent_bytes.get(name, 0) + len(chunk)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Hub(_Handler):
    def answer(self, path: str) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._info(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        else:
            self.refuse(404, "NotFound")

    def _info(self, name: str, revision: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.hidden and self.token not in (repo.tokens or ())):
            return self.refuse(401, "RepoNotFound")
        if revision not in ("main", repo.commit):
            return self.refuse(404, "RevisionNotFound")
        body = json.dumps(
            {"id": name, "sha": repo.commit, "siblings": [_sibling(*f) for f in repo.files.items()]}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.hidden and self.token not in (repo.tokens or ())):
            return self.refuse(401, "RepoNotFound")
        if repo.tokens is not None and self.token not in repo.tokens:
            return self.refuse(403 if self.token else 401, "GatedRepo")
        if revision not in ("main", repo.commit) or path not in repo.files:
            return self.refuse(404, "EntryNotFound")
        content = repo.files[path]
        if len(content) < LARGE:
            return self.give(path, content)
        self.send_response(302)
        self.send_header("location", f"{self.hub.cdn}/{name}/{path}")
        self.send_header("content-length", "0")
        self.end_headers()
        return None


class _Cdn(_Handler):
    def answer(self, path: str) -> None:
        owner, name, file = path.lstrip("/").split("/", 2)
        if self.token:
            return self.refuse(400, "TokenWhereNoneBelongs")
        return self.give(file, self.hub.repos[f"{owner}/{name}"].files[file])


def _sibling(path: str, content: bytes) -> dict[str, object]:
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    told: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": git}
    if len(content) >= LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        told["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return told
