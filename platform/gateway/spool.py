"""The spool: what was served stands on this host's disk before the last byte leaves it.

An open record before a request is sent on, a close record when it ends; both are in the kernel
when the call returns (a killed gateway loses nothing) and on the disk at most 20 ms later. Room
for every close is reserved when its open is accepted, so a full disk stops new work and never
metering. `shipping` brings the closes to PostgreSQL; a segment is deleted once its closes are
acknowledged and its opens are closed, oldest first, so that no open outlives its close.
"""

import asyncio
import errno
import logging
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from gateway import disk, recovery
from gateway.records import (
    CLOSE_MAX_BYTES,
    OPEN_MAX_BYTES,
    CloseRecord,
    OpenRecord,
    ProgressRecord,
    close_bound,
    frame,
)
from gateway.segment import Segment

__all__ = ["CloseRecord", "OpenRecord", "ProgressRecord", "Spool", "SpoolFull"]

log = logging.getLogger(__name__)

SEGMENT_BYTES = 8 << 20
_SYNC_AFTER_S = 0.01  # then fdatasync runs: with it, at most 20 ms on a healthy disk
_CURSOR_AFTER_S = 1.0  # what is acknowledged is noted this often; replays are harmless
_RETRY_S = 0.25
_PROGRESS_EVERY_US = 1_000_000
_CARRY_AT_ONCE = 500


class SpoolFull(Exception):
    """A request cannot be recorded, so it may not be served; the message says why."""


class _Live:
    """A request that runs: where its open record stands, and what was last noted of it."""

    __slots__ = ("noted_us", "opened", "owed", "progress", "segment")

    def __init__(self, opened: OpenRecord, segment: Segment, owed: int) -> None:
        self.opened = opened
        self.owed = owed  # bytes kept free for its close
        self.segment = segment
        self.noted_us = opened.opened_at_us
        self.progress: ProgressRecord | None = None


