"""The sockets on which clients come, bound by the master and never closed while it serves.

Each worker accepts from a socket of its own (SO_REUSEPORT: the kernel spreads the clients). A
socket that is closed resets who waits in its queue, so a worker's successor gets the same one.
"""

import contextlib
import socket


def bind(host: str, port: int, count: int) -> list[list[int]]:
    """`count` sockets for each address of `host`, bound and not listening. Raises OSError."""
    groups: list[list[int]] = [[] for _ in range(count)]
    try:
        for family, kind, protocol, _, address in _addresses(host, port):
            if port:
                # SO_REUSEPORT would let two gateways share a port that one has by mistake.
                _bound(family, kind, protocol, address, shared=False).close()
            for group in groups:
                sock = _bound(family, kind, protocol, (address[0], port, *address[2:]), shared=True)
                group.append(sock.detach())
                if not port:
                    with socket.socket(fileno=socket.dup(group[-1])) as again:
                        port = again.getsockname()[1]
    except OSError:
        close(groups)
        raise
    return groups


def more(groups: list[list[int]], count: int) -> None:
    """As many groups again as are missing, on the same addresses. Raises OSError."""
    while len(groups) < count:
        group: list[int] = []
        groups.append(group)
        for fd in groups[0]:
            with socket.socket(fileno=socket.dup(fd)) as first:
                sock = _bound(
                    first.family, first.type, first.proto, first.getsockname(), shared=True
                )
                group.append(sock.detach())


def share(groups: list[list[int]], slot: int, slots: int) -> tuple[int, ...]:
    """What of `groups` a slot serves: all of it is served, however few slots are left."""
    return tuple(fd for group in groups[slot::slots] for fd in group)


def close(groups: list[list[int]]) -> None:
    for group in groups:
        for fd in group:
            with contextlib.suppress(OSError):
                socket.close(fd)
    groups.clear()


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


def _bound(
    family: int, kind: int, protocol: int, address: tuple[str, int], *, shared: bool
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
