"""An S3 service on loopback: buckets in memory, path style, and signatures that are checked."""

import hashlib
import http.server
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from workers.agent.weights import signing
from workers.agent.weights.signing import Keys

PAGE = 2  # objects in a list, so that a list has pages


@dataclass
class FakeS3:
    """`keys`: who may read what, as access key id to (secret, prefixes of bucket/key)."""

    objects: dict[str, bytes] = field(default_factory=dict)  # "bucket/key"
    keys: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    public: tuple[str, ...] = ()
    sent_bytes: int = 0

    def __enter__(self) -> "FakeS3":
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": self})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: FakeS3

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        place, query = unquote(parts.path).lstrip("/"), dict(parse_qsl(parts.query))
        wanted = f"{place}/{query.get('prefix', '')}" if "list-type" in query else place
        if not self._may(wanted, parts.path, query):
            self._say(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "list-type" in query:
            self._list(place, query)
        elif place not in self.s3.objects:
            self._say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._object(self.s3.objects[place])

    do_HEAD = do_GET

    def _may(self, wanted: str, path: str, query: dict[str, str]) -> bool:
        told = self.headers.get("authorization", "")
        if not told:
            return wanted.startswith(self.s3.public) if self.s3.public else False
        found = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d+/([^/]+)/s3", told)
        names = re.search(r"SignedHeaders=([^,]+)", told)
        assert found and names
        secret, prefixes = self.s3.keys.get(found[1], ("", ()))
        now = datetime.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        ours = {"host", "x-amz-content-sha256", "x-amz-date"}
        more = {n: self.headers[n] for n in names[1].split(";") if n not in ours}
        url = f"http://{self.headers['host']}{path}"
        signed = signing.sign(self.command, url, query, more, Keys(found[1], secret, found[2]), now)
        fresh = abs((datetime.now(UTC) - now).total_seconds()) < 900
        return fresh and signed["authorization"] == told and wanted.startswith(prefixes)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix = f"{bucket}/{query['prefix']}"
        names = sorted(n for n in self.s3.objects if n.startswith(prefix))
        start = int(query.get("continuation-token", "0"))
        page = names[start : start + PAGE]
        more = start + PAGE < len(names)
        entries = "".join(
            f"<Contents><Key>{escape(n.removeprefix(f'{bucket}/'))}</Key>"
            f"<ETag>{escape(etag(self.s3.objects[n]))}</ETag>"
            f"<Size>{len(self.s3.objects[n])}</Size></Contents>"
            for n in page
        )
        token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        )
        self._say(200, body.encode())

    def _object(self, content: bytes) -> None:
        wanted = self.headers.get("if-match")
        if wanted and wanted != etag(content):
            return self._say(412, b"")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(asked[1]) if asked else 0
        self._say(206 if asked else 200, content[start:], start, len(content))
        if self.command == "GET":
            self.s3.sent_bytes += len(content) - start
        return None

    def _say(self, status: int, body: bytes, start: int = 0, total: int = 0) -> None:
        self.send_response(status)
        if status == 206:
            self.send_header("content-range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