class Spool:
    """One process's spool below `folder`. Its methods belong to one event loop's thread."""

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, rotate_after_s: float = 300.0
    ) -> None:
        """Take a folder of its own below `folder`. Raises OSError if that is impossible."""
        self.arrived = asyncio.Event()  # a close waits to be shipped
        self.problem = ""  # why new work is refused; empty: nothing is wrong
        self._writer = recovery.claim(folder)
        self._segment_bytes = segment_bytes
        self._rotate_after_s = rotate_after_s
        self._number = 0
        self._live: dict[str, _Live] = {}
        self._owed = 0  # bytes, of all that is live
        self._segments: deque[Segment] = deque()  # the last one is `_current`
        self._current: Segment | None = None
        self._spares: deque[Segment] = deque()  # made ahead, so that their room is ours
        self._spare_room = 0
        self._unwritten: deque[tuple[CloseRecord, _Live | None]] = deque()
        self._taken: list[tuple[Segment, int]] = []  # with how many of its closes
        self._taken_unwritten: list[tuple[CloseRecord, _Live | None]] = []
        self._retry_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chores = recovery.Chores(self._writer)
        self._thread = ThreadPoolExecutor(1, "spool")
        self._timer: asyncio.TimerHandle | None = None
        self._cursor_timer: asyncio.TimerHandle | None = None
        self._chore: asyncio.Future[None] | None = None
        self.try_again()

    # --- Serving ----------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Of this process's folder; unique, and gone only when what is in it was shipped."""
        return self._writer.path.name

    @property
    def healthy(self) -> bool:
        return not self.problem

    @property
    def in_flight(self) -> int:
        return len(self._live)

    def open(self, record: OpenRecord) -> None:
        """Record that a request is about to be served. Raises SpoolFull; then do not serve it."""
        if self.problem and time.monotonic() >= self._retry_at:
            self.try_again()
        if self.problem:
            raise SpoolFull(self.problem)
        framed = frame(record)
        if len(framed) > OPEN_MAX_BYTES:
            raise ValueError(f"an open record of {len(framed)} bytes: its fields are too long")
        try:
            owed = close_bound(record, len(framed))
            self._reserve(len(framed) + owed)
            segment = self._append(framed)
        except OSError as error:
            self._fail(error)
            raise SpoolFull(self.problem) from error
        segment.live += 1
        self._live[record.request_id] = _Live(record, segment, owed)
        self._owed += owed

    def progress(
        self,
        request_id: str,
        at_us: int,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
    ) -> None:
        """Note what has been delivered so far; call it as often as you like, it writes once a
        second. It is what a request is charged if this process is killed."""
        live = self._live.get(request_id)
        if live is None or at_us - live.noted_us < _PROGRESS_EVERY_US:
            return
        live.noted_us = at_us
        noted = ProgressRecord(request_id, at_us, input_tokens, cached_tokens, output_tokens)
        framed = frame(noted)
        # Never at the cost of a close: without room the charge is only less exact after a crash.
        if self._room() - len(framed) < self._owed:
            return
        try:
            self._append(framed)
        except OSError as error:
            self._fail(error)
        else:
            live.progress = noted

    def close(self, record: CloseRecord) -> None:
        """Record how a request ended; call it before its last byte leaves.

        Never fails: its room was reserved. Should the disk break, the record is kept in memory,
        shipped from there, written as soon as the disk takes it, and `healthy` is false.
        """
        live = self._live.pop(record.request_id, None)
        if live is not None:
            self._owed -= live.owed
        try:
            segment = self._append(frame(record))
        except OSError as error:
            self._unwritten.append((record, live))
            self._fail(error)
        else:
            self._closed(record, live, segment)
        self.arrived.set()

    def try_again(self) -> None:
        """After an error: see whether the disk takes records now, and clear `problem` if so."""
        self._retry_at = time.monotonic() + _RETRY_S
        try:
            current = self._current or self._turn()
            if current.end + 8 <= current.size:
                os.pwrite(current.fd, bytes(8), current.end)
            while self._unwritten:
                record, live = self._unwritten[0]
                segment = self._append(frame(record))
                self._unwritten.popleft()
                self._closed(record, live, segment)
            self._reserve(OPEN_MAX_BYTES + CLOSE_MAX_BYTES)
        except OSError as error:
            self._fail(error)
            return
        if self.problem:
            log.warning("the spool takes records again")
        self.problem = ""

    # --- Room -------------------------------------------------------------------------
    def _room(self) -> int:
        """Bytes that can be appended for certain."""
        current = self._current
        return self._spare_room + (_usable(current) if current is not None else 0)

    def _reserve(self, more: int) -> None:
        """See that `more` bytes fit beside the closes that are still to come."""
        wanted = self._owed + more
        while self._room() < wanted:
            self._make_spare()

    def _make_spare(self) -> None:
        self._number += 1
        spare = Segment(self._writer.path, self._number, self._segment_bytes)
        self._spares.append(spare)
        self._spare_room += _usable(spare)
        self._chores.new_names = True

    def _turn(self) -> Segment:
        """Go on in the next segment. Raises OSError when there is no room for one."""
        if not self._spares:
            self._make_spare()
        fresh = self._spares.popleft()
        self._spare_room -= _usable(fresh)
        if (old := self._current) is not None:
            self._chores.finished.append(old.fd)
            waits = (segment.closes is None or segment.closes for segment in self._segments)
            taken = any(segment is old for segment, _ in self._taken)
            if not taken and any(islice(waits, len(self._segments) - 1)):
                old.closes = None  # a long backlog waits on disk, not in memory
        self._segments.append(fresh)
        self._current = fresh
        if not self._spares:
            try:
                self._make_spare()
            except OSError as error:
                # The reserve is checked at every open; until then this is no reason to stop.
                log.warning("no room for a spare spool segment: %s", error.strerror)
        return fresh

    def _append(self, framed: bytes) -> Segment:
        segment = self._current
        if segment is None or segment.end + len(framed) > segment.size:
            segment = self._turn()
        segment.append(framed)
        self._chores.dirty = True
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_SYNC_AFTER_S, self._begin_chores)
        return segment

    def _closed(self, record: CloseRecord, live: _Live | None, segment: Segment) -> None:
        if live is not None:
            live.segment.live -= 1
        if segment.closes is not None:
            segment.closes.append((segment.end, record))

    def _fail(self, error: OSError) -> None:
        why = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        if not self.problem:
            log.error("the spool in %s takes no records: %s", self._writer.path.parent, why)
            if self._loop is not None:
                self._loop.call_later(_RETRY_S, self._retry)
        self.problem = f"requests cannot be metered: {why}"

    def _retry(self) -> None:
        self.try_again()
        if self.problem and self._loop is not None:
            self._loop.call_later(_RETRY_S, self._retry)

    # --- Shipping ---------------------------------------------------------------------
    async def take(self, limit: int) -> list[CloseRecord]:
        """The oldest closes that are not acknowledged. One consumer: take, then acknowledge."""
        self._taken = []
        found: list[CloseRecord] = []
        for segment in list(self._segments):
            if segment.closes is None:
                await asyncio.to_thread(segment.reload)
            part = [record for _, record in islice(segment.closes or (), limit - len(found))]
            if part:
                self._taken.append((segment, len(part)))
                found += part
            if len(found) == limit:
                break
        self._taken_unwritten = list(islice(self._unwritten, limit - len(found)))
        return found + [record for record, _ in self._taken_unwritten]

    def acknowledge(self) -> None:
        """PostgreSQL has committed what was last taken."""
        taken, self._taken = self._taken, []
        for segment, count in taken:
            assert segment.closes is not None
            for _ in range(count):
                segment.shipped, _ = segment.closes.popleft()
            self._chores.cursor = (segment.number, segment.shipped)
        for entry in self._taken_unwritten:
            if entry in self._unwritten:  # else it was written in the meantime
                self._unwritten.remove(entry)
                if entry[1] is not None:
                    entry[1].segment.live -= 1
        self._taken_unwritten = []
        if taken and self._cursor_timer is None and self._loop is not None:
            self._cursor_timer = self._loop.call_later(_CURSOR_AFTER_S, self._note_cursor)
        if self._segments:
            self._release()

    @property
    def backlog(self) -> int:
        """Closes in memory that wait for PostgreSQL; a longer backlog also waits on disk."""
        return len(self._unwritten) + sum(len(segment.closes or ()) for segment in self._segments)

    def _release(self) -> None:
        """Give up the oldest segments as far as nobody needs them."""
        now, last = time.monotonic(), self._segments[-1]
        if last.end and not last.closes and now - last.used_at > self._rotate_after_s:
            try:
                self._turn()
            except OSError as error:
                self._fail(error)
        while (first := self._segments[0]) is not self._current:
            if first.closes is None or first.closes:
                return
            if first.live and len(self._segments) > 2:
                self._carry(first)
            if first.live:
                return
            self._chores.obsolete.append(self._segments.popleft().path)

    def _carry(self, segment: Segment) -> None:
        """Write the opens that hold up `segment` anew: a long stream must not pin the disk."""
        held: list[_Live] = []
        for live in self._live.values():  # oldest first
            if live.segment is not segment or len(held) == _CARRY_AT_ONCE:
                break
            held.append(live)
        for live in held:
            frames = [frame(live.opened)] + ([frame(live.progress)] if live.progress else [])
            room = self._room() - sum(map(len, frames))
            if room < self._owed:
                return
            try:
                for framed in frames:
                    place = self._append(framed)
                    live.segment.live -= 1
                    live.segment = place
                    place.live += 1
            except OSError as error:
                self._fail(error)
                return
            request_id = live.opened.request_id
            self._live[request_id] = self._live.pop(request_id)

    # --- Chores: what must not hold up the event loop -----------------------------------
    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begin_chores()
        if self.problem:
            self._loop.call_later(_RETRY_S, self._retry)

    def _note_cursor(self) -> None:
        self._cursor_timer = None
        self._chores.cursor_due = True
        if self._timer is None:
            self._begin_chores()

    def _begin_chores(self) -> None:
        self._timer = None
        loop = self._loop
        if loop is None:
            return
        if self._chore is not None:  # the disk is slower than our beat
            self._timer = loop.call_later(_SYNC_AFTER_S, self._begin_chores)
            return
        current = self._current.fd if self._current is not None else None
        job = self._chores.hand_over(current)
        self._chore = loop.run_in_executor(self._thread, job.run)
        self._chore.add_done_callback(self._chores_done)

    def _chores_done(self, chore: asyncio.Future[None]) -> None:
        self._chore = None
        if chore.cancelled():
            return
        error = chore.exception()
        if isinstance(error, OSError):
            self._fail(error)
            try:  # what could not be synced may be lost; write nothing more beside it
                self._turn()
            except OSError as second:
                self._fail(second)
        elif error is not None:
            raise error

    async def stop(self) -> None:
        """Leave everything durable; what was not shipped is taken up by the next process."""
        await self.stop_chores()
        self.finish()

    async def stop_chores(self) -> None:
        for timer in (self._timer, self._cursor_timer):
            if timer is not None:
                timer.cancel()
        if self._chore is not None:
            await asyncio.wait([self._chore])
        self._timer = self._cursor_timer = self._loop = None

    def sync(self) -> None:
        """Do the chores that are due, here and now. Raises OSError."""
        self._chores.hand_over(self._current.fd if self._current is not None else None).run()

    def finish(self) -> None:
        """Sync, note the cursor, and let go of the folder; remove it if it is of no more use."""
        self._chores.cursor_due = True
        try:
            self.sync()
        finally:
            if self._current is not None:
                os.close(self._current.fd)
            for spare in self._spares:
                spare.discard()
            self._thread.shutdown()
            shipped = all(segment.closes is not None for segment in self._segments)
            if shipped and not self.backlog and not self._live:
                disk.remove_folder(self._writer.path)
            self._writer.release()


def _usable(segment: Segment) -> int:
    """What is left of a segment when the next record does not fit is lost: count on less."""
    return segment.size - segment.end - CLOSE_MAX_BYTES
