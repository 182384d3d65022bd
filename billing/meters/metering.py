"""Evidence of what nodes served: stored once, held against itself, and findings that stay.

Who may say what is the caller's to prove (`endpoints.node_records`); here a number of a boot is
taken once, a second of a replica is said once, and whatever does not fit is kept and told.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction

from billing import errors
from billing.meters.models import (
    FindingKind,
    MeterFinding,
    NodeBatch,
    NodeCertificate,
    NodeRecord,
)
from compliance import audit, ids, locks

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JUMP_US = 2_000_000  # a leap second is none


@dataclass(frozen=True)
class Record:
    """A `fleet.meter_wire.MeterRecord`, in microseconds."""

    seq: int
    replica_id: str
    state: str
    devices: int
    mono_start_us: int
    mono_end_us: int
    before_us: int
    wall_start_us: int
    wall_end_us: int

    @property
    def length_us(self) -> int:
        return self.mono_end_us - self.mono_start_us


@dataclass(frozen=True)
class Batch:
    """A batch as it arrived; `records` are empty where a `problem` keeps it out."""

    node_id: str
    body: bytes
    signature: bytes
    certificate_sha256: str
    certificate: bytes
    machine_boot: str = ""
    records: Sequence[Record] = ()
    problem: str = ""
    account_id: str = ""  # whose all of its records are; empty: of several, or nobody's

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.signature + self.body).hexdigest()


@dataclass(frozen=True)
class Whose:
    """Whom a finding concerns; of nobody, it is the platform's alone."""

    account_id: str = ""
    project_id: str = ""
    endpoint_id: str = ""


NOBODY = Whose()


@dataclass(frozen=True)
class Found:
    """What a MeterFinding says (`metering_models`)."""

    key: str
    kind: FindingKind
    at: datetime
    detail: str
    node_id: str = ""
    replica_id: str = ""
    interval_id: str = ""
    whose: Whose = NOBODY
    seconds: int = 0
    blocks: bool = False

    def row(self, now: datetime) -> MeterFinding:
        fields = {name: value for name, value in vars(self).items() if name != "whose"}
        fields |= vars(self.whose) | {"detail": self.detail[:300], "key": self.key[:200]}
        return MeterFinding(id=ids.new("mfd"), found_at=now, **fields)


@dataclass
class Stored:
    """What a store brought: the records that are new, and what does not fit."""

    new: list[Record] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)


def store(node_id: str, batches: Sequence[Batch], now: datetime) -> Stored:
    """Keep batches of one node, and what is new in them. In the caller's transaction.

    Repeated, it changes nothing. A number that came with other content, and a stretch that
    overlaps a known one, stay out; the batch that brought them is kept with its problem.
    """
    stored = Stored()
    # One report of a node after the other, so that what is missing can be seen.
    locks.hold(f"meter:{node_id}")
    known = set(
        NodeBatch.objects.filter(sha256__in=[one.sha256 for one in batches]).values_list(
            "sha256", flat=True
        )
    )
    for batch in {one.sha256: one for one in batches}.values():
        if batch.sha256 not in known:
            _store(batch, stored, now)
    return stored


def find(found: Iterable[Found], now: datetime) -> list[MeterFinding]:
    """Keep what was found and is new, and say so; returns the new ones."""
    rows = {one.key: one for one in found}
    if not rows:
        return []
    known = set(MeterFinding.objects.filter(key__in=rows).values_list("key", flat=True))
    new = [one.row(now) for one in rows.values() if one.key not in known]
    kept = MeterFinding.objects.bulk_create(new, ignore_conflicts=True)
    for one in kept:
        say = log.error if one.blocks or one.kind in _LOUD else log.warning
        say("metering: %s: %s", one.kind, one.detail)
    return kept


_LOUD = frozenset({FindingKind.CONFLICT, FindingKind.OVERLAP, FindingKind.FORGED, FindingKind.GAP})


def unexplained(account_id: str, start: datetime, end: datetime) -> list[MeterFinding]:
    """What keeps an account's invoice for start <= at < end back: nobody has explained it."""
    found = MeterFinding.objects.filter(
        account_id=account_id, at__gte=start, at__lt=end, blocks=True, explained_at=None
    )
    return list(found.order_by("at", "id"))


