"""Counters that all processes of one gateway share, in memory that outlives each of them.

A memory file (memfd) is inherited by every worker, and by the master's successor at a reload.
It is a table of slots of 64-bit words, guarded by one lock. The kernel frees the lock of a
process that dies, so every update is a sequence of single words in an order in which death
between two of them can only make the counters too careful, never too generous.

What is *held* by requests in flight stands twice: in a total, and in a column of the process
that holds it. When a process has died, `release` takes its column out of every total.
"""

import fcntl
import hashlib
import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager

WORDS = 32  # of a slot
# Words of a slot. A slot is either a budget's window or a set of rate limits.
_KEY, _KEY2, ENDS_US, LEASE = 0, 1, 2, 3
GRANTED, SPENT, HELD, SEQ, CAP, USED_US, OTHERS, LOWERED, TOLD_US = 4, 5, 6, 7, 8, 9, 10, 11, 12
REQUESTS, INPUT, OUTPUT = 4, 5, 7  # when each bucket is full again, in nanoseconds
COLUMN = 16  # from here on: what each process holds
COLUMNS = WORDS - COLUMN

_WAYS = 32  # slots that a name may stand in
_HEADER = 64  # words; 0: format, 1: slots, 2 and 3: epoch, from 16: who has which column
_OWNERS = 16
_FORMAT = 1
_PAIR = struct.Struct("<qq")


def _size(slots: int) -> int:
    return 8 * (_HEADER + slots * WORDS)


SIZE = _size(1 << 16)


class TableFull(Exception):
    """No slot or no column is free."""


def create(slots: int) -> int:
    """A new table, as a memory file's descriptor. `slots` is a power of two."""
    assert slots >= _WAYS and not slots & (slots - 1)
    fd = os.memfd_create("counters")
    os.ftruncate(fd, _size(slots))
    prepare(fd)
    return fd


def prepare(fd: int) -> None:
    """Make a table of fresh memory of `SIZE` bytes; one that is a table already stays as it is."""
    if any(os.pread(fd, 32, 0)):
        return
    slots = (os.fstat(fd).st_size // 8 - _HEADER) // WORDS
    header = struct.pack("<qqqq", _FORMAT, slots, *_PAIR.unpack(secrets.token_bytes(16)))
    os.pwrite(fd, header, 0)


def epoch(fd: int) -> str:
    """What a table is called: a new one has a new name."""
    return os.pread(fd, 16, 16).hex()


class Table:
    """One process's view. `words[slot + WORD]` are the counters; change them under `locked`."""

    def __init__(self, fd: int, owner: str) -> None:
        """Take a column for `owner`, the name under which `release` will know this process.

        Raises TableFull when every column is taken, ValueError for another format.
        """
        # Opened anew: a descriptor that a fork shares would share its lock too.
        self._file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, 0)
        self.words = memoryview(self._map).cast("q")
        if self.words[0] != _FORMAT:
            raise ValueError("the shared table is of another version")
        self._slots = self.words[1]
        self.epoch = epoch(fd)
        self._offsets: dict[str, tuple[int, int]] = {}
        with self.locked():
            self.column = self._take(_digest(owner)[0])

    def close(self) -> None:
        """Let go of the memory; what this process holds stays until `release`."""
        self.words.release()
        self._map.close()
        os.close(self._file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def lock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def unlock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    # --- Slots (call under `locked`) --------------------------------------------------
    def find(self, name: str, ends_us: int, now_us: int) -> int:
        """The slot's offset, made when it is missing. Raises TableFull.

        A slot is anybody's again once `ends_us` has passed and nobody holds anything in it.
        """
        known = self._offsets.get(name)
        if known is not None and self.words[known[0]] == known[1]:
            return known[0]
        offset = self._place(name, ends_us, now_us)
        if len(self._offsets) > 2 * self._slots:
            self._offsets.clear()
        self._offsets[name] = (offset, self.words[offset])
        return offset

    def _place(self, name: str, ends_us: int, now_us: int) -> int:
        words = self.words
        first, second = _digest(name)
        free = -1
        for way in range(_WAYS):
            offset = _HEADER + ((first + way) & (self._slots - 1)) * WORDS
            key = words[offset]
            if key == first and words[offset + _KEY2] == second:
                return offset
            if free < 0 and (not key or (words[offset + ENDS_US] < now_us and self._idle(offset))):
                free = offset
        if free < 0:
            raise TableFull("no free counter")
        words[free] = 0
        for word in range(1, WORDS):
            words[free + word] = 0
        words[free + ENDS_US] = ends_us
        words[free + LEASE] = secrets.randbits(62) + 1
        words[free + _KEY2] = second
        words[free] = first  # from here on it is found
        return free

    def _idle(self, offset: int) -> bool:
        return not any(self.words[offset + COLUMN : offset + WORDS])

    def hold(self, offset: int, amount: int) -> None:
        words = self.words
        words[offset + HELD] += amount
        words[offset + COLUMN + self.column] += amount

    def let_go(self, offset: int, amount: int) -> None:
        words = self.words
        words[offset + HELD] -= amount
        words[offset + COLUMN + self.column] -= amount

    # --- Columns ----------------------------------------------------------------------
    def _take(self, owner: int) -> int:
        for column in range(COLUMNS):
            if not self.words[_OWNERS + column]:
                self.words[_OWNERS + column] = owner
                return column
        raise TableFull(f"more than {COLUMNS} processes of one gateway")

    def holds(self, owner: str) -> bool:
        """Whether a process of this name has a column."""
        return _digest(owner)[0] in self.words[_OWNERS : _OWNERS + COLUMNS].tolist()

    def release(self, owner: str) -> None:
        """Whoever `owner` was has died: nobody holds what it held. Unknown owners are no error."""
        wanted, words = _digest(owner)[0], self.words
        with self.locked():
            for column in range(COLUMNS):
                if words[_OWNERS + column] == wanted:
                    self._clear(column)
                    words[_OWNERS + column] = 0

    def _clear(self, column: int) -> None:
        words = self.words
        for offset in range(_HEADER, _HEADER + self._slots * WORDS, WORDS):
            if words[offset]:
                words[offset + COLUMN + column] = 0
                # Its death may have come between the total and the column: count anew.
                words[offset + HELD] = sum(words[offset + COLUMN : offset + WORDS])


def _digest(name: str) -> tuple[int, int]:
    first, second = _PAIR.unpack(hashlib.blake2b(name.encode(), digest_size=16).digest())
    return first or 1, second
