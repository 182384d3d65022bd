"""Looking for a word in everything that an installation has on disk."""

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg

from tests.flows.stoa import Stoa
from workers.agent import processes
from workers.agent.environment import default_cache

_MEMORY = {"tmpfs", "ramfs", "proc", "sysfs", "devpts", "devtmpfs", "cgroup", "cgroup2", "mqueue"}


def flush(stoa: Stoa) -> None:
    """Bring what PostgreSQL and Valkey have in memory to their files."""
    password = (stoa.var / "secrets" / "postgres").read_text().strip()
    with psycopg.connect(
        host="127.0.0.1",
        port=int(stoa.env["STOA_POSTGRES_PORT"]),
        user="postgres",
        password=password,
        dbname="stoa",
        autocommit=True,
    ) as admin:
        admin.execute("CHECKPOINT")


def folders(stoa: Stoa) -> list[Path]:
    """All that is this installation's: its own folder, and what its agent keeps outside."""
    mine = processes.mark(stoa.var / "agent")[:6]
    outside = [*Path("/run/stoa").glob(f"*/{mine}"), default_cache() / "nodes" / mine]
    return [stoa.var.parent, *(folder for folder in outside if folder.exists())]


def files(stoa: Stoa) -> Iterator[Path]:
    """Below those folders; and whatever its processes hold open, deleted or not, or could dump."""
    for folder in folders(stoa):
        for where, _, names in os.walk(folder):
            yield from (Path(where, name) for name in names)
    for pid in stoa.leftovers():
        yield from _held(pid)


def _held(pid: int) -> Iterator[Path]:
    try:
        yield from Path(f"/proc/{pid}/cwd").resolve().glob("core*")
        yield from Path(f"/proc/{pid}/fd").iterdir()
    except OSError:
        return  # it has ended


def found(stoa: Stoa, words: Iterable[str]) -> dict[str, list[str]]:
    """The words that stand in a file on a disk, by file."""
    wanted = [word.encode() for word in words]
    disks = _disks()
    hits: dict[str, list[str]] = {}
    seen: set[tuple[int, int]] = set()
    for path in files(stoa):
        try:
            status = path.stat()
            if not _regular(path) or (status.st_dev, status.st_ino) in seen or not status.st_size:
                continue
            seen.add((status.st_dev, status.st_ino))
            if status.st_dev not in disks:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                here = [word.decode() for word in wanted if data.find(word) >= 0]
        except (OSError, ValueError):
            continue  # gone, or of another kind
        if here:
            hits[str(path.resolve())] = here
            _show(path, here)
    return hits


def _show(path: Path, words: list[str]) -> None:
    """For whoever reads a failed test: the lines of a log that say too much."""
    if path.suffix == ".log":
        for line in path.read_text(errors="replace").splitlines():
            if any(word in line for word in words):
                print(f"{path.name}: {line[:500]}")


def _regular(path: Path) -> bool:
    return path.is_file() and (str(path).startswith("/proc/") or not path.is_symlink())


def _disks() -> set[int]:
    """Devices of the file systems that are not memory."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] not in _MEMORY:
            major, _, minor = fields.split()[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return found
