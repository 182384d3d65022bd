"""The agent's end of a gang's network: packets of an engine's namespace, one at a time.

The interface was made by the engine's own start (launcher.isolation). Its other end is taken up
here by entering the namespace for a moment, in a thread that ends with it; so an agent that comes
back takes it up again, and the engine's connections never notice.
"""

import ctypes
import fcntl
import os
import socket
import struct
import threading

from workers.agent.launcher import isolation

_libc = ctypes.CDLL(None, use_errno=True)


class NotYet(Exception):
    """The engine has not raised its walls yet, or another agent still holds the end."""


def address(rank: int) -> str:
    """A member's address. Every gang has the same ones: no two gangs share a network."""
    return f"10.0.0.{rank + 1}"


def attach(pid: int) -> int:
    """A descriptor that reads and writes the packets of process `pid`'s gang interface, without
    waiting. The caller closes it. Raises NotYet, and OSError where the process is gone."""
    outcome: list[int | Exception] = []

    def enter() -> None:
        try:
            outcome.append(_enter(pid))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=enter, name=f"gang of {pid}", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _enter(pid: int) -> int:
    """In a thread of its own: the thread stays in the engine's namespace until it ends."""
    space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(space).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
            raise NotYet
        if _libc.setns(space, isolation.CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")
    finally:
        os.close(space)
    try:
        socket.if_nametoindex(isolation.GANG)  # or we would make one
    except OSError:
        raise NotYet from None
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        name = isolation.GANG.encode()
        fcntl.ioctl(end, isolation.TUNSETIFF, struct.pack("16sH22x", name, isolation.IFF_TUN_NO_PI))
    except OSError as error:
        os.close(end)
        raise NotYet from error
    return end
