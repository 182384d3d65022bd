"""What a node says under its own signature of the time that its replicas served or slept.

A record is a stretch of one replica on the monotonic clock of one boot of the machine, cut on
minutes and whenever the replica's state changes. `seq` counts the records of a boot from 1 on and
leaves none out. The wall clock is told too, so that its jumps show; nothing is counted by it.
"""

from enum import StrEnum

import msgspec

RECORDS_AT_ONCE = 500  # in one batch
BATCHES_AT_ONCE = 20  # in one report
LONGEST_US = 62_000_000  # of one record


class MeterState(StrEnum):
    READY = "ready"
    ASLEEP = "asleep"


class MeterRecord(msgspec.Struct, kw_only=True, frozen=True):
    """Times in microseconds: of the monotonic clock, and of the wall clock since 1970."""

    seq: int
    replica_id: str
    state: MeterState
    devices: int
    mono_start_us: int
    mono_end_us: int
    before_us: int = 0  # how long the replica had been ready before this stretch
    wall_start_us: int
    wall_end_us: int


class MeterBody(msgspec.Struct, kw_only=True, frozen=True):
    node_id: str
    machine_boot: str
    records: list[MeterRecord]


class MeterBatch(msgspec.Struct, kw_only=True, frozen=True):
    """`body` is a MeterBody as JSON, byte for byte what was signed (`signed_bytes`)."""

    body: bytes
    signature: bytes
    certificate: bytes  # DER: of the key that signed


def signed_bytes(body: bytes) -> bytes:
    """What a node signs: nothing else that it signs begins so."""
    return b"stoa-meter-v1\n" + body
