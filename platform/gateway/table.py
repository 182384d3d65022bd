"""Counters that all processes of one gateway share, in memory that outlives each of them.

A memory file (memfd) is inherited by every worker, and by the master's successor at a reload.
It is a table of slots of 64-bit words, guarded by one lock. A slot's name stands in one of two
buckets of a page each, the emptier one when it came: so a table can be nearly full before any name
finds no place. The kernel frees the lock of a
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
FREE = 4  # … and in Slots from here on: whatever their owner likes

_BUCKET = 16  # slots: a page
_CLEARED = 1024  # slots under one lock, when a process has died
_KNOWN_MAX = 1 << 17  # names whose place a process remembers: 30 MB
# Words, a page; 0: format, 1: slots, 2 and 3: epoch, 4 to 7: a secret, from 16: who has which
# column.
_HEADER = 512
_SECRET = 32  # bytes
_OWNERS = 16
_FORMAT = 2
_PAIR = struct.Struct("<qq")
_EMPTY = memoryview(bytes(8 * (WORDS - 1))).cast("q")


def size(slots: int) -> int:
    """Bytes of a table. `slots` is a power of two."""
    return 8 * (_HEADER + slots * WORDS)


SIZE = size(1 << 18)  # 64 MiB; what is never used is no memory


class TableFull(Exception):
    """No slot or no column is free."""


def create(slots: int) -> int:
    """A new table, as a memory file's descriptor. `slots` is a power of two."""
    assert slots >= 2 * _BUCKET and not slots & (slots - 1)
    fd = os.memfd_create("counters")
    os.ftruncate(fd, size(slots))
    prepare(fd)
    return fd


