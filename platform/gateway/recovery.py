"""Whose folder is whose in the spool, and what a process that died left in its own.

Each gateway process writes below the spool in a folder of its own and holds a lock on it. A folder
whose lock is free belongs to nobody any more: whoever gets the lock ships what stands there, closes
what was cut off, and removes it.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import struct
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from gateway import disk
from gateway.budgets import measure
from gateway.prices import TokenPrices
from gateway.records import CloseRecord, OpenRecord, ProgressRecord
from gateway.segment import closes, numbered, records
from gateway.usage import NONE, Usage

log = logging.getLogger(__name__)

GONE = "gateway_gone"  # finish of a request that ended with its gateway
DELIVERED = "delivered"  # counted_by: what had been delivered when it was last noted
_CURSOR = struct.Struct("<QQ")


@dataclass
class Writer:
    """A writer's folder, and the lock that says that it is alive. Forked children share it."""

    path: Path
    lock: int

    def release(self) -> None:
        os.close(self.lock)


def claim(spool: Path) -> Writer:
    """Make a folder of our own. Raises OSError."""
    disk.private_folder(spool)
    name = f"{time.time_ns():x}-{os.getpid()}"
    draft = spool / f"new-{name}"
    draft.mkdir(mode=0o700)
    lock = os.open(draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Renamed when it is locked: nobody may take it for a dead process's in between.
    path = draft.rename(spool / f"writer-{name}")
    disk.sync_folder(spool)
    return Writer(path, lock)


def orphans(spool: Path) -> list["Orphan"]:
    """The folders of dead processes, each now locked by us. Raises OSError."""
    found = []
    for path in sorted(spool.glob("writer-*")):
        with contextlib.suppress(FileNotFoundError):  # somebody else has just removed it
            if not (path / "lock").exists() and not numbered(path):
                disk.remove_folder(path)  # the end of a removal that was cut off
                continue
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            found.append(Orphan(Writer(path, lock)))
    return found


class Orphan:
    """A dead process's records, offered to the shipper as the live spool offers its own."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._files = deque(numbered(writer.path))
        self._cursor = read_cursor(writer.path)
        self._closes: deque[CloseRecord] = deque()
        self._gone: deque[CloseRecord] | None = None
        self.name = writer.path.name
        self.cut_off: tuple[CloseRecord, ...] | None = None  # known once something was taken
        self._taken = 0

    async def take(self, limit: int) -> list[CloseRecord]:
        if self._gone is None:
            self._gone = await asyncio.to_thread(cut_off, [path for _, path in self._files])
            self.cut_off = tuple(self._gone)
            if self._gone:
                log.warning("a gateway ended without closing %d requests", len(self._gone))
        while not self._closes and self._files:
            number, path = self._files.popleft()
            if number >= self._cursor[0]:
                start = self._cursor[1] if number == self._cursor[0] else 0
                self._closes.extend(await asyncio.to_thread(_closes, path, start))
        if not self._closes:
            self._closes, self._gone = self._gone, deque()
        self._taken = min(limit, len(self._closes))
        return list(islice(self._closes, limit))

    def acknowledge(self) -> None:
        for _ in range(self._taken):
            self._closes.popleft()
        self._taken = 0

    def remove(self) -> None:
        """All of it is acknowledged."""
        disk.remove_folder(self._writer.path)
        self._writer.release()

    def release(self) -> None:
        """Leave the rest to another process."""
        self._writer.release()


def _closes(path: Path, start: int) -> list[CloseRecord]:
    return [record for _, record in closes(path, start)]


def cut_off(segments: list[Path]) -> deque[CloseRecord]:
    """Close records for the opens that have none: what was last noted is what is charged.

    The same segments give the same records, times included, however often they are read.
    """
    opened: dict[str, OpenRecord] = {}
    noted: dict[str, ProgressRecord] = {}
    for path in segments:
        for _, record in records(path):
            if isinstance(record, OpenRecord):
                opened[record.request_id] = record
            elif isinstance(record, ProgressRecord):
                noted[record.request_id] = record
            else:
                opened.pop(record.request_id, None)
                noted.pop(record.request_id, None)
    return deque(_gone(record, noted.get(record.request_id)) for record in opened.values())


def _gone(opened: OpenRecord, noted: ProgressRecord | None) -> CloseRecord:
    used = Usage(noted.input_tokens, noted.cached_tokens, noted.output_tokens) if noted else NONE
    nano_eur = TokenPrices(*opened.prices).cost(used)
    return CloseRecord(
        request_id=opened.request_id,
        key_id=opened.key_id,
        project_id=opened.project_id,
        endpoint_id=opened.endpoint_id,
        replica_id=opened.replica_id,
        operation=opened.operation,
        opened_at_us=opened.opened_at_us,
        closed_at_us=noted.at_us if noted else opened.opened_at_us,
        status=200 if noted else 0,
        finish=GONE,
        counted_by=DELIVERED,
        input_tokens=used.input,
        cached_tokens=used.cached,
        output_tokens=used.output,
        charges=tuple(
            msgspec.structs.replace(charge, amount=measure(charge.unit, used, nano_eur))
            for charge in opened.charges
        ),
        nano_eur=nano_eur,
        run=opened.run,
        agent=opened.agent,
    )


# --- The cursor: how far a writer's closes are acknowledged -----------------------------
def read_cursor(folder: Path) -> tuple[int, int]:
    """Segment number and offset; (0, 0) when nothing usable stands there."""
    try:
        data = (folder / "cursor").read_bytes()
    except OSError:
        return 0, 0
    body, crc = data[: _CURSOR.size], data[_CURSOR.size :]
    if len(body) != _CURSOR.size or crc != zlib.crc32(body).to_bytes(4, "little"):
        return 0, 0
    number, offset = _CURSOR.unpack(body)
    return number, offset


def write_cursor(folder: Path, cursor: tuple[int, int]) -> None:
    """In place, so that a full disk does not matter; the CRC tells when it was cut off."""
    body = _CURSOR.pack(*cursor)
    descriptor = os.open(folder / "cursor", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, body + zlib.crc32(body).to_bytes(4, "little"), 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Chores:
    """Disk work that a live writer has collected; `run` does it, in a thread."""

    writer: Writer
    dirty: bool = False  # the current segment has unsynced records
    new_names: bool = False
    cursor_due: bool = False
    cursor: tuple[int, int] = (0, 0)
    current: int | None = None
    finished: list[int] = field(default_factory=list)  # descriptors: sync, then close
    obsolete: list[Path] = field(default_factory=list)  # segments: delete, oldest first

    def hand_over(self, current: int | None) -> "Chores":
        """What is due now, as a job of its own; the collection starts anew."""
        job = Chores(
            self.writer,
            new_names=self.new_names,
            cursor_due=self.cursor_due,
            cursor=self.cursor,
            current=current if self.dirty else None,
            finished=self.finished,
            obsolete=self.obsolete,
        )
        self.dirty = self.new_names = self.cursor_due = False
        self.finished, self.obsolete = [], []
        return job

    def run(self) -> None:
        """Raises OSError after trying each part."""
        problem: OSError | None = None
        for descriptor in self.finished:
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                problem = error
            finally:
                os.close(descriptor)
        try:
            if self.current is not None:
                os.fdatasync(self.current)
            if self.new_names:
                disk.sync_folder(self.writer.path)
            if self.cursor_due and self.cursor[0]:
                with contextlib.suppress(OSError):  # without it more is shipped twice, harmlessly
                    write_cursor(self.writer.path, self.cursor)
            for path in self.obsolete:
                path.unlink(missing_ok=True)
        except OSError as error:
            problem = error
        if problem is not None:
            raise problem
