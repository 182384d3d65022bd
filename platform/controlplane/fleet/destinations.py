"""What an organization's containers may reach outside, as people write it. Pure: agents import it.

`api.example.com:443` is that host, `*.example.com:443` every host below it, and an address
(`192.0.2.7:8443`, `[2001:db8::7]:443`) is itself.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX = 200  # of an organization
MAX_LENGTH = 260

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LAST = re.compile(r"[a-z][a-z0-9-]*")  # what ends in a number is an address
_PARTS = re.compile(r"(?P<below>\*\.)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:*]+):(?P<port>[0-9]{1,5})")


class BadDestination(ValueError):
    """What is no destination, in a person's words."""


@dataclass(frozen=True)
class Destination:
    host: str  # in small letters; an address without brackets
    port: int
    below: bool = False  # every host below `host`, and not itself

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.below else ''}{shown}:{self.port}"

    def permits(self, host: str, port: int) -> bool:
        """`host` as `parse` leaves it."""
        if port != self.port:
            return False
        return host.endswith(f".{self.host}") if self.below else host == self.host


def parse(text: str) -> Destination:
    """Raises BadDestination."""
    found = _PARTS.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise BadDestination("expected host:port or *.host:port, such as `api.example.com:443`")
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise BadDestination("a port is a number from 1 to 65535")
    below = found["below"] is not None
    host = _host(found["host"])
    if below and ("." not in host or _is_address(host)):
        raise BadDestination("a `*.` stands before a name of two parts at least")
    return Destination(host, port, below)


def permitted(allowed: Iterable[Destination], host: str, port: int) -> bool:
    """Whether one of them permits it."""
    return any(one.permits(host, port) for one in allowed)


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise BadDestination("what stands in brackets is an IPv6 address") from None
    host = text.lower().removesuffix(".")
    if _is_address(host):
        return host
    if len(host) > 253 or not _NAME.fullmatch(host) or not _LAST.fullmatch(host.rpartition(".")[2]):
        raise BadDestination("a host is a name of a-z, 0-9, inner dashes and dots, or an address")
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