def prepare(fd: int) -> None:
    """Make a table of fresh memory of `SIZE` bytes; one that is a table already stays as it is."""
    if any(os.pread(fd, 32, 0)):
        return
    slots = (os.fstat(fd).st_size // 8 - _HEADER) // WORDS
    header = struct.pack("<qq", _FORMAT, slots) + secrets.token_bytes(16 + _SECRET)
    os.pwrite(fd, header, 0)


def epoch(fd: int) -> str:
    """What a table is called: a new one has a new name."""
    return os.pread(fd, 16, 16).hex()


def release(fd: int, owner: str) -> None:
    """As `Memory.release`, for who keeps no view of its own."""
    memory = Memory(fd)
    try:
        memory.release(owner)
    finally:
        memory.close()


class Memory:
    """A view of a table, and its lock. `words[slot + WORD]` are the counters."""

    def __init__(self, fd: int) -> None:
        """Raises ValueError for another format."""
        # Opened anew: a descriptor that a fork shares would share its lock too.
        self._file = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, 0)
        self.words = memoryview(self._map).cast("q")
        self.floats = memoryview(self._map).cast("d")  # the same words, for who counts in them
        if self.words[0] != _FORMAT:
            raise ValueError("the shared table is of another version")
        self._slots = self.words[1]
        self.epoch = epoch(fd)
        self.secret = bytes(self._map[32 : 32 + _SECRET])  # it never leaves the host's memory

    def close(self) -> None:
        """Let go of the memory; what this process holds stays until `release`."""
        self.words.release()
        self.floats.release()
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

    # --- Columns ----------------------------------------------------------------------
    def holds(self, owner: str) -> bool:
        """Whether a process of this name has a column."""
        return _digest(owner)[0] in self.words[_OWNERS : _OWNERS + COLUMNS].tolist()

    def release(self, owner: str) -> None:
        """Whoever `owner` was has died: nobody holds what it held. Unknown owners are no error."""
        wanted, words = _digest(owner)[0], self.words
        for column in range(COLUMNS):
            if words[_OWNERS + column] == wanted:
                # A piece at a time: the others wait for the lock meanwhile. The column is not
                # taken anew before all of it is clear.
                for slots in self._used():
                    with self.locked():
                        self._clear(column, slots)
                with self.locked():
                    words[_OWNERS + column] = 0

    def _used(self) -> Iterator[range]:
        """Where there may be slots, in pieces. Memory that nobody used yet is not looked at: that
        would make it used."""
        end = 8 * _HEADER
        while True:
            try:
                start = max(os.lseek(self._file, end, os.SEEK_DATA), 8 * _HEADER)
            except OSError:  # no more
                return
            end = os.lseek(self._file, start, os.SEEK_HOLE)
            first, last = ((at - 8 * _HEADER) // (8 * WORDS) for at in (start, end))
            for slot in range(first, last, _CLEARED):
                yield range(slot, min(slot + _CLEARED, last))

    def _clear(self, column: int, slots: range) -> None:
        words = self.words
        for offset in range(_HEADER + slots.start * WORDS, _HEADER + slots.stop * WORDS, WORDS):
            if words[offset]:
                words[offset + COLUMN + column] = 0
                # Its death may have come between the total and the column: count anew.
                words[offset + HELD] = sum(words[offset + COLUMN : offset + WORDS])


class Slots(Memory):
    """Slots by name, of things that may be forgotten. Change the words under `locked`."""

    def __init__(self, fd: int) -> None:
        """Raises ValueError for another format."""
        super().__init__(fd)
        self._offsets: dict[str, tuple[int, int]] = {}

    def find(self, name: str, ends_us: int, now_us: int) -> int:
        """The slot's offset, made when it is missing. Raises TableFull.

        A slot is anybody's again once `ends_us` has passed and nobody holds anything in it.
        """
        known = self._offsets.get(name)
        if known is not None and self.words[known[0]] == known[1]:
            return known[0]
        offset = self._place(name, ends_us, now_us)
        if len(self._offsets) >= _KNOWN_MAX:
            self._offsets.clear()
        self._offsets[name] = (offset, self.words[offset])
        return offset

    def _place(self, name: str, ends_us: int, now_us: int) -> int:
        words = self.words
        first, second = _digest(name)
        best: list[int] = []
        for bucket in self._buckets(first, second):
            free = []
            for offset, key in self._names(bucket):
                if key == first and words[offset + _KEY2] == second:
                    return offset
                if not key or (words[offset + ENDS_US] < now_us and self._idle(offset)):
                    free.append(offset)
            if len(free) > len(best):
                best = free
        made = best[0] if best else self._make_room(self._buckets(first, second))
        words[made] = 0
        words[made + 1 : made + WORDS] = _EMPTY
        words[made + ENDS_US] = ends_us
        words[made + LEASE] = secrets.randbits(62) + 1
        words[made + _KEY2] = second
        words[made] = first  # from here on it is found
        return made

    def known(self, name: str) -> int:
        """The slot's offset if this process has found it before and it stands yet, else 0.

        Looks without the lock: others may change what stands there at any time.
        """
        known = self._offsets.get(name)
        return known[0] if known is not None and self.words[known[0]] == known[1] else 0

    def seek(self, name: str) -> int:
        """The slot's offset, or 0 if there is none."""
        if known := self.known(name):
            return known
        first, second = _digest(name)
        for bucket in self._buckets(first, second):
            for offset, key in self._names(bucket):
                if key == first and self.words[offset + _KEY2] == second:
                    return offset
        return 0

    def _names(self, bucket: int) -> Iterator[tuple[int, int]]:
        """Offsets and keys of its slots."""
        end = bucket + _BUCKET * WORDS
        return zip(range(bucket, end, WORDS), self.words[bucket:end:WORDS].tolist(), strict=True)

    def _buckets(self, first: int, second: int) -> list[int]:
        """Their offsets: never the same one twice."""
        buckets = self._slots // _BUCKET
        one = first % buckets
        other = one ^ (1 + second % (buckets - 1))
        return [_HEADER + bucket * _BUCKET * WORDS for bucket in (one, other)]

    def _idle(self, offset: int) -> bool:
        return True

    def _make_room(self, buckets: list[int]) -> int:
        """Whatever ends first is forgotten. Raises TableFull where nothing may be."""
        slots = [offset for bucket in buckets for offset, _ in self._names(bucket)]
        return min(slots, key=lambda offset: self.words[offset + ENDS_US])


class Table(Slots):
    """One process's own: it has a column, and nothing of it is forgotten before its time."""

    def __init__(self, fd: int, owner: str) -> None:
        """Take a column for `owner`, the name under which `release` will know this process.

        Raises TableFull when every column is taken, ValueError for another format.
        """
        super().__init__(fd)
        with self.locked():
            self.column = self._take(_digest(owner)[0])

    def _take(self, owner: int) -> int:
        for column in range(COLUMNS):
            if not self.words[_OWNERS + column]:
                self.words[_OWNERS + column] = owner
                return column
        raise TableFull(f"more than {COLUMNS} processes of one gateway")

    def total(self, offset: int) -> int:
        """What all processes hold of it, by their columns."""
        return sum(self.words[offset + COLUMN : offset + WORDS])

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

    def _make_room(self, buckets: list[int]) -> int:
        raise TableFull("no free counter")


def _digest(name: str) -> tuple[int, int]:
    first, second = _PAIR.unpack(hashlib.blake2b(name.encode(), digest_size=16).digest())
    return first or 1, second
