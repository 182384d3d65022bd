"""The openb trace: nodes and pods of a production cluster, as files of comma-separated values."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NODE_FIELDS = ("sn", "cpu_milli", "memory_mib", "gpu")
POD_FIELDS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Pod:
    """`milli`: thousandths of each of its GPUs."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    milli: int

    @property
    def demand(self) -> int:
        return self.gpus * self.milli


def machines(path: Path) -> list[Machine]:
    """Those with GPUs. Raises SystemExit that says what is wrong with the file."""
    rows = _rows(path, NODE_FIELDS)
    found = [
        Machine(row["sn"], *(_number(path, row, name) for name in NODE_FIELDS[1:])) for row in rows
    ]
    if not any(one.gpus for one in found):
        raise SystemExit(f"{path}: no node has a GPU")
    return [one for one in found if one.gpus]


def pods(path: Path) -> list[Pod]:
    """Those that ask for GPUs; of several GPUs each is asked for whole."""
    found = [
        Pod(*(_number(path, row, name) for name in POD_FIELDS[1:]))
        for row in _rows(path, POD_FIELDS)
        if _number(path, row, "num_gpu")
    ]
    if not found:
        raise SystemExit(f"{path}: no pod asks for a GPU")
    for one in found:
        if not 1 <= one.milli <= 1000 or (one.gpus > 1 and one.milli < 1000):
            raise SystemExit(f"{path}: {one}: a share is 1 to 1000 thousandths of one GPU")
    return found


def _rows(path: Path, fields: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}") from None
    missing = [name for name in fields if not rows or name not in rows[0]]
    if missing:
        raise SystemExit(f"{path}: has no column {', '.join(missing)}, or no row")
    return rows


def _number(path: Path, row: dict[str, str], name: str) -> int:
    try:
        return int(row[name])
    except (ValueError, TypeError):
        raise SystemExit(f"{path}: {name} is {row[name]!r}, not a number") from None
