"""The evidence of one invoice as a file that its customer checks alone. Pure: no Django.

A ZIP of JSON, each file named in manifest.json with its SHA-256; manifest.sig is the signed note
of the installation's signer over that, as in every bundle (compliance.bundles):

    invoice.json          the frozen document, byte for byte (its SHA-256 is in the audit log)
    billed.jsonl          its lines as they were charged, in the document's order
    prices.jsonl          every version of a price that may hold for the account
    terms.json            what was agreed with it: allowances, minimums, tiers
    events/2026-03.jsonl  the raw usage of a month that it bills, as it was known then, by time
    billed/2026-02.jsonl  what earlier invoices billed for a month that this one adjusts
    node/batches.jsonl    what nodes signed of those months (`proving`), as they signed it
    node/certificates.jsonl, node/authorities.jsonl   by which keys, and who vouched for those

Written and read as a stream: millions of events need no memory.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol, TypeVar

import msgspec

from billing.meters.proving import Authority, Certificate, Signed
from billing.pricing.charges import Charge
from billing.pricing.terms import Terms
from billing.rating import PriceVersion
from compliance.bundles.stoa_verify import Tampered, Vkey, open_note

FORMAT = "stoa-invoice-evidence-1"
KIND = "invoice_evidence"
_MADE = (1980, 1, 1, 0, 0, 0)  # the same evidence is the same bytes
_LONGEST = 1 << 20  # of a line
_LARGEST = 64 << 20  # of a file that is read whole
_BATCHES, _CERTIFICATES = "node/batches.jsonl", "node/certificates.jsonl"
_AUTHORITIES = "node/authorities.jsonl"


class Unreadable(ValueError):
    """The bundle is damaged, incomplete, or none; the message says where."""


class Event(msgspec.Struct, frozen=True):
    """One raw usage event, its fields named as in exports."""

    id: str
    at: datetime
    project_id: str
    endpoint_id: str
    region: str
    meter: str
    basis: str
    quantity: int
    key_id: str
    replica_id: str
    request_id: str
    device_kind: str
    share: int
    agent: str
    run: str
    flags: tuple[str, ...]


class Head(msgspec.Struct, frozen=True):
    """What the invoice is. `upto`: usage with a higher number came after it had been drawn."""

    id: str
    label: str
    account_id: str
    currency: str
    start: datetime
    end: datetime
    json_sha256: str = ""
    upto: int | None = None


class Source(Protocol):
    """What a recomputation asks: a bundle, or the database."""

    @property
    def head(self) -> Head: ...

    def document(self) -> bytes:
        """Empty while the invoice is a draft."""
        ...

    def billed(self) -> Iterable[Charge]: ...

    def prices(self) -> Iterable[PriceVersion]: ...

    def terms(self) -> Terms: ...

    def adjusted(self) -> list[datetime]:
        """The starts of the earlier months that it adjusts."""
        ...

    def events(self, month: datetime) -> Iterator[Event]:
        """By time and id."""
        ...

    def earlier(self, month: datetime) -> Iterable[Charge]:
        """What was billed for an adjusted month before."""
        ...

    def batches(self) -> Iterable[Signed]:
        """What nodes signed of its account's replicas in these months; perhaps of others too."""
        ...

    def certificates(self) -> Iterable[Certificate]: ...

    def authorities(self) -> Iterable[Authority]: ...


class _Manifest(msgspec.Struct, frozen=True):
    format: str
    invoice: Head
    adjusted: list[datetime]
    files: dict[str, str]  # SHA-256, in hexadecimal digits


_encoder = msgspec.json.Encoder(enc_hook=str)  # a Fraction: "7/3"
_T = TypeVar("_T")


def _decoder(of: type[_T]) -> "msgspec.json.Decoder[_T]":
    return msgspec.json.Decoder(of, dec_hook=lambda kind, value: kind(value))


def write(source: Source, file: IO[bytes], sign: Callable[[str], str] | None = None) -> None:
    """All of `source` into `file`, as one pass. `sign`: the note over the manifest's SHA-256."""
    sums: dict[str, str] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def put(name: str, chunks: Iterable[bytes]) -> None:
            digest = hashlib.sha256()
            with archive.open(_named(name), "w", force_zip64=True) as entry:
                for chunk in chunks:
                    digest.update(chunk)
                    entry.write(chunk)
            sums[name] = digest.hexdigest()

        document = source.document()
        if document:
            put("invoice.json", [document])
        put("billed.jsonl", _rows(source.billed()))
        put("prices.jsonl", _rows(source.prices()))
        put("terms.json", [_encoder.encode(source.terms())])
        adjusted = source.adjusted()
        for month in (source.head.start, *adjusted):
            put(_events(month), _rows(source.events(month)))
        for month in adjusted:
            put(_billed(month), _rows(source.earlier(month)))
        put(_BATCHES, _rows(source.batches()))
        put(_CERTIFICATES, _rows(source.certificates()))
        put(_AUTHORITIES, _rows(source.authorities()))
        manifest = _Manifest(FORMAT, source.head, adjusted, sums)
        said = msgspec.json.format(_encoder.encode(manifest))
        archive.writestr(_named("manifest.json"), said)
        if sign:
            archive.writestr(_named("manifest.sig"), sign(hashlib.sha256(said).hexdigest()))


