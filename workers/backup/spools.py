"""What gateways have not shipped yet, copied while they serve; and put back, once.

A copy is taken as the files are: a record that is being written ends it early, by its checksum. A
segment that goes while we look was shipped, and is in the database that is dumped after this. Not
copied: cursors (all is shipped again, and counted once), the copy of the directory (a gateway reads
it anew), and the shared table, whose epoch ends.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

SPOOL = "spool"
RECORD_MAX_BYTES = 1 << 16  # its length has two bytes
_KEPT = ("epochs.json", "spool/refused.jsonl")


class SpoolError(Exception):
    """The folder cannot take what is restored; the message says why."""


def copy(folders: tuple[Path, ...], target: IO[bytes]) -> list[dict[str, Any]]:
    """A tar of each gateway's folder, below its number; what was copied of each.

    Raises OSError: a gateway's folder that cannot be read must not look like an empty one.
    """
    told = []
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for number, folder in enumerate(folders):
            told.append(_copy_one(archive, folder, str(number)))
    return told


def _copy_one(archive: tarfile.TarFile, folder: Path, name: str) -> dict[str, Any]:
    size, writers = 0, []
    next(folder.iterdir(), None)
    for kept in _KEPT:
        size += _add(archive, folder / kept, f"{name}/{kept}")
    for writer in sorted((folder / SPOOL).glob("writer-*")):
        segments = sorted(writer.glob("*.segment"))
        size += sum(
            _add(archive, path, f"{name}/{SPOOL}/{writer.name}/{path.name}") for path in segments
        )
        writers.append({"name": writer.name, "segments": [path.name for path in segments]})
    return {"gateway": folder.name, "bytes": size, "writers": writers}


def _add(archive: tarfile.TarFile, path: Path, name: str) -> int:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        # Segments are made at full length, with zeros where nothing stands yet. A record may end
        # in zeros of its own, and is never longer than what is left on.
        data = file.read()
        data = data[: len(data.rstrip(b"\0")) + RECORD_MAX_BYTES]
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o600
        archive.addfile(entry, _Whole(data))
    return len(data)


class _Whole:
    """Bytes as the file that tarfile wants."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int = -1, /) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        piece = self._data[self._at : end]
        self._at += len(piece)
        return piece


def put_back(source: IO[bytes], gateways: tuple[Path, ...]) -> int:
    """Each gateway's part into its folder, which holds no spool yet; how many files.

    Raises SpoolError. A gateway that still has its disk has newer records than any copy: its folder
    is left as it is.
    """
    for folder in gateways:
        if next(_writers(folder), None) is not None:
            raise SpoolError(f"{folder} has a spool of its own, which is newer: leave it out")
    files = 0
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            number, _, rest = entry.name.partition("/")
            if not entry.isfile() or int(number) >= len(gateways):
                raise SpoolError(f"{entry.name}: this backup has a gateway more than was named")
            entry.name = rest
            archive.extract(entry, gateways[int(number)], filter="data", set_attrs=False)
            files += 1
    for folder in gateways:
        for writer in _writers(folder):
            (writer / "lock").touch(mode=0o600)
            for path in (writer.parent.parent, writer.parent, writer):
                path.chmod(0o700)
    return files


def _writers(folder: Path) -> Iterator[Path]:
    return (folder / SPOOL).glob("writer-*")
