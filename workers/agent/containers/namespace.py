"""Sockets in a container's network, made by a process that stays outside.

A socket belongs to the network namespace that its maker was in when it was made. So this process
steps in for one system call and out again; nothing else of it ever runs inside.
"""

import ctypes
import os
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket

from workers.agent.launcher import isolation

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """The network namespace of process `pid`. For a process with one thread that makes sockets."""

    def __init__(self, pid: int) -> None:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._inside = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def connection(self) -> socket:
        """A TCP socket in it, that does not block. Raises OSError."""
        _enter(self._inside)
        try:
            made = socket(AF_INET, SOCK_STREAM)
        finally:
            try:
                _enter(self._outside)
            except OSError:
                os._exit(70)  # never to go on from inside
        made.setblocking(False)
        return made

    def listen(self, port: int) -> socket:
        """A listener on its loopback. Raises OSError."""
        made = self.connection()
        made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen(128)
        return made


def _enter(space: int) -> None:
    if _libc.setns(space, isolation.CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
