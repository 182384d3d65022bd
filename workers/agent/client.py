"""The calls that an agent makes. It only ever calls out; nothing calls it.

An answer is one of: the message asked for; `Refused` (the credential is no good: join again);
`Gone` (the operator removed this node); `Rejected` (this one request is wrong); `Unavailable`
(try again later: engines serve on meanwhile).
"""

import ipaddress
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from controlplane.fleet import wire
from workers.agent import tls
from workers.agent.credential import Identity

T = TypeVar("T")

CALL_TIMEOUT_S = 15.0
PREFIX = "/agent/v1"
CLOCK_SKEW = "clock_skew"  # a problem's code
_NO_TLS = ssl.create_default_context()
VERSION = {wire.VERSION_HEADER: str(wire.VERSION)}


class CallError(Exception):
    """A call that did not bring what it asked for; the message is for a person."""


class Refused(CallError):
    """401: the control plane does not take this node's credential (or its token)."""


class Gone(CallError):
    """410: the node was removed."""


class Rejected(CallError):
    """Another 4xx: repeating the same request is of no use."""


class Unavailable(CallError):
    """No answer, or one that says "later"."""


class InsecureAddress(CallError):
    """Plain http beyond this machine would show credentials to the network."""


class Backoff:
    """How long to wait before the next try: doubling with full jitter, up to `cap_s`."""

    def __init__(self, cap_s: float, base_s: float = 0.25) -> None:
        self.cap_s, self.base_s, self.failures = cap_s, base_s, 0

    def next(self) -> float:
        self.failures += 1
        most = min(self.cap_s, self.base_s * 2 ** min(self.failures, 16))
        return random.uniform(most / 2, most)

    def reset(self) -> None:
        self.failures = 0


def checked(url: str) -> str:
    """`url` without its last slash. Raises InsecureAddress, or ValueError for what is no URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a control plane's address: expected https://host")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise InsecureAddress(
            f"{url} is not encrypted: use https:// for every host but this machine"
        )
    return url.rstrip("/")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Client:
    """Calls to one control plane, as `identity` once there is one."""

    def __init__(
        self,
        url: str,
        identity: Identity | None = None,
        *,
        authority_pem: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self.url = checked(url)
        parts = urlsplit(self.url)
        self._base_path, self._origin = parts.path, f"{parts.scheme}://{parts.netloc}"
        self._secure = parts.scheme == "https"
        self.trust_env = not _loopback(parts.hostname or "")  # a proxy is for the way out
        self._authority_pem = identity.credential.ca_pem if identity else authority_pem
        if self._secure and not self._authority_pem:
            raise InsecureAddress(f"{url}: the pin of its authority is missing")
        self._flying: Counter[httpx.AsyncClient] = Counter()
        self.use(identity)

    def use(self, identity: Identity | None) -> None:
        """Call as `identity` from now on: a connection that shows another is used no more."""
        old = getattr(self, "_http", None)
        # Without TLS, on this machine alone, what the context is matters to nobody.
        context = tls.to_door(self._authority_pem, identity) if self._secure else _NO_TLS
        self._as = (identity, context)  # in one step: threads sign too
        self._http = httpx.AsyncClient(
            base_url=self._origin,
            verify=self.tls,
            timeout=CALL_TIMEOUT_S,
            trust_env=self.trust_env,
            headers={"content-type": "application/json", **VERSION},
        )
        if old is not None:
            self._flying.setdefault(old, 0)

    @property
    def identity(self) -> Identity | None:
        return self._as[0]

    @property
    def tls(self) -> ssl.SSLContext:
        return self._as[1]

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for http in {self._http, *self._flying}:
            await http.aclose()

    async def _request(
        self, method: str, target: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        http = self._http
        self._flying[http] += 1
        try:
            return await http.request(
                method, target, content=body, headers=headers, timeout=timeout_s
            )
        finally:
            self._flying[http] -= 1
            for idle in [one for one, calls in self._flying.items() if calls == 0]:
                del self._flying[idle]
                if idle is not self._http:
                    await idle.aclose()

    async def enroll(self, message: wire.EnrollRequest) -> wire.Credential:
        return decode(await self._send("POST", "/enroll", message, signed=False), wire.Credential)

    async def renew(self, message: wire.RenewRequest) -> wire.Credential:
        return decode(await self._send("POST", "/renew", message), wire.Credential)

    async def desired(self, have: int, wait_s: float) -> wire.Desired:
        """The wish list once it is newer than `have`, or after `wait_s` whatever it is."""
        path = f"/desired?have={have}&wait={wait_s:g}"
        content = await self._send("GET", path, timeout_s=wait_s + CALL_TIMEOUT_S)
        return decode(content, wire.Desired)

    async def report(self, message: wire.Report) -> wire.ReportReply:
        return decode(await self._send("POST", "/report", message), wire.ReportReply)

    async def erased(self, message: wire.Erased) -> None:
        await self._send("POST", "/erased", message)

    async def logs(self, message: wire.LogChunk) -> None:
        await self._send("POST", "/logs", message)

    def signed(
        self, method: str, path: str, body: bytes
    ) -> tuple[str, dict[str, str], ssl.SSLContext]:
        """Address, headers and TLS of a request that somebody else sends. Raises Refused."""
        identity, context = self._as
        if identity is None:
            raise Refused("this node has not joined")
        target = f"{self._base_path}{PREFIX}{path}"
        headers = identity.headers(method, target, body, self._clock())
        return f"{self._origin}{target}", {**headers, **VERSION}, context

    async def _send(
        self,
        method: str,
        path: str,
        message: wire.Message | None = None,
        *,
        signed: bool = True,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> bytes:
        body = b"" if message is None else msgspec.json.encode(message)
        target = f"{self._base_path}{PREFIX}{path}"
        headers: dict[str, str] = {}
        identity = self.identity
        if signed:
            if identity is None:
                raise Refused("this node has not joined")
            headers = identity.headers(method, target, body, self._clock())
        try:
            response = await self._request(method, target, body, headers, timeout_s)
        except httpx.HTTPError as error:
            raise Unavailable(f"no answer: {error or type(error).__name__}") from error
        if response.status_code == 401 and self.identity is not identity:
            raise Unavailable("the certificate was renewed while this call was under way")
        raise_for(response)
        return response.content


def decode(content: bytes, message: type[T]) -> T:
    """Raises Unavailable for what is no such message."""
    try:
        return msgspec.json.decode(content, type=message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"an answer that is none of ours: {error}") from error


def raise_for(response: httpx.Response) -> None:
    """Raises the CallError that an answer is, or nothing."""
    status = response.status_code
    if 200 <= status < 300:
        return
    problem = _problem(response)
    text = problem.get("detail") or problem.get("title")
    detail = f"{text} (HTTP {status})" if text else f"HTTP {status}"
    if status == 401 and problem.get("code") == CLOCK_SKEW:
        raise Unavailable(detail)  # a clock can be set; a new credential would not help
    if status == 401:
        raise Refused(detail)
    if status == 410:
        raise Gone(detail)
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise Rejected(detail)
    raise Unavailable(detail)


def _problem(response: httpx.Response) -> dict[str, object]:
    """The problem document of an answer, empty where it has none."""
    try:
        return msgspec.json.decode(response.content, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
