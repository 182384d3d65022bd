"""Sending to an address that somebody else chose: over TLS, and never into our own network.

A name is resolved here and the connection goes to what was resolved, so that no second answer of
its name server leads elsewhere. Hosts in STOA_LOG_INNER_HOSTS are the operator's to allow.
"""

import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage

TIMEOUT_S = 10.0
MAX_URL = 1_000
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_FACILITY = 13  # log audit


class NotSent(Exception):
    """Why not, in a few words that tell nothing of inner networks but that it is one."""


class BadAddress(ValueError):
    """What cannot be sent to, in a person's words."""


@dataclass(frozen=True)
class Route:
    """Where to, and with what it is signed. Sealed at rest: an URL may hold a secret."""

    via: str
    address: str
    secret: str

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, raw: bytes) -> "Route":
        return cls(**json.loads(raw))

    @property
    def host(self) -> str:
        if self.via == "mail":
            return self.address.rpartition("@")[2]
        return urlsplit(self.address).hostname or ""


def check(via: str, address: str) -> None:
    """Raises BadAddress unless it is one of its kind; nothing is resolved or connected to."""
    if len(address) > MAX_URL or any(ord(each) <= 0x20 or ord(each) == 0x7F for each in address):
        raise BadAddress("an address has no blanks, and at most a thousand characters")
    if via == "mail":
        if not settings.EMAIL_HOST:
            raise BadAddress("this installation sends no mail (STOA_SMTP_HOST)")
        name, _, host = address.rpartition("@")
        if not name or "." not in host:
            raise BadAddress("expected an e-mail address")
        return
    schemes = {"webhook": ("https",), "syslog": ("syslog+tls", "syslog+tcp", "syslog+udp")}
    if via not in schemes:
        raise BadAddress("expected webhook, syslog or mail")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadAddress("that is no address") from None
    plain = via == "webhook" and parts.scheme == "http" and host in settings.LOG_INNER_HOSTS
    if parts.scheme not in schemes[via] and not plain:
        raise BadAddress(f"expected an address that begins with {schemes[via][0]}://")
    if not host or parts.username or parts.fragment or (via == "syslog" and not port):
        raise BadAddress("expected a host, with a port for syslog, and no user in it")


def post(route: Route, body: bytes, *, delivery: str, now: datetime) -> None:
    """A signed POST; taken means a status from 200 to 299. Redirects are not followed.

    `Stoa-Signature: t=SECONDS,v1=HEX`: HMAC-SHA-256 of `SECONDS.BODY` with the secret.
    """
    parts = urlsplit(route.address)
    seconds = str(int(now.timestamp()))
    mac = hmac.new(route.secret.encode(), seconds.encode() + b"." + body, hashlib.sha256)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Stoa",
        "Stoa-Delivery": delivery,
        "Stoa-Signature": f"t={seconds},v1={mac.hexdigest()}",
    }
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    tls = parts.scheme == "https"
    host, port = str(parts.hostname), parts.port or (443 if tls else 80)
    try:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        connection.sock = _connected(host, port, tls=tls)
        try:
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise NotSent(_words(error)) from error
    if not 200 <= status < 300:
        raise NotSent(f"the answer was {status}")


def syslog(route: Route, messages: Sequence[tuple[datetime, str, bool, str]]) -> None:
    """RFC 5424 (time, message id, well, text): over TLS or TCP with counted octets, or UDP.

    Syslog acknowledges nothing: what was handed to the network counts as sent.
    """
    parts = urlsplit(route.address)
    host, port = str(parts.hostname), int(parts.port or 0)
    frames = [_frame(*message) for message in messages]
    try:
        if parts.scheme == "syslog+udp":
            family, address = _resolved(host, port, socket.SOCK_DGRAM)
            with socket.socket(family, socket.SOCK_DGRAM) as out:
                for frame in frames:
                    out.sendto(frame, (address, port))
            return
        with _connected(host, port, tls=parts.scheme == "syslog+tls") as stream:
            stream.sendall(b"".join(b"%d %s" % (len(frame), frame) for frame in frames))
            stream.shutdown(socket.SHUT_WR)
    except OSError as error:
        raise NotSent(_words(error)) from error


def mail(route: Route, subject: str, text: str) -> None:
    try:
        EmailMessage(subject, text, to=[route.address]).send()
    except OSError as error:  # smtplib's are
        raise NotSent(_words(error)) from error


def _frame(at: datetime, message_id: str, well: bool, text: str) -> bytes:
    priority = _FACILITY * 8 + (6 if well else 4)
    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"<{priority}>1 {stamp} {settings.LOG_ORIGIN} stoa - {message_id} - {text}".encode()


def _connected(host: str, port: int, *, tls: bool) -> socket.socket:
    family, address = _resolved(host, port, socket.SOCK_STREAM)
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(TIMEOUT_S)
        plain.connect((address, port))
        if not tls:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _resolved(host: str, port: int, kind: int) -> tuple[int, str]:
    """The first address, which must be of the internet unless the operator named the host."""
    found = socket.getaddrinfo(host, port, type=kind)
    family, address = found[0][0], str(found[0][4][0])
    if host not in settings.LOG_INNER_HOSTS and not public(address):
        raise NotSent("the address is of an inner network")
    return int(family), address


def public(address: str) -> bool:
    """Whether it is of the internet, also where IPv6 carries an IPv4 one."""
    one = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(one, ipaddress.IPv6Address):
        if one.ipv4_mapped:
            one = one.ipv4_mapped
        elif one.sixtofour:
            one = one.sixtofour
        elif one in _NAT64:
            one = ipaddress.IPv4Address(int(one) & 0xFFFFFFFF)
    return one.is_global and not one.is_multicast


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"[:200]
    if isinstance(error, socket.gaierror):
        return "the name has no address"
    return "the connection failed" if isinstance(error, OSError) else "no HTTP answer"