class Bundle:
    """A `Source` out of a file. Whatever is read is compared with its sum, and raises
    `Unreadable` where it is not what was written."""

    def __init__(self, path: Path, vkeys: Sequence[Vkey] = ()) -> None:
        """With `vkeys` only what one of them signed is read. Raises Unreadable, and OSError for a
        file that is not there."""
        try:
            self._archive = zipfile.ZipFile(path)
            said = self._whole("manifest.json", "")
            if vkeys:
                self._signed(said, vkeys)
            self._manifest = _decoder(_Manifest).decode(said)
        except (zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise Unreadable(f"{path.name} is no evidence of an invoice: {error}") from error
        if self._manifest.format != FORMAT:
            raise Unreadable(f"{path.name} is of the format {self._manifest.format!r}")

    def _signed(self, said: bytes, vkeys: Sequence[Vkey]) -> None:
        try:
            text, by = open_note(self._whole("manifest.sig", ""), vkeys, "manifest.sig")
        except Tampered as error:
            raise Unreadable(str(error)) from error
        end = f"/bundle\n{KIND}\n{hashlib.sha256(said).hexdigest()}\n"
        if not by or not text.endswith(end.encode()):
            raise Unreadable("manifest.sig is no signature of this manifest by the given key")

    def close(self) -> None:
        self._archive.close()

    @property
    def head(self) -> Head:
        return self._manifest.invoice

    def document(self) -> bytes:
        if "invoice.json" not in self._manifest.files:
            return b""
        return self._whole("invoice.json", self._sum("invoice.json"))

    def billed(self) -> Iterator[Charge]:
        return self._read("billed.jsonl", Charge)

    def prices(self) -> Iterator[PriceVersion]:
        return self._read("prices.jsonl", PriceVersion)

    def terms(self) -> Terms:
        name = "terms.json"
        try:
            return _decoder(Terms).decode(self._whole(name, self._sum(name)))
        except (msgspec.DecodeError, ValueError) as error:
            raise Unreadable(f"{name}: {error}") from error

    def adjusted(self) -> list[datetime]:
        return self._manifest.adjusted

    def events(self, month: datetime) -> Iterator[Event]:
        return self._read(_events(month), Event)

    def earlier(self, month: datetime) -> Iterator[Charge]:
        return self._read(_billed(month), Charge)

    def batches(self) -> Iterator[Signed]:
        return self._given(_BATCHES, Signed)

    def certificates(self) -> Iterator[Certificate]:
        return self._given(_CERTIFICATES, Certificate)

    def authorities(self) -> Iterator[Authority]:
        return self._given(_AUTHORITIES, Authority)

    def _given(self, name: str, of: type[_T]) -> Iterator[_T]:
        """Nothing of evidence that was written before there were such files."""
        return self._read(name, of) if name in self._manifest.files else iter(())

    def _sum(self, name: str) -> str:
        try:
            return self._manifest.files[name]
        except KeyError:
            raise Unreadable(f"{name} is missing") from None

    def _whole(self, name: str, expected: str) -> bytes:
        with self._entry(name) as entry:
            content = entry.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise Unreadable(f"{name} is larger than it can be")
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise Unreadable(f"{name} is not what was written: its SHA-256 differs")
        return content

    def _read(self, name: str, of: type[_T]) -> Iterator[_T]:
        expected, decoder, digest = self._sum(name), _decoder(of), hashlib.sha256()
        number = 0
        with self._entry(name) as entry:
            try:
                while line := entry.readline(_LONGEST):
                    number += 1
                    digest.update(line)
                    yield decoder.decode(line)
            except (msgspec.DecodeError, ValueError, TypeError) as error:
                raise Unreadable(f"{name}, line {number}: {error}") from error
            except zipfile.BadZipFile as error:
                raise Unreadable(f"{name}: {error}") from error
        if digest.hexdigest() != expected:
            raise Unreadable(f"{name} is not what was written: its SHA-256 differs")

    def _entry(self, name: str) -> IO[bytes]:
        try:
            return self._archive.open(name)
        except KeyError:
            raise Unreadable(f"{name} is missing") from None


def _rows(rows: Iterable[object]) -> Iterator[bytes]:
    block = bytearray()
    for row in rows:
        block += _encoder.encode(row)
        block += b"\n"
        if len(block) > 1 << 16:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _named(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _MADE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _events(month: datetime) -> str:
    return f"events/{month:%Y-%m}.jsonl"


def _billed(month: datetime) -> str:
    return f"billed/{month:%Y-%m}.jsonl"
