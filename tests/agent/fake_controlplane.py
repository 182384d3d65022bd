"""A control plane of one node: real HTTP, real certificates, state in memory.

It checks each signature as the real one does, keeps what it is told, and can be told to be down,
to refuse, or to have removed the node.
"""

import base64
import http.server
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.fleet import authority, wire
from tests.agent.fake_runner import wait_until

REGION = "eu-test-1"
REPORT_EVERY_S = 0.2


class ControlPlane:
    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.authority = authority.create(REGION, now=datetime.now(UTC))
        self.tokens = {"stoa-enroll-good"}
        self.certificates: list[str] = []  # fingerprints, the newest last
        self.lifetime = timedelta(days=1)
        self.wishes: dict[str, wire.DesiredReplica] = {}
        self.pulls: list[wire.Pull] = []
        self.erase: wire.Erase | None = None
        self.release: wire.AgentRelease | None = None
        self.bundles: dict[str, bytes] = {}  # what is served, by the hash that is asked for
        self.erased: list[wire.Erased] = []
        self.version = 1
        self.stale: wire.Desired | None = None  # answered once, as a late list would be
        self.polls: list[int] = []  # the versions that pollers had
        self.reports: list[wire.Report] = []
        self.logs: dict[str, dict[int, str]] = {}
        self.chunks: list[wire.LogChunk] = []
        self.answer = 200  # what everybody gets, when it is not 200
        self.code = ""  # and the problem's code with it
        self.renew = False
        self.calls = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "ControlPlane":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.change()  # let polls go
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.02)

    # --- what a test says and asks ---------------------------------------------------------

    def want(self, spec: wire.ReplicaSpec) -> None:
        wish = wire.DesiredReplica(replica_id=spec.replica_id, run=True, spec=spec)
        self.change(lambda: self.wishes.update({spec.replica_id: wish}))

    def stop(self, replica_id: str, drain_s: float = 2.0) -> None:
        wish = wire.DesiredReplica(replica_id=replica_id, run=False, drain_s=drain_s)
        self.change(lambda: self.wishes.update({replica_id: wish}))

    def sleep(self, replica_id: str, asleep: bool = True) -> None:
        wish = msgspec.structs.replace(self.wishes[replica_id], sleep=asleep)
        self.change(lambda: self.wishes.update({replica_id: wish}))

    def unlist(self, replica_id: str) -> None:
        self.change(lambda: self.wishes.pop(replica_id))

    def change(self, what: Callable[[], object] = lambda: None) -> None:
        with self.lock:
            what()
            self.version += 1
            self.lock.notify_all()

    def desired(self) -> wire.Desired:
        return wire.Desired(
            version=self.version,
            replicas=list(self.wishes.values()),
            report_every_s=REPORT_EVERY_S,
            lease_s=1.0,
            pulls=self.pulls,
            erase=self.erase,
            agent=self.release,
        )

    def replica(self, replica_id: str) -> wire.ReplicaReport | None:
        """As the newest report has it."""
        if not self.reports:
            return None
        found = (r for r in self.reports[-1].replicas if r.replica_id == replica_id)
        return next(found, None)

    def wait_for(
        self, replica_id: str, phase: wire.Phase, within_s: float = 60.0
    ) -> wire.ReplicaReport:
        def there() -> bool:
            found = self.replica(replica_id)
            return found is not None and found.phase is phase

        wait_until(there, within_s)
        found = self.replica(replica_id)
        assert found is not None
        return found

    def wait_for_applied(self, within_s: float = 30.0) -> None:
        """Until a report has taken account of the newest wish list."""
        wait_until(
            lambda: self.reports and self.reports[-1].desired_version == self.version, within_s
        )

    # --- what it answers -------------------------------------------------------------------

    def enroll(self, body: bytes) -> Any:
        message = msgspec.json.decode(body, type=wire.EnrollRequest)
        if message.token not in self.tokens:
            return 401, {"title": "used", "detail": "This enrolment token has been used."}
        self.tokens.remove(message.token)
        return 200, self.certify(message.csr_pem)

    def certify(self, csr_pem: str) -> wire.Credential:
        certificate = authority.node_certificate(
            self.authority,
            authority.requested_key(csr_pem),
            node_id="node_1",
            now=datetime.now(UTC),
            lifetime=self.lifetime,
        )
        self.certificates.append(authority.sha256(certificate))
        return wire.Credential(
            node_id="node_1",
            region=REGION,
            pool="default",
            certificate_pem=authority.pem(certificate),
            ca_pem=self.authority.certificate_pem,
            expires_at=certificate.not_valid_after_utc.isoformat(),
        )

    def poll(self, query: dict[str, list[str]]) -> Any:
        have, wait_s = int(query["have"][0]), float(query["wait"][0])
        with self.lock:
            self.polls.append(have)
            if self.stale is not None and wait_s:
                stale, self.stale = self.stale, None
                return 200, stale
            self.lock.wait_for(lambda: self.version > have or self.stale, min(wait_s, 5))
            return 200, self.desired()

    def report(self, body: bytes) -> Any:
        with self.lock:
            self.reports.append(msgspec.json.decode(body, type=wire.Report))
            return 200, wire.ReportReply(lease_s=1.0, renew=self.renew, at=time.time())

    def bundle(self, sha256: str) -> Any:
        content = self.bundles.get(sha256)
        return (404, {"title": "none"}) if content is None else (200, content)

    def take_erased(self, body: bytes) -> Any:
        with self.lock:
            self.erased.append(msgspec.json.decode(body, type=wire.Erased))
        return 204, None

    def take_logs(self, body: bytes) -> Any:
        chunk = msgspec.json.decode(body, type=wire.LogChunk)
        with self.lock:
            self.chunks.append(chunk)
            lines = self.logs.setdefault(chunk.replica_id, {})
            for number, line in enumerate(chunk.lines, chunk.first_number):
                lines.setdefault(number, line)
        return 204, None

    def verified(self, method: str, path: str, headers: Any, body: bytes) -> str:
        """Empty, or why the caller is refused."""
        try:
            der = base64.b64decode(headers[wire.CERTIFICATE_HEADER])
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            assert isinstance(key, Ed25519PublicKey)
            signed = wire.signed_bytes(method, path, headers[wire.TIMESTAMP_HEADER], body)
            key.verify(base64.b64decode(headers[wire.SIGNATURE_HEADER]), signed)
        except (InvalidSignature, TypeError, ValueError):
            return "not signed"
        if authority.sha256(certificate) not in self.certificates[-2:]:
            return "superseded"
        if datetime.now(UTC) >= certificate.not_valid_after_utc:
            return "The node's certificate expired."
        return ""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # an agent that was killed
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(plane: ControlPlane) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(*self._route(b""))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self._answer(*self._route(body))

        def _route(self, body: bytes) -> Any:
            plane.calls += 1
            if plane.answer != 200:
                detail = f"told to answer {plane.answer}"
                return plane.answer, {"title": "no", "detail": detail, "code": plane.code}
            parts = urlsplit(self.path)
            name = parts.path.removeprefix("/agent/v1/")
            if name == "enroll":
                return plane.enroll(body)
            if refusal := plane.verified(self.command, self.path, self.headers, body):
                return 401, {"title": "Unauthorized", "detail": refusal}
            if name == "renew":
                plane.renew = False
                message = msgspec.json.decode(body, type=wire.RenewRequest)
                return 200, plane.certify(message.csr_pem)
            if name == "desired":
                return plane.poll(parse_qs(parts.query))
            if name.startswith("bundle/"):
                return plane.bundle(name.removeprefix("bundle/"))
            if name == "erased":
                return plane.take_erased(body)
            return plane.report(body) if name == "report" else plane.take_logs(body)

        def _answer(self, status: int, message: object) -> None:
            body = b"" if message is None else message
            if not isinstance(body, bytes):
                body = msgspec.json.encode(body)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
