"""A registry of OCI images over HTTP, as the distribution specification has it: pulls alone.

Images of `private` need a user and a password (HTTP Basic).
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from types import TracebackType
from typing import Self

from tests.agent.oci import Image

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<what>[^/]+)")
PRIVATE = "private/"
SLOW_BYTES = 1 << 20  # so much comes in parts, as over a real network
PARTS, PAUSE_S = 10, 0.3


class FakeRegistry:
    """`asked`: each path that was answered, in its order."""

    def __init__(self, user: str = "user", password: str = "good") -> None:
        self._login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], bytes] = {}
        self.asked: list[str] = []
        self.between = threading.Event()  # set: no pauses any more
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, name: str, tag: str, image: Image) -> str:
        """The digest of its manifest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(image.config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self._blob(image.layer, "application/vnd.oci.image.layer.v1.tar")],
        }
        content = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._manifests[name, tag] = self._manifests[name, digest] = content
        return digest

    def _blob(self, content: bytes, kind: str) -> dict[str, str | int]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._blobs[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def find(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        """Status, type and body."""
        allowed = authorization == f"Basic {self._login}"
        if path == "/v2/":  # how to say who one is; what is public needs none of it
            return (200, "application/json", b"{}") if allowed else _REFUSED
        match = _PATH.fullmatch(path)
        if match is None:
            return 404, "application/json", b"{}"
        name, what = match["name"], match["what"]
        if name.startswith(PRIVATE) and not allowed:
            return _REFUSED
        if match["kind"] == "manifests" and (name, what) in self._manifests:
            return 200, _MANIFEST, self._manifests[name, what]
        if match["kind"] == "blobs" and what in self._blobs:
            return 200, "application/octet-stream", self._blobs[what]
        return 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'


def _handler(registry: FakeRegistry) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, kind, body = registry.find(path, self.headers.get("authorization", ""))
            registry.asked.append(f"{self.command} {path} {status}")
            self.send_response(status)
            if status == 401:
                self.send_header("www-authenticate", 'Basic realm="images"')
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            if kind == _MANIFEST:
                digest = hashlib.sha256(body).hexdigest()
                self.send_header("docker-content-digest", f"sha256:{digest}")
            self.end_headers()
            if self.command != "GET":
                return
            part = max(1, len(body) // PARTS)
            with contextlib.suppress(ConnectionError):  # podman leaves when it has enough
                for start in range(0, len(body), part):
                    self.wfile.write(body[start : start + part])
                    if len(body) >= SLOW_BYTES:
                        registry.between.wait(PAUSE_S)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler


_REFUSED = (401, "application/json", b'{"errors":[{"code":"UNAUTHORIZED"}]}')
