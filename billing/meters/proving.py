"""The signed records of nodes behind an invoice's device-seconds, checked as its customer does.

Pure: no Django, no settings. Signatures need the package `cryptography`; without it the sums are
made all the same, and it is said that nobody checked who signed.
"""

import bisect
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Protocol

import msgspec

# A record is placed by its node's wall clock, which may be off: it counts for a month, and for the
# hour before and after it.
MARGIN = timedelta(hours=1)
UNPROVED = "unproved"  # the flag of seconds for which no record was ever kept
ASLEEP = "asleep"
_METERS = {"device_seconds": "ready", "warm_seconds": "ready", "asleep_seconds": ASLEEP}
_PREFIX = b"stoa-meter-v1\n"  # what a node signs begins so
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 5  # problems of one kind

CHECKED = "checked"
NO_PACKAGE = "not checked: the package cryptography is not installed"
PROVED, DIFFERS = "proved", "differs"
NONE, UNCHECKED = "no records", "signatures not checked"


class Signed(msgspec.Struct, frozen=True):
    """A batch as its node signed it: `body` is JSON, byte for byte (here in base64)."""

    node_id: str
    received_at: datetime
    certificate_sha256: str
    body: bytes
    signature: bytes


class Certificate(msgspec.Struct, frozen=True):
    """By which key a node signed; DER, in base64."""

    sha256: str
    node_id: str
    der: bytes


class Authority(msgspec.Struct, frozen=True):
    """Who vouches for nodes' keys in a region."""

    region: str
    certificate_pem: str


class _Record(msgspec.Struct, frozen=True):
    seq: int
    replica_id: str
    state: str
    devices: int
    mono_start_us: int
    mono_end_us: int
    wall_start_us: int


class _Body(msgspec.Struct, frozen=True):
    node_id: str
    machine_boot: str
    records: list[_Record]


class Used(Protocol):
    """A `bundle.Event`."""

    @property
    def replica_id(self) -> str: ...
    @property
    def meter(self) -> str: ...
    @property
    def basis(self) -> str: ...
    @property
    def quantity(self) -> int: ...
    @property
    def flags(self) -> tuple[str, ...]: ...


@dataclass
class Metered:
    """What came of it. Device-seconds: of an engine on eight devices, eight a second."""

    signatures: str = CHECKED
    batches: int = 0
    billed: int = 0
    recorded: Fraction = Fraction(0)
    unproved: int = 0  # billed, and flagged so
    authorities: list[str] = field(default_factory=list)  # region and SHA-256 of its certificate
    bare: list[str] = field(default_factory=list)  # months that no record tells of
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The worst that is to be said."""
        if self.problems:
            return DIFFERS
        if self.bare:
            return NONE
        return PROVED if self.signatures == CHECKED else UNCHECKED


class Tally:
    """What is billed of each replica in a month, to be held against records."""

    def __init__(self) -> None:
        self.billed: defaultdict[tuple[datetime, str, str], int] = defaultdict(int)
        self.unproved = 0

    def add(self, month: datetime, event: Used) -> None:
        state = _METERS.get(event.meter)
        if state is None or event.basis not in ("charge", "credit"):
            return
        quantity = event.quantity if event.basis == "charge" else -event.quantity
        if UNPROVED in event.flags:
            self.unproved += quantity
        else:
            self.billed[month, event.replica_id, state] += quantity


def check(
    tally: Tally,
    months: Mapping[datetime, datetime],
    batches: Iterable[Signed],
    certificates: Iterable[Certificate],
    authorities: Sequence[Authority],
) -> Metered:
    """Hold what is billed against what nodes signed; `months`: start and end of each.

    A second that a node tells twice counts once, and of a number that came with two contents the
    first; a batch that is not signed as it should counts for nothing.
    """
    found = Metered(billed=sum(tally.billed.values()), unproved=tally.unproved)
    told: defaultdict[tuple[datetime, str, str], _Stretches] = defaultdict(_Stretches)
    numbers: defaultdict[tuple[str, str], _Ranges] = defaultdict(_Ranges)
    signer = _signer(found, certificates, authorities)
    bad: defaultdict[str, int] = defaultdict(int)
    for batch in batches:
        found.batches += 1
        try:
            body = msgspec.json.decode(batch.body, type=_Body)
            wrong = "it speaks of another node" if body.node_id != batch.node_id else signer(batch)
        except msgspec.DecodeError as error:
            wrong = f"it cannot be read: {error}"
        if wrong:
            bad[f"a batch of node {batch.node_id}: {wrong}"] += 1
            continue
        known = numbers[body.node_id, body.machine_boot]
        for record in body.records:
            if not known.add(record.seq, record.seq + 1):
                continue
            wall = _EPOCH + timedelta(microseconds=record.wall_start_us)
            for start, end in months.items():
                if start - MARGIN <= wall < end + MARGIN:
                    place = told[start, record.replica_id, record.state]
                    place.add((body.node_id, body.machine_boot, record.devices), record)
    found.problems += _few([f"{what} ({count} times)" for what, count in bad.items()])
    found.recorded = sum((one.total for one in told.values()), Fraction(0))
    seen = {month for month, _, _ in told}
    owed = {month for (month, _, _), quantity in tally.billed.items() if quantity > 0}
    found.bare = [f"{month:%Y-%m}" for month in sorted(owed - seen)]
    found.problems += _few([*_short(tally, told, seen)])
    return found


def _short(
    tally: Tally,
    told: Mapping[tuple[datetime, str, str], "_Stretches"],
    seen: Collection[datetime],
) -> Iterable[str]:
    for key, billed in sorted(tally.billed.items()):
        month, replica_id, state = key
        if month not in seen:
            continue
        recorded = told[key].total if key in told else Fraction(0)
        if billed > recorded:
            yield (
                f"{replica_id}, {month:%Y-%m}: {billed} {state} device-seconds are billed,"
                f" and its node signed {float(recorded):.3f}"
            )


def _few(problems: list[str]) -> list[str]:
    left = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"and {left} more like these"] if left > 0 else [])


class _Ranges:
    """Whole numbers from start to end, each once. Neighbours become one, so that a month of
    minutes needs little memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> bool:
        """False where all of it was there."""
        low = bisect.bisect_left(self.kept, start, key=lambda one: one[1])
        high = bisect.bisect_right(self.kept, end, key=lambda one: one[0])
        if low < high:
            if self.kept[low][0] <= start and end <= self.kept[low][1]:
                return False
            start, end = min(start, self.kept[low][0]), max(end, self.kept[high - 1][1])
        self.kept[low:high] = [(start, end)]
        return True


