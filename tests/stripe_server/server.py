"""A Stripe of our own over real HTTP: stateful, strict about parameters, and unreliable on demand.

    with serving(FakeStripe(clock=lambda: NOW)) as stripe: ... stripe.url ...

Every POST keeps its first result under its Idempotency-Key for a day, a 500 included, as Stripe's
v1 does; refusals of parameters and 429 are not kept. The same key with other parameters, or while
the first request still runs, is an error.
"""

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import stripe as library

from tests.stripe_server import params
from tests.stripe_server.problems import Problem, invalid
from tests.stripe_server.routes import ROUTES, Route
from tests.stripe_server.store import DAY_S, Obj, Store

KEY = "sk_test_51StoaTests"
# What can go wrong with a request, before (nothing happened) or after (it did) it was done.
FAULTS = ("500_before", "500_after", "cut_before", "cut_after", "429", "hang_after")


@dataclass
class Answer:
    status: int
    body: Obj
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Kept:
    fingerprint: str
    at: int
    answer: Answer | None = None  # None: still being done


class Cut(Exception):
    """Closes the connection without an answer."""


@dataclass
class FakeStripe:
    """`fault` is asked before each request (method, path) for one of FAULTS, or ""."""

    clock: Callable[[], datetime]
    fault: Callable[[str, str], str] = lambda _method, _path: ""
    livemode: bool = False
    url: str = ""
    requests: list[tuple[str, str, Obj]] = field(default_factory=list)
    resume: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def __post_init__(self) -> None:
        self.store = Store(self.clock, self.livemode)
        self._kept: dict[str, _Kept] = {}

    def answer(self, method: str, target: str, body: str, headers: Any) -> Answer:
        """One request. Raises Cut where the connection is to break."""
        path = urlsplit(target).path
        fault = self.fault(method, path)
        if fault == "cut_before":
            raise Cut
        if fault == "429":
            return _refused(
                Problem(429, "invalid_request_error", "Too many requests", "rate_limit")
            )
        try:
            route, ids = self._prepare(method, path, headers)
            given = params.check(
                params.decode(body if method == "POST" else urlsplit(target).query), route.params
            )
        except Problem as problem:
            return _refused(problem)
        with self.store.lock:
            self.requests.append((method, path, given))
        key = headers.get("Idempotency-Key", "")
        if method != "POST" or not key:
            return self._run(route, given, ids, fault)
        return self._once(key, route, given, ids, f"{method} {path} {body}", fault)

    def _prepare(self, method: str, path: str, headers: Any) -> tuple[Route, tuple[str, ...]]:
        if headers.get("Authorization") != f"Bearer {KEY}":
            raise Problem(401, "invalid_request_error", "Invalid API Key provided")
        if headers.get("Stripe-Version") != library.api_version:
            raise invalid(f"Invalid Stripe API version: {headers.get('Stripe-Version')}")
        for route in ROUTES:
            if route.method == method and (match := route.path.fullmatch(path)):
                return route, match.groups()
        raise invalid(f"Unrecognized request URL ({method}: {path}).", status=404)

    def _once(
        self, key: str, route: Route, given: Obj, ids: tuple[str, ...], asked: str, fault: str
    ) -> Answer:
        fingerprint = hashlib.sha256(asked.encode()).hexdigest()
        if len(key) > 255:
            return _refused(invalid("Idempotency-Key: at most 255 characters"))
        with self.store.lock:
            kept = self._kept.get(key)
            if kept and kept.at <= self.store.now() - DAY_S:
                kept = None  # pruned
            if kept is None:
                kept = self._kept[key] = _Kept(fingerprint, self.store.now())
            elif kept.fingerprint != fingerprint:
                message = (
                    "Keys for idempotent requests can only be used with the same parameters"
                    " they were first used with."
                )
                return _refused(Problem(400, "idempotency_error", message))
            elif kept.answer is None:
                message = "There is currently another in-progress request using this key."
                return _refused(
                    Problem(409, "idempotency_error", message, "idempotency_key_in_use")
                )
            elif fault in ("cut_after", "hang_after"):
                raise Cut
            else:
                answer = kept.answer
                return Answer(answer.status, answer.body, {"Idempotent-Replayed": "true"})
        try:
            return self._run(route, given, ids, fault, kept)
        finally:
            with self.store.lock:
                if kept.answer is None:  # refused before it began
                    self._kept.pop(key, None)

    def _run(
        self,
        route: Route,
        given: Obj,
        ids: tuple[str, ...],
        fault: str,
        kept: _Kept | None = None,
    ) -> Answer:
        broken = Answer(500, Problem(500, "api_error", "An unknown error occurred").body())
        with self.store.lock:
            if fault == "500_before":
                answer = broken
            else:
                try:
                    answer = Answer(200, _shown(route.handler(self.store, given, *ids)))
                except Problem as problem:
                    answer = _refused(problem)
            if fault == "500_after":
                answer = broken
            if kept and answer.status not in (400, 404):
                kept.answer = answer
        if fault == "hang_after":
            self.resume.wait(timeout=60)
        if fault in ("cut_after", "hang_after"):
            raise Cut
        return answer


def _shown(value: Any) -> Any:
    """A copy without what only the fake knows."""
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [_shown(one) for one in value]
    return value


def _refused(problem: Problem) -> Answer:
    return Answer(problem.status, _shown(problem.body()))


@contextlib.contextmanager
def serving(fake: FakeStripe) -> Iterator[FakeStripe]:
    """Serves it on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            try:
                answer = fake.answer(self.command, self.path, body, self.headers)
            except Cut:
                self.close_connection = True
                return
            content = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Request-Id", f"req_{secrets.token_hex(7)}")
            self.send_header("Stripe-Version", library.api_version)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _serve

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        fake.resume.set()
        server.shutdown()
        server.server_close()
        thread.join()
