"""The metering journal: what each replica served or slept, as signed records that none can lose.

A batch is one file, whole on disk before anything of it is sent, and kept until a report that
carried it was answered. The newest of a boot stays longer: beside its records it holds how far
each replica is metered, so that an agent that was killed between any two lines writes no second
twice; a closed stretch stands in the replica's own record until then, so that none is left out.
"""

import logging
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization

from controlplane.fleet import meter_wire
from controlplane.fleet.meter_wire import MeterBatch, MeterBody, MeterRecord
from workers.agent import files
from workers.agent.credential import Identity
from workers.agent.records import Record, Stretch

log = logging.getLogger("stoa.agent")

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
_NAME = re.compile(r"(?P<boot>.+)-(?P<first>\d{12})-(?P<last>\d{12})\.(?:json|damaged)")


class End(msgspec.Struct, frozen=True):
    """Up to where a replica is metered, and what the wall clock had ahead of the monotonic."""

    at_us: int
    offset_us: int


class _Kept(msgspec.Struct, kw_only=True):
    batch: MeterBatch
    boot: str
    ends: dict[str, End]  # by replica


@dataclass
class _Boot:
    """Of one boot of the machine: the number of its next record, and how far each replica is."""

    next_seq: int
    ends: dict[str, End]


@dataclass(frozen=True)
class Piece:
    """A record before it has a number."""

    replica_id: str
    organization_id: str
    devices: int
    stretch: Stretch
    start: End
    end: End


@dataclass(frozen=True)
class _File:
    path: Path
    boot: str


