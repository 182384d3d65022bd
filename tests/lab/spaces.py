"""Doing something inside the namespaces of another process."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_FS, _MOUNT, _UTS, _IPC, _PID = 0x200, 0x20000, 0x4000000, 0x8000000, 0x20000000
NETWORK = 0x40000000
EVERYTHING = NETWORK | _MOUNT | _UTS | _IPC | _PID

_libc = ctypes.CDLL(None, use_errno=True)


def within(pid: int, act: Callable[[], T], spaces: int = EVERYTHING) -> T:
    """What `act` returns or raises, in a thread that has entered `spaces` of process `pid`.

    A program that it starts runs in there, and is a child of ours with a pid of ours. A socket
    that it opens stays one of that network, whoever uses it.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(pid, spaces)
            outcome.append(act())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name=f"within {pid}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _enter(pid: int, spaces: int) -> None:
    """The thread stays there until it ends."""
    handle = os.pidfd_open(pid)
    try:
        # A thread that shares its root directory with others may not change its mounts.
        if _libc.unshare(_FS) != 0 or _libc.setns(handle, spaces) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"entering the namespaces of {pid}: {os.strerror(number)}")
    finally:
        os.close(handle)
