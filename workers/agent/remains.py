"""What an engine's user id leaves behind outside of its own folders, on the whole machine.

Files in the folders that anybody may write to (POSIX shared memory and queues among them), and
System V's shared memory, queues and semaphores, which the kernel keeps until somebody removes them.
A user id is given out again, so what is left under it would be its next engine's to read.
"""

import contextlib
import ctypes
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = tuple(map(Path, ("/dev/shm", "/dev/mqueue", "/tmp", "/var/tmp", "/run/lock")))

_SYSVIPC = Path("/proc/sysvipc")
_IPC_RMID = 0
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Remain:
    what: str  # "file", "shm", "msg", "sem"
    name: str  # a path, or the kernel's number
    uid: int
    bytes: int = 0

    def __str__(self) -> str:
        return self.name if self.what == "file" else f"sysv {self.what} {self.name}"


def find(theirs: Callable[[int], bool]) -> list[Remain]:
    """All that belongs to a uid of which `theirs` is true."""
    return [*_files(theirs), *_sysv(theirs)]


def erase(remain: Remain) -> bool:
    """Remove it; whether it is gone. Root only, or its owner."""
    if remain.what == "file":
        path = Path(remain.name)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return not path.is_symlink() and not path.exists()
    number = int(remain.name)
    if remain.what == "sem":
        return bool(_libc.semctl(number, 0, _IPC_RMID, None) == 0)
    control = _libc.shmctl if remain.what == "shm" else _libc.msgctl
    return bool(control(number, _IPC_RMID, None) == 0)


def erase_all(uid: int) -> None:
    """As far as it can be."""
    for remain in find(lambda owner: owner == uid):
        erase(remain)


def _files(theirs: Callable[[int], bool]) -> Iterator[Remain]:
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                with contextlib.suppress(OSError):
                    found = path.lstat()
                    if theirs(found.st_uid):
                        yield Remain("file", str(path), found.st_uid, found.st_size)


def _sysv(theirs: Callable[[int], bool]) -> Iterator[Remain]:
    for what, number in (("shm", "shmid"), ("msg", "msqid"), ("sem", "semid")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            head, *lines = (_SYSVIPC / what).read_text().splitlines()
            names = head.split()
            for line in lines:
                row = dict(zip(names, map(int, line.split()), strict=False))
                owner = next((u for u in (row["uid"], row["cuid"]) if theirs(u)), None)
                if owner is not None:
                    size = row.get("size", 0)
                    yield Remain(what, str(row[number]), owner, size)