class Journal:
    """That of one agent directory. `write` and `waiting` block; the others are the loop's."""

    def __init__(
        self,
        directory: Path,
        *,
        machine_boot: str,
        identity: Callable[[], Identity],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._boot = directory / "meter", machine_boot
        self._identity, self._clock, self._wall = identity, clock, wall
        self._started: dict[str, End] = {}  # where what is open began, by replica
        self._used = {machine_boot}  # boots that some replica still has stretches of
        self._boots: dict[str, _Boot] = {}
        self._files: dict[Path, _File] = {}
        self._answered: set[Path] = set()
        self._load()

    # --- what is due -----------------------------------------------------------------

    def due(self, records: Collection[Record]) -> list[Piece]:
        """What should be written now: what ended, and of what goes on each whole minute."""
        if not records:
            return []
        now_us, wall_us = _us(self._clock()), _us(self._wall())
        offset_us = wall_us - now_us
        self._used = {self._boot, *(one.boot for record in records for one in record.stretches)}
        found: list[Piece] = []
        for record in records:
            for stretch in record.stretches:
                found += self._pieces(record, stretch, _us(stretch.end), offset_us)
            opened = record.open_stretch(now_us / SECOND_US)
            if opened is None or opened.boot != self._boot:
                self._started.pop(record.spec.replica_id, None)
                continue
            start = self._start(record, opened, offset_us)
            if start.at_us > _us(opened.start) or record.spec.replica_id not in self._started:
                self._started[record.spec.replica_id] = start
            bound_us = now_us - wall_us % MINUTE_US
            if bound_us - start.at_us >= SECOND_US:
                found += self._pieces(record, opened, bound_us, offset_us)
        return found

    def _start(self, record: Record, stretch: Stretch, offset_us: int) -> End:
        """From where `stretch` is not metered yet."""
        id, start_us = record.spec.replica_id, _us(stretch.start)
        known = self._boots.get(stretch.boot)
        end = known.ends.get(id) if known else None
        if end is not None and end.at_us >= start_us:
            return end
        started = self._started.get(id) if stretch.boot == self._boot else None
        if started is not None and started.at_us == start_us:
            return started
        if stretch.boot != self._boot and end is not None:
            offset_us = end.offset_us  # nobody knows better of a boot that is over
        return End(start_us, offset_us)

    def _pieces(
        self, record: Record, stretch: Stretch, until_us: int, offset_us: int
    ) -> Iterator[Piece]:
        """What is not metered of `stretch`, cut so that none is much longer than a minute."""
        start = self._start(record, stretch, offset_us)
        if stretch.boot != self._boot:
            offset_us = start.offset_us
        left = -(-(until_us - start.at_us - SECOND_US) // MINUTE_US)
        for behind in range(max(0, left - 1), -1, -1):
            end = End(until_us - behind * MINUTE_US, offset_us)
            if end.at_us > start.at_us:
                devices = len(record.spec.device_indexes)
                id, whose = record.spec.replica_id, record.spec.organization_id
                yield Piece(id, whose, devices, stretch, start, end)
                start = end

    # --- what is written ---------------------------------------------------------------

    def write(self, pieces: Iterable[Piece], replica_ids: Collection[str]) -> None:
        """Number them, sign them, and have them on disk. Raises OSError; then nothing counts.

        A batch holds records of one organization alone, which may be shown it whole, as signed.
        `replica_ids`: of which replicas it must be remembered how far they are.
        """
        of: defaultdict[tuple[str, str], list[Piece]] = defaultdict(list)
        for piece in pieces:
            of[piece.stretch.boot, piece.organization_id].append(piece)
        for (boot, _), mine in of.items():
            for first in range(0, len(mine), meter_wire.RECORDS_AT_ONCE):
                self._write(boot, mine[first : first + meter_wire.RECORDS_AT_ONCE], replica_ids)

    def settle(self, records: Iterable[Record], save: Callable[[Record], None]) -> None:
        """Let go of closed stretches that are written, and `save` what then stands in a record,
        before the last of their boot may go. Raises OSError."""
        for record in records:
            left = [one for one in record.stretches if not self._written(record, one)]
            if len(left) < len(record.stretches):
                whole, record.stretches = record.stretches, left
                try:
                    save(record)
                except OSError:
                    record.stretches = whole
                    raise

    def _written(self, record: Record, stretch: Stretch) -> bool:
        known = self._boots.get(stretch.boot)
        end = known.ends.get(record.spec.replica_id) if known else None
        return end is not None and end.at_us >= _us(stretch.end)

    def _write(self, boot: str, pieces: list[Piece], replica_ids: Collection[str]) -> None:
        known = self._boots.get(boot) or _Boot(1, {})
        records = [_record(known.next_seq + n, piece) for n, piece in enumerate(pieces)]
        ends = {id: end for id, end in known.ends.items() if id in replica_ids}
        ends |= {piece.replica_id: piece.end for piece in pieces}
        identity = self._identity()
        node_id = identity.credential.node_id
        body = msgspec.json.encode(MeterBody(node_id=node_id, machine_boot=boot, records=records))
        batch = MeterBatch(
            body=body,
            signature=identity.key.sign(meter_wire.signed_bytes(body)),
            certificate=identity.certificate.public_bytes(serialization.Encoding.DER),
        )
        path = self._path(boot, records)
        files.write(path, msgspec.json.encode(_Kept(batch=batch, boot=boot, ends=ends)))
        self._boots[boot] = _Boot(records[-1].seq + 1, ends)
        self._files[path] = _File(path, boot)

    def _path(self, boot: str, records: list[MeterRecord]) -> Path:
        return self._directory / f"{boot}-{records[0].seq:012d}-{records[-1].seq:012d}.json"

    # --- what is sent ------------------------------------------------------------------

    @property
    def news(self) -> bool:
        """Whether something waits that no answered report has carried."""
        return len(self._files) > len(self._answered)

    def waiting(self) -> list[tuple[Path, MeterBatch]]:
        """The oldest of each boot that no answered report has carried."""
        found = []
        for path in sorted(self._files.keys() - self._answered)[: meter_wire.BATCHES_AT_ONCE]:
            if (kept := self._read(path)) is not None:
                found.append((path, kept.batch))
        return found

    def taken(self, paths: Iterable[Path]) -> None:
        """A report that carried these was answered."""
        self._answered |= self._files.keys() & set(paths)
        for path in self._answered - self._newest():
            path.unlink(missing_ok=True)
            self._files.pop(path)
            self._answered.discard(path)

    def _newest(self) -> set[Path]:
        """Those that say how far the replicas are."""
        newest = {one.boot: path for path, one in sorted(self._files.items())}
        return {path for boot, path in newest.items() if boot in self._used}

    # --- after a restart -----------------------------------------------------------------

    def _load(self) -> None:
        for path in sorted(self._directory.glob("[!.]*")):
            named = _NAME.fullmatch(path.name)
            if named is None:
                continue
            kept = self._read(path) if path.suffix == ".json" else None
            boot = named["boot"]
            known = self._boots.setdefault(boot, _Boot(1, {}))
            known.next_seq = max(known.next_seq, int(named["last"]) + 1)
            if kept is not None:
                known.ends = kept.ends
                self._files[path] = _File(path, boot)
                self._used.add(boot)  # until `due` has seen the replicas

    def _read(self, path: Path) -> _Kept | None:
        """None for one that is damaged, which is set aside; its numbers stay taken."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("%s is damaged, its records are lost: %s", path, error)
            path.rename(path.with_suffix(".damaged"))
            self._files.pop(path, None)
            return None


def _record(seq: int, piece: Piece) -> MeterRecord:
    start, end, stretch = piece.start, piece.end, piece.stretch
    return MeterRecord(
        seq=seq,
        replica_id=piece.replica_id,
        state=stretch.state,
        devices=piece.devices,
        mono_start_us=start.at_us,
        mono_end_us=end.at_us,
        before_us=_us(stretch.before_s) + start.at_us - _us(stretch.start),
        wall_start_us=start.at_us + start.offset_us,
        wall_end_us=end.at_us + end.offset_us,
    )


def _us(seconds: float) -> int:
    return math.floor(seconds * SECOND_US + 0.5)
