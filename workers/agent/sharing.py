"""Which agents of this machine use a cache: what they share is nobody's to erase."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_FOLDER = "agents"


@contextlib.contextmanager
def using(cache: Path, mark: str) -> Iterator[None]:
    """Say that the agent of `mark` uses the cache; the kernel lets go however it ends."""
    folder = cache / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / mark, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def others(cache: Path, mark: str) -> bool:
    """Whether another agent than that of `mark` runs on the cache."""
    return any(path.name != mark and _taken(path) for path in (cache / _FOLDER).glob("*"))


def _taken(path: Path) -> bool:
    try:
        with path.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
