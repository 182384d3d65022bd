"""What stands in the spool, and how it is told from damage.

A record is framed as: 2 bytes that mark a beginning, payload length (u16), CRC-32 of the payload
(seeded with the length), payload (msgpack). Segments are preallocated, so zeros follow the last
record. A reader that meets damage looks for the next whole record: one bad sector must not cost
the rest of a segment.
"""

import struct
import zlib
from collections.abc import Iterator

import msgspec

MARK = b"\xc1S"  # 0xc1 is the one byte that msgpack never writes as a type
_HEAD = struct.Struct("<2sHI")

# An open record within its bound has a close record within its own, whatever it counts.
OPEN_MAX_BYTES = 3_600
CLOSE_MAX_BYTES = 3_820
_CLOSE_MORE = 180  # bytes that a close record may be longer than its open one
CHARGES_MAX = 26  # budgets that one request may count against


class Charge(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """So much of a budget's unit, from the lease of one counter. In an open record: where the
    request will be charged, the amount still 0."""

    budget_id: str
    window: str
    lease: int
    unit: str
    amount: int


class OpenRecord(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A request is about to be sent to a replica. Times in Unix microseconds."""

    request_id: str
    key_id: str
    project_id: str
    endpoint_id: str
    replica_id: str
    operation: str  # "chat.completions", …
    opened_at_us: int
    charges: tuple[Charge, ...] = ()
    prices: tuple[int, int, int] = (0, 0, 0)  # attoeuro a token: input, cached, output
    run: str = ""  # references, see gateway.runs
    agent: str = ""


class ProgressRecord(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """What has been delivered of a request that still runs."""

    request_id: str
    at_us: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class CloseRecord(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A request has ended: what is billed. `cached_tokens` are part of `input_tokens`."""

    request_id: str
    key_id: str
    project_id: str
    endpoint_id: str
    replica_id: str
    operation: str
    opened_at_us: int
    closed_at_us: int
    status: int  # of the HTTP response; 0 when nobody knows it any more
    finish: str
    counted_by: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    charges: tuple[Charge, ...] = ()
    nano_eur: int = 0  # what its tokens cost, or are worth on a dedicated endpoint
    run: str = ""
    agent: str = ""
    # Microseconds from its arrival to a first token, without the wait for a replica to start, and
    # from there to the last; 0: nobody can tell.
    first_us: int = 0
    decode_us: int = 0


Record = OpenRecord | ProgressRecord | CloseRecord

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def frame(record: Record) -> bytes:
    payload = _encode(record)
    length = len(payload)
    return _HEAD.pack(MARK, length, zlib.crc32(payload, length)) + payload


def close_bound(opened: OpenRecord, framed: int) -> int:
    """The most bytes that the close of a request takes whose open record took `framed`."""
    return framed + _CLOSE_MORE + 8 * len(opened.charges)


def scan(data: bytes | memoryview, start: int = 0) -> Iterator[tuple[int, Record]]:
    """Every whole record from `start` on, each with the offset at which it ends."""
    data = bytes(data)
    at = start
    while (at := data.find(MARK, at)) >= 0:
        record = _whole(data, at)
        if record is None:
            at += 1
            continue
        at += _HEAD.size + _length(data, at)
        yield at, record


def _length(data: bytes, at: int) -> int:
    return int.from_bytes(data[at + 2 : at + 4], "little")


def _whole(data: bytes, at: int) -> Record | None:
    body = at + _HEAD.size
    if body > len(data):
        return None
    _, length, crc = _HEAD.unpack_from(data, at)
    payload = data[body : body + length]
    if not length or len(payload) != length or zlib.crc32(payload, length) != crc:
        return None
    try:
        record: Record = _decode(payload)
    except msgspec.MsgspecError:
        return None
    return record
