"""HTTP to sources: what they answer, in our words. The errors hold no header and no address."""

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Iterator, Mapping
from urllib.parse import urljoin, urlsplit

import httpx

from workers.agent.weights.download import Body
from workers.agent.weights.errors import Denied, Missing, Unreachable

CONNECT_S = 10.0
READ_S = 30.0
MAX_LISTING_BYTES = 64 << 20
_HOPS = 5
_RANGE = re.compile(r"bytes (\d+)-\d+/")


def client(url: str, tls: ssl.SSLContext | None = None) -> httpx.Client:
    """For one source. A proxy of the environment is for the way out, not for this machine."""
    verify: ssl.SSLContext | bool = True if tls is None else tls
    return httpx.Client(
        verify=verify,
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        trust_env=not _loopback(urlsplit(url).hostname or ""),
        headers={"user-agent": "stoa-agent"},
    )


def content(http: httpx.Client, what: str, url: str, headers: Mapping[str, str]) -> bytes:
    """The whole body of a small answer. Raises ModelError."""
    with _sent(http, "GET", what, url, headers) as response:
        found = bytearray()
        for chunk in _chunks(response, what):
            found += chunk
            if len(found) > MAX_LISTING_BYTES:
                raise Unreachable(f"{what}: the source's answer is too long")
        return bytes(found)


@contextlib.contextmanager
def body(
    http: httpx.Client, what: str, url: str, headers: Mapping[str, str], start: int
) -> Iterator[Body]:
    """A file from `start` on, or from its beginning where the source cannot resume."""
    ranged = {**headers, "accept-encoding": "identity"}
    if start:
        ranged["range"] = f"bytes={start}-"
    with _sent(http, "GET", what, url, ranged) as response:
        begins = 0
        if response.status_code == 206:
            told = _RANGE.match(response.headers.get("content-range", ""))
            begins = int(told[1]) if told else start
        yield Body(begins, _chunks(response, what))


def allowed(http: httpx.Client, what: str, url: str, headers: Mapping[str, str]) -> None:
    """Ask for a file without its bytes. Raises Denied, Missing or Unreachable."""
    with _sent(http, "HEAD", what, url, headers, to_others=False):
        pass


@contextlib.contextmanager
def _sent(
    http: httpx.Client,
    method: str,
    what: str,
    url: str,
    headers: Mapping[str, str],
    *,
    to_others: bool = True,
) -> Iterator[httpx.Response]:
    """An answer below 400. Credentials stay with the host that they are for; `to_others`: follow
    to other hosts, where files lie."""
    sent, home = dict(headers), url
    for _ in range(_HOPS):
        try:
            with http.stream(method, url, headers=sent) as response:
                if response.is_redirect:
                    url = urljoin(url, response.headers.get("location", ""))
                    if _origin(url) != _origin(home):
                        if not to_others:
                            yield response
                            return
                        sent = {k: v for k, v in sent.items() if k in ("range", "accept-encoding")}
                    _check_way(home, url, what)
                    continue
                _raise_for(response, what)
                yield response
                return
        except httpx.HTTPError as error:
            raise Unreachable(f"{what}: no answer ({type(error).__name__})") from None
    raise Unreachable(f"{what}: the source sends us in circles")


def _chunks(response: httpx.Response, what: str) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx.HTTPError as error:
        raise Unreachable(f"{what}: the connection broke ({type(error).__name__})") from None


def _raise_for(response: httpx.Response, what: str) -> None:
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if status < 400:
        return
    if status == 404 or code in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        raise Missing(f"{what}: the source has no such model, or not for these credentials")
    if status in (401, 403):
        raise Denied(f"{what}: the source refuses it to these credentials (HTTP {status})")
    raise Unreachable(f"{what}: the source answered HTTP {status}")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _check_way(home: str, url: str, what: str) -> None:
    """A source may not lead us from the encrypted way, nor a remote one into this machine."""
    there = urlsplit(url)
    if there.scheme not in ("http", "https") or not there.hostname:
        raise Unreachable(f"{what}: the source sends us to no address")
    if urlsplit(home).scheme == "https" and there.scheme != "https":
        raise Unreachable(f"{what}: the source sends us to an unencrypted address")
    if _inside(there.hostname) and not _inside(urlsplit(home).hostname or ""):
        raise Unreachable(f"{what}: the source sends us to an inner address")


def _inside(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
