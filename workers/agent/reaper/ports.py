"""Where a process listens, of whatever network it is."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"
_UNIX_LISTENING = 0x10000  # __SO_ACCEPTCON


def of(pid: int) -> list[str]:
    """`127.0.0.1:8000`, `[::]:8000` or the path of a unix socket, sorted."""
    folder = _PROC / str(pid)
    mine = _inodes(folder)
    return sorted({where for inode, where in _listeners(folder / "net") if inode in mine})


def _inodes(folder: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _listeners(net: Path) -> Iterator[tuple[str, str]]:
    for name in ("tcp", "tcp6"):
        for line in _lines(net / name):
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENING:
                yield fields[9], _address(fields[1])
    for line in _lines(net / "unix"):
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _UNIX_LISTENING:
            yield fields[6], fields[7]


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").splitlines()[1:]
    return []


def _address(text: str) -> str:
    """The kernel writes an address as words of this machine's byte order, in hexadecimal."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"