class _Stretches:
    """Device-seconds of what was told of a replica."""

    def __init__(self) -> None:
        self._of: defaultdict[tuple[str, str, int], _Ranges] = defaultdict(_Ranges)

    def add(self, clock: tuple[str, str, int], record: _Record) -> None:
        """`clock`: node, boot and devices; stretches of one are of one monotonic clock."""
        if record.mono_end_us > record.mono_start_us and record.devices > 0:
            self._of[clock].add(record.mono_start_us, record.mono_end_us)

    @property
    def total(self) -> Fraction:
        told_us = sum(
            devices * (end - start)
            for (_, _, devices), ranges in self._of.items()
            for start, end in ranges.kept
        )
        return Fraction(told_us, 1_000_000)


# --- signatures ---------------------------------------------------------------------------


def _signer(
    found: Metered, certificates: Iterable[Certificate], authorities: Sequence[Authority]
) -> Callable[[Signed], str]:
    """Says why a batch is not signed as it should be; "" for one that is."""
    try:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    except ImportError:
        found.signatures = NO_PACKAGE
        return lambda batch: ""
    issuers = []
    for one in authorities:
        try:
            issuer = x509.load_pem_x509_certificate(one.certificate_pem.encode())
        except ValueError:
            found.problems.append(f"the authority's certificate of {one.region} cannot be read")
            continue
        issuers.append(issuer)
        found.authorities.append(f"{one.region} {issuer.fingerprint(hashes.SHA256()).hex()}")

    def issued(one: Certificate) -> Any:
        """Its key, where an authority vouched for it and its node; else why not, in words."""
        try:
            certificate = x509.load_der_x509_certificate(one.der)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (ValueError, x509.ExtensionNotFound) as error:
            return f"its certificate cannot be read: {error}"
        if hashlib.sha256(one.der).hexdigest() != one.sha256:
            return "its certificate is another one"
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        if [uri.rpartition("/node/")[2] for uri in uris] != [one.node_id]:
            return "its certificate is of another node"
        for issuer in issuers:
            try:
                certificate.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return certificate.public_key()
        return "its certificate is of no authority given"

    keys = {(one.sha256, one.node_id): issued(one) for one in certificates}

    def wrong(batch: Signed) -> str:
        key = keys.get((batch.certificate_sha256, batch.node_id), "its certificate is missing")
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(batch.signature, _PREFIX + batch.body)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(batch.signature, _PREFIX + batch.body, ec.ECDSA(hashes.SHA256()))
            else:
                return key if isinstance(key, str) else "its key is of no kind that is known"
        except InvalidSignature:
            return "its signature does not fit"
        return ""

    return wrong


# --- shown -----------------------------------------------------------------------------------


def as_json(found: Metered) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "signatures": found.signatures,
        "authorities": found.authorities,
        "batches": found.batches,
        "billed_device_seconds": found.billed,
        "recorded_device_seconds": f"{float(found.recorded):.3f}",
        "unproved_device_seconds": found.unproved,
        "months_without_records": found.bare,
        "problems": found.problems,
    }


def lines(found: Metered) -> list[str]:
    """For people."""
    shown = [
        f"{found.billed:,} device-seconds are billed; nodes recorded {float(found.recorded):,.3f},"
        f" in {found.batches:,} batches; signatures {found.signatures}"
    ]
    if found.bare:
        shown.append(f"NO RECORDS of nodes are given for {', '.join(found.bare)}")
    if found.unproved:
        shown.append(f"{found.unproved:,} more are flagged: no record was kept of them")
    shown += [f"authority {one}: compare it with what you know" for one in found.authorities]
    return shown + [f"PROBLEM: {problem}" for problem in found.problems]
