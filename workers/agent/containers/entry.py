"""Secret variables on their way into a container, past every disk.

What a container is made with, the engine of containers writes down. So secrets are no part of
that: the container's first program is a shell of ours, which reads them from a named pipe, whose
bytes exist in memory alone, and then becomes the image's own program. An image need not have any
shell: a busybox that needs no library of it is lent to it, read-only.
"""

import os
import re
import shlex
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.agent.containers.isolation import Mount

SHELL, PIPE = Path("/stoa/busybox"), Path("/stoa/secrets")
WAIT_S = 30.0  # for the container's first program to ask for them

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTERPRETER = 3  # PT_INTERP, of an ELF file's program headers


class EntryError(Exception):
    """Secrets that cannot be handed over; for a person."""


def shell() -> Path | None:
    """A busybox of this node that needs no shared library, or None."""
    for place in ("/bin/busybox", "/usr/bin/busybox", shutil.which("busybox") or ""):
        path = Path(place)
        if place and path.is_file() and _static(path):
            return path.resolve()
    return None


def make_pipe(path: Path, uid: int) -> None:
    """A named pipe that the container alone may read."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o400)
    os.chown(path, uid, uid)


def around(command: Sequence[str]) -> list[str]:
    """The command that fetches the secrets and becomes `command`."""
    return [str(SHELL), "sh", "-c", f'. {PIPE} && exec "$@"', "stoa", *command]


def mounts(found: Path, pipe: Path) -> list[Mount]:
    return [Mount(found, SHELL), Mount(pipe, PIPE)]


def check(secrets: Mapping[str, str]) -> None:
    """Raises EntryError for what cannot be an environment variable."""
    for name, value in secrets.items():
        if not _NAME.fullmatch(name):
            raise EntryError(f"{name!r} cannot be the name of a variable")
        if "\0" in value:
            raise EntryError(f"{name} holds a NUL, which no variable can")


def hand_over(pipe: Path, secrets: Mapping[str, str], pid: int) -> None:
    """Write them once the container's first program, `pid`, reads. Raises EntryError."""
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items())
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:  # ENXIO: nobody reads yet
            if time.monotonic() > deadline or not Path(f"/proc/{pid}").exists():
                raise EntryError("the container never asked for its secrets") from error
            time.sleep(0.005)
    os.set_blocking(handle, True)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
    except BrokenPipeError as error:
        raise EntryError("the container ended while it read its secrets") from error
    pipe.unlink(missing_ok=True)


def _static(path: Path) -> bool:
    """Whether it is a 64-bit ELF program without an interpreter, and so without libraries."""
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":
            return False
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        headers = file.read(size * count)
    kinds = (struct.unpack_from("<I", headers, size * i)[0] for i in range(count))
    return _INTERPRETER not in kinds