def explain(
    finding_id: str, *, actor: audit.Actor, reason: str, log: str, region: str, now: datetime
) -> MeterFinding:
    """An operator knows why; what was not billed stays so. `log`: where the event goes.

    Raises errors.MeteringRefused for no reason, no such finding, or one that is explained.
    """
    if not reason.strip():
        raise errors.MeteringRefused("Say why: the customer can read it.")
    with transaction.atomic():
        found = MeterFinding.objects.select_for_update().filter(pk=finding_id).first()
        if found is None or found.explained_at is not None:
            raise errors.MeteringRefused(f"{finding_id} is no open finding.")
        found.explained_at, found.explained_by = now, actor.id[:64]
        found.explanation = reason.strip()[:300]
        found.save(update_fields=["explained_at", "explained_by", "explanation"])
        audit.record(
            actor=actor,
            action="metering.explain",
            target=audit.Target("meter_finding", found.id),
            log=log,
            region=region,
            personal={"explanation": found.explanation},
            now=now,
            change=[audit.Change("kind", None, found.kind)],
        )
    return found


def page(
    accounts: Collection[str], start: datetime, end: datetime, *, after: str = "", limit: int
) -> list[MeterFinding]:
    """Findings of accounts with start <= at < end, oldest first, after the one of id `after`."""
    found = MeterFinding.objects.filter(account_id__in=accounts, at__gte=start, at__lt=end)
    if after:
        found = found.filter(id__gt=after)
    return list(found.order_by("id")[:limit])


# --- what a batch brings --------------------------------------------------------------------


def _store(batch: Batch, stored: Stored, now: datetime) -> None:
    if batch.certificate:
        NodeCertificate.objects.bulk_create(
            [NodeCertificate(batch.certificate_sha256, batch.node_id, batch.certificate, now)],
            ignore_conflicts=True,
        )
    kept = ids.new("mbt")
    newest = _newest(batch)
    taken = _insert(batch, kept, now)
    new = [one for one in batch.records if one.seq in taken]
    left = [one for one in batch.records if one.seq not in taken]
    found = [*_clashes(batch, left, now), *_gaps(batch, newest, new, now), *_jumps(batch, new)]
    if batch.problem:
        key = f"forged:{batch.sha256}"
        detail = f"a batch of node {batch.node_id} is set aside: {batch.problem}"
        found.append(Found(key, FindingKind.FORGED, now, detail, node_id=batch.node_id))
    clash = next((one.kind.value for one in found if one.kind in _CLASHES), "")
    NodeBatch.objects.create(
        id=kept,
        node_id=batch.node_id,
        machine_boot=batch.machine_boot[:64],
        sha256=batch.sha256,
        body=batch.body,
        signature=batch.signature,
        certificate_sha256=batch.certificate_sha256,
        received_at=now,
        problem=(batch.problem or clash)[:200],
        account_id=batch.account_id,
    )
    _closed_gaps(batch, newest, new, now)
    stored.new += new
    stored.found += found


_CLASHES = (FindingKind.CONFLICT, FindingKind.OVERLAP)


def _insert(batch: Batch, kept: str, now: datetime) -> set[int]:
    """The numbers of the records that were taken."""
    if not batch.records:
        return set()
    columns: list[list[Any]] = [[getattr(one, name) for one in batch.records] for name in _FIELDS]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [kept, batch.node_id, batch.machine_boot, now, *columns])
        return {row[0] for row in cursor.fetchall()}


_FIELDS = (
    *("seq", "replica_id", "state", "devices", "mono_start_us", "mono_end_us", "before_us"),
    *("wall_start_us", "wall_end_us"),
)
_INSERT = """
INSERT INTO billing_noderecord (batch_id, node_id, machine_boot, received_at, seq, replica_id,
    state, devices, mono_start_us, mono_end_us, before_us, wall_start, wall_end)
SELECT %s, %s, %s, %s, seq, replica_id, state, devices, mono_start_us, mono_end_us, before_us,
       to_timestamp(wall_start_us / 1e6), to_timestamp(wall_end_us / 1e6)
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::smallint[], %s::bigint[], %s::bigint[],
            %s::bigint[], %s::bigint[], %s::bigint[])
     AS v(seq, replica_id, state, devices, mono_start_us, mono_end_us, before_us,
          wall_start_us, wall_end_us)
ORDER BY seq
ON CONFLICT DO NOTHING RETURNING seq
"""


