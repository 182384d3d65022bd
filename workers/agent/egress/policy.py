"""Whether a replica may reach an address. Names are resolved here, once, and never again."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from controlplane.fleet import destinations
from workers.agent.egress import RULES, Rules

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# host, port → addresses. Raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Outcome(StrEnum):
    """How a connection ended, or why there was none."""

    REACHED = "reached"
    NOT_ALLOWED = "not_allowed"  # the organization's list does not have it
    PRIVATE = "private"  # the name leads into a network that is not the internet
    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"  # what was sent is no request to a proxy
    BUSY = "busy"  # too many at once


class Denied(Exception):
    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Policy:
    """The rules of one replica, as the file has them now. Without a file nothing is allowed."""

    def __init__(self, directory: Path, resolve: Resolve | None = None) -> None:
        self._path = directory / RULES
        self._resolve = resolve or system
        self._seen: tuple[int, int, int] | None = None
        self.rules = Rules()
        self._allowed: tuple[destinations.Destination, ...] = ()
        self._networks: tuple[Network, ...] = ()

    def refresh(self) -> None:
        """Read the file anew if it is another. One that cannot be read allows nothing."""
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return
            rules = msgspec.json.decode(self._path.read_bytes(), type=Rules)
            allowed = tuple(destinations.parse(one) for one in rules.allow)
            networks = tuple(ipaddress.ip_network(one) for one in rules.networks)
        except (OSError, ValueError):
            seen, rules, allowed, networks = None, self.rules, (), ()
        self._seen, self.rules = seen, rules
        self._allowed, self._networks = allowed, networks

    def permits(self, host: str, port: int) -> bool:
        return destinations.permitted(self._allowed, host, port)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to. Raises Denied."""
        if not self.permits(host, port):
            message = f"{host}:{port} is not on the organization's list"
            raise Denied(Outcome.NOT_ALLOWED, message)
        try:
            found = await self._resolve(host, port)
        except OSError:
            raise Denied(Outcome.UNRESOLVED, f"{host} has no address") from None
        open_ones = [one for one in found if self.is_open(one)]
        if not open_ones:
            message = f"{host} leads into a private network"
            raise Denied(Outcome.PRIVATE if found else Outcome.UNRESOLVED, message)
        return open_ones

    def is_open(self, text: str) -> bool:
        """An address of the internet, or of a network that the operator named; not this machine's
        own, whose ports are not meant by a network that it happens to lie in."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        address = _meant(address)
        if any(address in one for one in self._networks if one.version == address.version):
            return address.is_loopback or not _ours(address)
        if not address.is_global or address.is_multicast or address.is_reserved:
            return False
        return not _ours(address)


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _ours(address: Address) -> bool:
    """Whether it is this machine's own, under whichever name: only those can be bound to."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


async def system(host: str, port: int) -> list[str]:
    """As this machine resolves it."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))
