"""The driver's XID events, from the kernel's log.

The log holds what was said since the machine started, until newer lines push it out: an agent that
was away reads what it missed. A record is "priority,number,microseconds,flags;text" (the kernel's
Documentation/ABI/testing/dev-kmsg); a read of /dev/kmsg gives one, a read of a file many.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from controlplane.fleet.wire import Finding
from workers.agent.health import xid
from workers.agent.health.cards import Card, position

KMSG = Path("/dev/kmsg")
_RECORD = re.compile(r"\d+,\d+,(\d+),[^;]*;(.*)")
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)(?:, (.*))?")
_CHUNK = 8192  # a record of /dev/kmsg is at most that long
_KEPT = 256  # numbers and places; the newest


@dataclass
class _Event:
    at: float  # seconds since the machine started
    text: str
    times: int = 1


class KernelLog:
    """`clock` counts as the log does: seconds since the machine started."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._handle: int | None = None
        self._rest = b""
        self._events: dict[tuple[str, int], _Event] = {}
        self.readable = True

    def findings(self, cards: Iterable[Card]) -> list[Finding]:
        """What holds now, of these GPUs: the newest event of each number and place."""
        self._read()
        places = {position(card.pci): card.index for card in cards if card.pci}
        now, found = self._clock(), []
        for (pci, code), event in self._events.items():
            if now - event.at < xid.HOLDS_S[xid.meaning(code)]:
                device = places.get(position(pci))
                text = event.text or "no more was said"
                found.append(xid.finding(code, device, text, event.times))
        return found

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _read(self) -> None:
        try:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            self.readable = True
            while content := self._next(self._handle):
                self._take(content)
        except OSError:  # no such log, or not for us to read
            self.readable = self._handle is not None

    def _next(self, handle: int) -> bytes:
        while True:
            try:
                return os.read(handle, _CHUNK)
            except BlockingIOError:
                return b""
            except OSError as error:
                if error.errno != errno.EPIPE:  # records that were pushed out before we came
                    raise

    def _take(self, content: bytes) -> None:
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            record = _RECORD.match(line.decode(errors="replace"))
            event = _XID.search(record[2]) if record else None
            if record and event:
                self._note(event[1], int(event[2]), int(record[1]) / 1e6, event[3] or "")

    def _note(self, pci: str, code: int, at: float, text: str) -> None:
        before = self._events.pop((pci, code), None)
        times = before.times + 1 if before else 1
        self._events[pci, code] = _Event(at, text, times)
        if len(self._events) > _KEPT:
            del self._events[next(iter(self._events))]