def _clashes(batch: Batch, left: Sequence[Record], now: datetime) -> Iterator[Found]:
    """Why records were not taken: they are known as they are, known otherwise, or overlap."""
    known = {
        row.seq: row
        for row in NodeRecord.objects.filter(
            node_id=batch.node_id,
            machine_boot=batch.machine_boot,
            seq__in=[one.seq for one in left],
        )
    }
    for one in left:
        row, where = known.get(one.seq), f"{batch.node_id}:{batch.machine_boot}:{one.seq}"
        if row is not None and all(getattr(row, name) == getattr(one, name) for name in _SAME):
            continue
        kind = FindingKind.OVERLAP if row is None else FindingKind.CONFLICT
        why = "overlaps a known stretch" if row is None else "came again with other content"
        yield Found(
            # One of each content, so that nothing that was said is left out.
            f"{kind}:{where}:{hashlib.sha256(repr(one).encode()).hexdigest()[:16]}",
            kind,
            now,
            f"record {one.seq} of boot {batch.machine_boot} of node {batch.node_id} {why}",
            node_id=batch.node_id,
            replica_id=one.replica_id,
            seconds=0 if row is not None else one.length_us // 1_000_000,
        )


_SAME = ("replica_id", "state", "devices", "mono_start_us", "mono_end_us", "before_us")


def _newest(batch: Batch) -> int:
    """The highest number of the boot so far, 0 for none."""
    mine = NodeRecord.objects.filter(node_id=batch.node_id, machine_boot=batch.machine_boot)
    return mine.order_by("-seq").values_list("seq", flat=True).first() or 0


def _gaps(batch: Batch, newest: int, new: Sequence[Record], now: datetime) -> Iterator[Found]:
    last = newest
    for seq in sorted(one.seq for one in new):
        if seq > last + 1:
            yield Found(
                f"gap:{batch.node_id}:{batch.machine_boot}:{last + 1}-{seq - 1}",
                FindingKind.GAP,
                now,
                f"records {last + 1} to {seq - 1} of boot {batch.machine_boot} of node"
                f" {batch.node_id} are missing",
                node_id=batch.node_id,
            )
        last = max(last, seq)


def _closed_gaps(batch: Batch, newest: int, new: Sequence[Record], now: datetime) -> None:
    """What was missing and came late is missing no more."""
    if not any(one.seq < newest for one in new):
        return
    prefix = f"gap:{batch.node_id}:{batch.machine_boot}:"
    for gap in MeterFinding.objects.filter(key__startswith=prefix, explained_at=None):
        first, last = map(int, gap.key.removeprefix(prefix).split("-"))
        mine = NodeRecord.objects.filter(
            node_id=batch.node_id, machine_boot=batch.machine_boot, seq__range=(first, last)
        )
        if mine.count() == last - first + 1:
            gap.explained_at, gap.explanation = now, "they came late"
            gap.save(update_fields=["explained_at", "explanation"])


def _jumps(batch: Batch, new: Sequence[Record]) -> Iterator[Found]:
    """The wall clock moved otherwise than the monotonic one: said once for each moment."""
    seen: defaultdict[int, list[Record]] = defaultdict(list)
    for one in new:
        jump_us = one.wall_end_us - one.wall_start_us - one.length_us
        if abs(jump_us) > JUMP_US:
            seen[round(jump_us / 1e6)].append(one)
    for jump_s, records in seen.items():
        first = min(records, key=lambda one: one.seq)
        yield Found(
            f"clock:{batch.node_id}:{batch.machine_boot}:{first.seq}",
            FindingKind.CLOCK_JUMP,
            _moment(first.wall_start_us),
            f"the wall clock of node {batch.node_id} jumped by {jump_s} s; seconds are counted on"
            " the monotonic one",
            node_id=batch.node_id,
        )


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
