"""The calls that an agent makes. It only ever calls out; nothing calls it.

An answer is one of: the message asked for; `Refused` (the credential is no good: join again);
`Gone` (the operator removed this node); `Rejected` (this one request is wrong); `Unavailable`
(try again later: engines serve on meanwhile).
"""

import ipaddress
import random
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from controlplane.fleet import wire
from workers.agent.credential import Identity

T = TypeVar("T")

CALL_TIMEOUT_S = 15.0
PREFIX = "/agent/v1"
CLOCK_SKEW = "clock_skew"  # a problem's code
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
        ca_file: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.identity = identity
        self._clock = clock
        self.url = checked(url)
        parts = urlsplit(self.url)
        self._base_path, self._origin = parts.path, f"{parts.scheme}://{parts.netloc}"
        self.tls = ssl.create_default_context(cafile=ca_file or None)
        self.trust_env = not _loopback(parts.hostname or "")  # a proxy is for the way out
        self._http = httpx.AsyncClient(
            base_url=self._origin,
            verify=self.tls,
            timeout=CALL_TIMEOUT_S,
            trust_env=self.trust_env,
            headers={"content-type": "application/json", **VERSION},
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

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

    async def logs(self, message: wire.LogChunk) -> None:
        await self._send("POST", "/logs", message)

    def signed(self, method: str, path: str, body: bytes) -> tuple[str, dict[str, str]]:
        """Address and headers of a request that somebody else sends. Raises Refused."""
        if self.identity is None:
            raise Refused("this node has not joined")
        target = f"{self._base_path}{PREFIX}{path}"
        headers = self.identity.headers(method, target, body, self._clock())
        return f"{self._origin}{target}", {**headers, **VERSION}

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
            response = await self._http.request(
                method, target, content=body, headers=headers, timeout=timeout_s
            )
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
