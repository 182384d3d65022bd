#!/usr/bin/env python3
"""Check a Stoa evidence bundle alone: Python 3.11 or later and `cryptography`, no network.

    python3 stoa_verify.py bundle.zip --vkey VKEY [--prev CHECKPOINT] [--witness CHECKPOINT]

VKEY is the public key of the installation's log, as you had it from elsewhere than the bundle:
`name+12ab34cd+base64`. CHECKPOINT is a checkpoint of the same log that you or somebody else kept,
as a file of its own or as a bundle. Exit 0: everything holds; 2: tampered with; 3: nothing
contradicts, but something is missing that the check needs; 64: wrong usage.

Formats: C2SP signed-note, tlog-checkpoint and tlog-cosignature; RFC 6962 and 9162; RFC 8785.
"""

import argparse
import base64
import binascii
import hashlib
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OK, TAMPERED, INCOMPLETE, USAGE = 0, 2, 3, 64
VERDICTS = {OK: "ok", TAMPERED: "tampered", INCOMPLETE: "incomplete"}
FORMAT = "stoa-bundle/1"
CHUNK = 1 << 20
MAX_FILES = 10_000
MAX_WHOLE = 8 << 20  # of a file that is read whole: the manifest, a note, a proof
MAX_LINE = 1 << 18
MAX_REPORTED = 20
ZIP64 = (1 << 31) - 1  # from here on sizes and offsets stand in the extra fields
BODY = b'{"body":'  # a line of events: {"body":{…},"index":7}, the body in its exact bytes
EMPTY_ROOT = hashlib.sha256().digest()
CERTIFIERS = {"certificate", "erasure", "data_key"}  # what an event that certifies is about
PROVED = (
    "the files are those whose sums the installation signed",
    "no event of the log was altered, removed, reordered or inserted up to its checkpoint",
)
NOT_PROVED = (
    "that everything which happened was logged, or that what was logged is true",
    "that the tables are complete: they are what the installation signed; log/ alone is proved",
    "that others were shown the same log: compare with checkpoints that they keep (--witness)",
    "the time at which the checkpoint was signed: no outside time stamp is checked",
)
RECEIPT = "residency_receipt"
RECEIPT_PROVED = ("the receipt is the one that the installation signed for this organization",)
RECEIPT_NOT_PROVED = (
    "that what the receipt says is true: it is what the installation's books had",
    "the time at which it was signed: no outside time stamp is checked",
)


class Tampered(Exception):
    """Something contradicts what was signed; the message says what and where."""


class Usage(Exception):
    pass


def canonical(value: Any) -> bytes:
    """RFC 8785 for objects, lists, texts, whole numbers, true, false and null."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def decoded(data: bytes, what: str, exact: bool = True) -> Any:
    """JSON in which no name stands twice in an object; if `exact`, with whole numbers alone."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text[:20]} is no whole number")

    try:
        floats = refuse if exact else float
        return json.loads(data, object_pairs_hook=unique, parse_constant=refuse, parse_float=floats)
    except (ValueError, RecursionError) as error:
        raise Tampered(f"{what} cannot be read: {str(error)[:80]}") from None


def unbase64(text: str, what: str, size: int | None = None) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        data = None
    if data is None or base64.b64encode(data).decode() != text or size not in (None, len(data)):
        raise Tampered(f"{what} is no base64" + (f" of {size} bytes" if size else ""))
    return data


# --- the ZIP: taken as hostile ------------------------------------------------------------------


class Entry(NamedTuple):
    start: int  # of the content
    size: int
    crc: int


def local_header(name: bytes, size: int, crc: int) -> bytes:
    """The one way in which a bundle writes it: stored, no flags, 1 January 1980."""
    big = size > ZIP64
    said, extra = (0xFFFFFFFF, struct.pack("<HHQQ", 1, 16, size, size)) if big else (size, b"")
    version, day = 45 if big else 20, 0x21
    head = (b"PK\3\4", version, 0, 0, 0, day, crc, said, said, len(name), len(extra))
    return struct.pack("<4s5H3L2H", *head) + name + extra


def central_directory(entries: dict[str, Entry], start: int) -> bytes:
    """All that follows the last content: it is made anew and compared, never believed."""
    parts: list[bytes] = []
    for path, entry in entries.items():
        name = path.encode()
        offset = entry.start - len(local_header(name, entry.size, entry.crc))
        large, far = entry.size > ZIP64, offset > ZIP64
        numbers = [entry.size] * 2 * large + [offset] * far
        extra = (
            struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        )
        version, said = 45 if numbers else 20, 0xFFFFFFFF if large else entry.size
        head = (b"PK\1\2", version | 3 << 8, version, 0, 0, 0, 0x21, entry.crc, said, said)
        tail = (len(name), len(extra), 0, 0, 0, 0o100644 << 16, 0xFFFFFFFF if far else offset)
        parts += [struct.pack("<4s6H3L", *head), struct.pack("<5H2L", *tail), name, extra]
    size, count = sum(map(len, parts)), len(entries)
    if max(start, size) > ZIP64:
        end = (b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
        parts += [struct.pack("<4sQ2H2L4Q", *end)]
        parts += [struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)]
    size, start = min(size, 0xFFFFFFFF), min(start, 0xFFFFFFFF)
    return b"".join(
        [*parts, struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, 0)]
    )


class Archive:
    """The one form of ZIP that a bundle has: stored files end to end, and nothing beside them."""

    PATH = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*){0,4}", re.IGNORECASE)

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.entries: dict[str, Entry] = {}
        self._lower: set[str] = set()
        length = file.seek(0, 2)
        end = 0
        while entry := self._header(end, length):
            end = entry.start + entry.size
        file.seek(end)
        expected = central_directory(self.entries, end)
        if file.read(len(expected) + 1) != expected:
            raise Tampered("the ZIP's directory is not that of its files, or something follows it")

    def _header(self, at: int, length: int) -> Entry | None:
        self._file.seek(at)
        head = self._file.read(30)
        if head[:4] != b"PK\3\4" or len(head) < 30:
            if not at:
                raise Tampered("this is no bundle: it does not begin with a ZIP's first file")
            return None
        crc, size, _, name_size, extra_size = struct.unpack("<3L2H", head[14:])
        rest = self._file.read(name_size + extra_size)
        name, extra = rest[:name_size], rest[name_size:]
        if size == 0xFFFFFFFF and len(extra) == 20:
            size = struct.unpack("<Q", extra[4:12])[0]
        if head + rest != local_header(name, size, crc):
            raise Tampered(f"the ZIP's header at byte {at} is not as bundles have it")
        path = name.decode("ascii", "replace")
        if not self.PATH.fullmatch(path) or len(path) > 200:
            raise Tampered(f"a file's name is not allowed: {path[:60]!a}")
        if path.lower() in self._lower or len(self._lower) == MAX_FILES:
            raise Tampered(f"{path} is there twice, or there are too many files")
        self._lower.add(path.lower())
        entry = Entry(at + len(head) + len(rest), size, crc)
        if entry.start + size > length:
            raise Tampered(f"{path} is cut off, or its size is a lie")
        self.entries[path] = entry
        return entry

    def part(self, path: str, start: int, size: int) -> bytes:
        self._file.seek(self.entries[path].start + start)
        return self._file.read(min(size, self.entries[path].size - start))

    def chunks(self, path: str, size: int = CHUNK) -> Iterator[bytes]:
        for start in range(0, self.entries[path].size, size):
            yield self.part(path, start, size)

    def whole(self, path: str) -> bytes:
        if path not in self.entries:
            raise Tampered(f"{path} is missing")
        if self.entries[path].size > MAX_WHOLE:
            raise Tampered(f"{path} is larger than it can be")
        return self.part(path, 0, MAX_WHOLE)

    def lines(self, path: str) -> Iterator[bytes]:
        for block in self.blocks(path):
            yield from block[:-1].split(b"\n")

    def blocks(self, path: str) -> Iterator[bytes]:
        """Whole lines, about a megabyte at a time."""
        rest = b""
        for chunk in self.chunks(path):
            whole, newline, last = chunk.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
                rest = last
            else:
                rest += chunk
            if len(rest) > MAX_LINE:
                raise Tampered(f"{path} has a line that is longer than it can be")
        if rest:
            raise Tampered(f"{path} ends within a line")


# --- signed notes and checkpoints ---------------------------------------------------------------


class Vkey(NamedTuple):
    name: str
    id: bytes
    algorithm: int  # 1: Ed25519; 4: cosignature/v1
    key: Ed25519PublicKey

    @classmethod
    def parse(cls, text: str) -> "Vkey":
        name, hex_id, coded = [*text.strip().split("+", 2), "", ""][:3]
        try:
            data, id = base64.b64decode(coded, validate=True), bytes.fromhex(hex_id)
            if not name or re.search(r"\s", name) or len(data) != 33 or data[0] not in (1, 4):
                raise ValueError
            if hashlib.sha256(name.encode() + b"\n" + data).digest()[:4] != id:
                raise ValueError
            return cls(name, id, data[0], Ed25519PublicKey.from_public_bytes(data[1:]))
        except ValueError:
            raise Usage(f"{text!r} is no public key: expected name+12ab34cd+base64") from None

    def verify(self, text: bytes, signature: bytes) -> bool:
        if self.algorithm == 4:
            at = int.from_bytes(signature[:8], "big")
            text, signature = b"cosignature/v1\ntime %d\n%b" % (at, text), signature[8:]
        try:
            self.key.verify(signature, text)
        except InvalidSignature:
            return False
        return True


def open_note(note: bytes, vkeys: Iterable[Vkey], what: str) -> tuple[bytes, set[str]]:
    """The text of a signed note, and the names of the known keys that signed it.

    Unknown keys are passed over; a signature of a known key that fails refuses the whole note.
    """
    text, separator, tail = note.rpartition(b"\n\n")
    lines = tail[:-1].split(b"\n")
    broken = re.search(rb"[\x00-\x09\x0b-\x1f]", note)
    if not separator or not tail.endswith(b"\n") or broken or len(lines) > 100:
        raise Tampered(f"{what} is no signed note")
    text += b"\n"
    known = {(vkey.name, vkey.id): vkey for vkey in vkeys}
    signed = set()
    for line in lines:
        match = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)", line.decode("utf-8", "replace"))
        if match is None:
            raise Tampered(f"{what} has a signature that cannot be read")
        data = unbase64(match[2], f"a signature of {what}")
        vkey = known.pop((match[1], data[:4]), None)  # a second one of the same key is passed over
        if vkey is not None:
            if not vkey.verify(text, data[4:]):
                raise Tampered(f"{what}: the signature of {vkey.name} does not fit its text")
            signed.add(vkey.name)
    return text, signed


class Checkpoint(NamedTuple):
    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: bytes, what: str) -> "Checkpoint":
        origin, size, root, *more = [*text.decode("utf-8", "replace").split("\n"), "", ""]
        plain = re.fullmatch("0|[1-9][0-9]{0,15}", size)
        if not origin or plain is None or not all(more[:-3]):
            raise Tampered(f"{what} is no checkpoint")
        return cls(origin, int(size), unbase64(root, f"the root of {what}", 32))


def signed_checkpoint(note: bytes, vkeys: list[Vkey], what: str) -> Checkpoint:
    text, signed = open_note(note, (vkey for vkey in vkeys if vkey.algorithm == 1), what)
    if not signed:
        raise Tampered(f"{what} is not signed by the key that you gave")
    return Checkpoint.parse(text, what)


def announced(archive: Archive, vkeys: list[Vkey]) -> list[Vkey]:
    """Those keys, and the ones that they announced as their successors, link by link.

    An announcement is a note over `NAME/rotate` and the next key, signed by the key before it and
    by that one. One of a key that nobody gave leads nowhere.
    """
    known = list(vkeys)
    there = {"log/checkpoint", "log/keys.jsonl"} <= set(archive.entries)
    for line in archive.lines("log/keys.jsonl") if there else ():
        changes = decoded(line, "log/keys.jsonl", exact=False)["body"]["change"]
        note = next(one["to"] for one in changes if one["path"] == "note").encode()
        what = "the announcement of a key"
        text, by = open_note(note, (one for one in known if one.algorithm == 1), what)
        first, said, rest = [*text.decode().split("\n", 2), "", ""][:3]
        try:
            new = Vkey.parse(said)
        except Usage as error:
            raise Tampered(f"{what}: {error}") from None
        if new.name not in by:
            continue
        if rest or first != f"{new.name}/rotate" or not open_note(note, [new], what)[1]:
            raise Tampered(f"{what} is not signed by that key, or is none")
        known.append(new)
    return known


# --- Merkle trees -------------------------------------------------------------------------------


class Tree:
    """A log's tree as its leaf hashes come, in memory of its depth."""

    def __init__(self) -> None:
        self.size = 0
        self._stack: list[tuple[int, bytes]] = []  # (level, hash): whole subtrees, left to right

    def extend(self, leaves: bytes) -> None:
        """More leaf hashes, 32 bytes each."""
        start, left = 0, len(leaves) // 32
        while left:
            level = min(left.bit_length() - 1, 15)
            if self.size:
                level = min(level, (self.size & -self.size).bit_length() - 1)
            self.push(level, subtree(leaves[start : start + (32 << level)]))
            start, left = start + (32 << level), left - (1 << level)

    def push(self, level: int, hash: bytes) -> None:
        """The next whole subtree of 2^level leaves."""
        if self.size % (1 << level):
            raise Tampered("a subtree of the range proof does not fit where it stands")
        self.size += 1 << level
        while self._stack and self._stack[-1][0] == level:
            hash = hashlib.sha256(b"\1" + self._stack.pop()[1] + hash).digest()
            level += 1
        self._stack.append((level, hash))

    def root(self) -> bytes:
        if not self._stack:
            return EMPTY_ROOT
        *stack, (_, hash) = self._stack
        for _, left in reversed(stack):
            hash = hashlib.sha256(b"\1" + left + hash).digest()
        return hash


def subtree(hashes: bytes) -> bytes:
    """The root over 2^n hashes."""
    sha256 = hashlib.sha256
    while len(hashes) > 32:
        pairs = range(0, len(hashes), 64)
        hashes = b"".join([sha256(b"\1" + hashes[at : at + 64]).digest() for at in pairs])
    return hashes


def roots_at(chunks: Iterable[bytes], sizes: set[int]) -> dict[int, bytes]:
    """The roots that the tree over all those leaf hashes had at some of its sizes."""
    tree, found = Tree(), {}
    waiting = sorted(sizes)
    for chunk in chunks:
        while waiting and waiting[0] <= tree.size + len(chunk) // 32:
            first = (waiting[0] - tree.size) * 32
            tree.extend(chunk[:first])
            chunk = chunk[first:]
            found[waiting.pop(0)] = tree.root()
        tree.extend(chunk)
    return found | {size: tree.root() for size in waiting if size == tree.size}


def included(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    node, last = index, size - 1
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            leaf = hashlib.sha256(b"\1" + sibling + leaf).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            leaf = hashlib.sha256(b"\1" + leaf + sibling).digest()
        node, last = node >> 1, last >> 1
    return last == 0 and 0 <= index < size and leaf == root


# --- the checks ---------------------------------------------------------------------------------


class Report:
    """What was checked and how it went; `facts` is for programs."""

    def __init__(self) -> None:
        self.checks: list[dict[str, str]] = []
        self.facts: dict[str, Any] = {}
        self.proved: tuple[str, ...] = PROVED
        self.not_proved: tuple[str, ...] = NOT_PROVED

    def add(self, check: str, outcome: str, detail: str) -> None:
        """`outcome`: ok | tampered | incomplete | note"""
        self.checks.append({"check": check, "outcome": outcome, "detail": detail})

    def exit_code(self) -> int:
        outcomes = {check["outcome"] for check in self.checks}
        return TAMPERED if "tampered" in outcomes else INCOMPLETE * ("incomplete" in outcomes)


class Options(NamedTuple):
    vkeys: list[Vkey]
    previous: tuple[Path, ...] = ()
    witnesses: tuple[Path, ...] = ()
    cosigners: tuple[Vkey, ...] = ()
    quorum: int = 1
    max_silence: int = 0  # seconds; 0: silences are only told
    max_step_back: int = 3600


def check_manifest(archive: Archive, vkeys: list[Vkey]) -> dict[str, Any]:
    data = archive.whole("manifest.json")
    note, known = archive.whole("manifest.sig"), [one for one in vkeys if one.algorithm == 1]
    text, signed = open_note(note, known, "manifest.sig")
    if not signed:
        raise Tampered("manifest.sig is not signed by the key that you gave")
    if text.rstrip(b"\n").rpartition(b"\n")[2] != hashlib.sha256(data).hexdigest().encode():
        raise Tampered("manifest.json is not the one that was signed")
    manifest: dict[str, Any] = decoded(data, "manifest.json")
    if canonical(manifest) != data or manifest["format"] != FORMAT:
        raise Tampered(f"manifest.json is no canonical one of the format {FORMAT}")
    said = f"{manifest['origin']}/bundle\n{manifest['kind']}\n"
    if not text.startswith(said.encode()) or text.count(b"\n") != 3:
        raise Tampered("the signature is one for another log or another kind of bundle")
    return manifest


def check_files(archive: Archive, files: list[dict[str, Any]]) -> None:
    paths = [file["path"] for file in files]
    there = list(archive.entries)[2:]
    if list(archive.entries)[:2] != ["manifest.json", "manifest.sig"] or there != sorted(paths):
        odd = sorted(set(there) ^ set(paths))
        said = f"{odd[0]} was {'added' if odd[0] in there else 'removed'}" if odd else "their order"
        raise Tampered(f"the files are not those of the manifest: {said}")
    for file in files:
        path, digest, crc, lines = file["path"], hashlib.sha256(), 0, 0
        for chunk in archive.chunks(path):
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
            lines += chunk.count(b"\n")
        if (digest.hexdigest(), archive.entries[path].size) != (file["sha256"], file["size"]):
            said = altered_event(archive) if path == "log/events.jsonl" else ""
            raise Tampered(f"{path} is not what was signed: its SHA-256 differs{said}")
        if crc != archive.entries[path].crc:
            raise Tampered(f"{path}: the ZIP's own sum of it differs")
        if path.endswith(".jsonl") and file.get("rows", lines) != lines:
            raise Tampered(f"{path} has {lines} rows, the manifest says {file['rows']}")
    for path in ("manifest.json", "manifest.sig"):
        if zlib.crc32(archive.whole(path)) != archive.entries[path].crc:
            raise Tampered(f"{path}: the ZIP's own sum of it differs")


def altered_event(archive: Archive) -> str:
    """The first event that is not the leaf of its index, as far as a damaged bundle tells."""
    if "log/hashes.bin" in archive.entries:
        for line in archive.lines("log/events.jsonl"):
            start, _, tail = line.rpartition(b',"index":')
            if tail[:-1].isdigit() and len(tail) < 20:
                expected = archive.part("log/hashes.bin", 32 * int(tail[:-1]), 32)
                if hashlib.sha256(b"\0" + start.removeprefix(BODY)).digest() != expected:
                    return f"; event {int(tail[:-1])} is not the one that the log holds"
    return ""


def commitment(salt: str, path: str, value: str) -> str:
    digest = hashlib.sha256(canonical([salt, path, value])).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Openings:
    """Personal values that are disclosed, or said to be erased, beside the events' commitments."""

    def __init__(self, archive: Archive, certificates: set[str]) -> None:
        there = "log/disclosed.jsonl" in archive.entries
        self._lines = archive.lines("log/disclosed.jsonl") if there else iter(())
        self._certificates = certificates
        self.disclosed = self.redacted = self.withheld = self.uncertified = 0
        self._next()

    def _next(self) -> None:
        line = next(self._lines, None)
        self._item = decoded(line, "log/disclosed.jsonl") if line is not None else None
        self.index: int = self._item["index"] if self._item else -1

    def check(self, index: int, body: bytes) -> None:
        """All of one event; events come by index, and so do the openings."""
        event = decoded(body, f"event {index}", exact=False)
        open_ = set(event.get("d", ()))
        while self._item is not None and self.index == index:
            item, what = (
                self._item,
                f"event {index}: what is said of {self._item.get('path', '')!r}",
            )
            redacted = "redacted" in item
            said = item["commitment"] if redacted else commitment(*map(item.get, _OPENED))
            if item["event"] != event["id"] or said not in open_:
                raise Tampered(f"{what} is not what the event commits to")
            open_.remove(said)
            if (
                redacted
                and item.get("certificate")
                and item["certificate"] not in self._certificates
            ):
                raise Tampered(f"{what}: no event of the log issued its certificate")
            self.redacted += redacted
            self.uncertified += redacted and not item.get("certificate")
            self.disclosed += not redacted
            self._next()
        self.withheld += len(open_)

    def done(self) -> None:
        if self._item is not None:
            raise Tampered(f"log/disclosed.jsonl speaks of an event {self.index} that has none")


_OPENED = ("salt", "path", "value")


class Events:
    """log/events.jsonl as leaf hashes, block by block, with what time and openings say."""

    def __init__(self, archive: Archive, first: int, openings: Openings, all_open: bool) -> None:
        self._blocks = archive.blocks("log/events.jsonl")
        self._openings, self._all_open = openings, all_open
        self._committed: list[tuple[int, bytes]] = []
        self.index = first
        self.first_at = self.last_at = b""
        self.step_back = self.silence = 0.0
        self.silent_from = b""
        self._hour, self._latest = (b"", 0.0), 0.0

    def hashes(self) -> Iterator[bytes]:
        for block in self._blocks:
            yield b"".join(self._block(block))
            for index, body in self._committed:  # now that they are known to be the log's
                if self._all_open or self._openings.index == index:
                    self._openings.check(index, body)
        self._openings.done()

    def _block(self, block: bytes) -> list[bytes]:
        sha256, found, self._committed = hashlib.sha256, [], []
        watch = self._all_open or self._openings.index >= 0
        index, last, minute = self.index, self.last_at, self.last_at[:16]
        for line in block[:-1].split(b"\n"):
            tail = b',"index":%d}' % index
            if not line.startswith(BODY) or not line.endswith(tail):
                raise Tampered(
                    f"log/events.jsonl is not contiguous: event {index} is not in its place"
                )
            body = line[len(BODY) : -len(tail)]
            found.append(sha256(b"\0" + body).digest())
            # Canonical JSON ends so for every event that has a time and a version of one digit.
            if body[-41:-35] == b'"ts":"' and body[-8:-2] == b'","v":':
                at = body[-35:-8]
                if at[:16] != minute:
                    self._minute(at, last)
                    minute = at[:16]
                if at > last:
                    last = at
            if watch and b'"d":[]' not in body:
                self._committed.append((index, body))
            index += 1
        self.index, self.last_at = index, last
        return found

    def _minute(self, at: bytes, last: bytes) -> None:
        """The first event of another minute than the one before it was of."""
        if at[:13] != self._hour[0]:
            self._hour = at[:13], moment(at[:13] + b":00:00Z").timestamp()
        seconds = self._hour[1] + 60 * int(at[14:16]) + int(at[17:19])
        if not last:
            self.first_at = at
        else:
            self.step_back = max(self.step_back, self._latest - seconds)
            if seconds - self._latest > self.silence:
                self.silence, self.silent_from = seconds - self._latest, last
        self._latest = max(self._latest, seconds)


def moment(text: bytes | str) -> datetime:
    return datetime.fromisoformat(text if isinstance(text, str) else text.decode())


class Log:
    """The log's part of a bundle."""

    def __init__(self, archive: Archive, manifest: dict[str, Any], note: bytes, vkeys: list[Vkey]):
        self.archive, self.manifest, self.note, self.vkeys = archive, manifest, note, vkeys
        self.checkpoint = signed_checkpoint(note, vkeys, "log/checkpoint")
        self.proof: dict[str, Any] = manifest["log_proof"]
        said = (self.proof["origin"], self.proof["size"], self.proof["root"])
        root = base64.b64encode(self.checkpoint.root).decode()
        if said != (self.checkpoint.origin, self.checkpoint.size, root):
            raise Tampered("log/checkpoint is not the one that the manifest speaks of")
        # A log that follows another after a restore has a number behind its name.
        later = re.fullmatch(r"(/\d{1,9})?", said[0].removeprefix(manifest["origin"]))
        if later is None:
            raise Tampered(f"the checkpoint is of {said[0]}, the bundle of {manifest['origin']}")
        self.first, self.count = self.proof["first"], self.proof["count"]
        if not 0 <= self.first <= self.first + self.count <= self.checkpoint.size:
            raise Tampered("the events are not within the log")
        self.whole = "log/hashes.bin" in archive.entries

    def roots(self, sizes: set[int]) -> dict[int, bytes]:
        """At the sizes that can be known, of those wanted, by log/hashes.bin."""
        if not self.whole:
            return {}
        if self.archive.entries["log/hashes.bin"].size != 32 * self.checkpoint.size:
            raise Tampered("log/hashes.bin is not as long as the log")
        found = roots_at(self.archive.chunks("log/hashes.bin"), sizes | {self.checkpoint.size})
        if found[self.checkpoint.size] != self.checkpoint.root:
            raise Tampered("the root of log/hashes.bin is not the checkpoint's")
        return found

    def check_leaf(self, index: int, leaf: bytes) -> None:
        if not self.whole or self.archive.part("log/hashes.bin", 32 * index, 32) != leaf:
            raise Tampered(f"event {index} is not what the log holds at that place")

    def certificates(self) -> set[str]:
        """What events in log/certificates.jsonl, each proved to be in the log, certify."""
        found = set()
        if "log/certificates.jsonl" in self.archive.entries:
            for line in self.archive.lines("log/certificates.jsonl"):
                start, _, index = line.rpartition(b',"index":')
                body = start.removeprefix(BODY)
                self.check_leaf(int(index[:-1]), hashlib.sha256(b"\0" + body).digest())
                for target in decoded(body, "a certificate's event", exact=False)["target"]:
                    if target["type"] in CERTIFIERS:
                        found.add(target["id"])
        return found

    def check_events(self, openings: Openings) -> Events | None:
        if "log/events.jsonl" not in self.archive.entries:
            return None
        full = self.manifest.get("profile") == "full"
        events = Events(self.archive, self.first, openings, full)
        if self.whole:
            at = self.first
            for leaves in events.hashes():
                expected = self.archive.part("log/hashes.bin", 32 * at, len(leaves))
                if leaves != expected:
                    pairs = range(0, len(leaves), 32)
                    wrong = (n for n in pairs if leaves[n : n + 32] != expected[n : n + 32])
                    self.check_leaf(at + next(wrong) // 32, b"")
                at += len(leaves) // 32
        else:
            self._check_range(events)
        if events.index != self.first + self.count:
            raise Tampered(f"{events.index - self.first} events, the manifest says {self.count}")
        return events

    def _check_range(self, events: Events) -> None:
        """RFC 6962's tree of the subtrees to the left, the events, and those to the right."""
        sides = decoded(self.archive.whole("log/range.json"), "log/range.json")
        left, right = (
            [unbase64(one, "a subtree", 32) for one in sides[s]] for s in ("left", "right")
        )
        tree = Tree()

        def aside(hashes: list[bytes], end: int) -> None:
            for hash in hashes:
                room = (end - tree.size).bit_length() - 1
                aligned = (tree.size & -tree.size).bit_length() - 1 if tree.size else room
                if room < 0:
                    raise Tampered("log/range.json has more subtrees than there is room for")
                tree.push(min(room, aligned), hash)

        aside(left, self.first)
        for leaves in events.hashes():
            tree.extend(leaves)
        aside(right, self.checkpoint.size)
        if tree.size != self.checkpoint.size or tree.root() != self.checkpoint.root:
            raise Tampered("the events do not lead to the root of the checkpoint")


def check_meta(log: Log) -> Checkpoint:
    """That the log's checkpoint is in the log of all checkpoints."""
    meta = decoded(log.archive.whole("log/meta.json"), "log/meta.json")
    checkpoint = signed_checkpoint(meta["checkpoint"].encode(), log.vkeys, "the meta checkpoint")
    blinded = hashlib.sha256(unbase64(meta["salt"], "the meta salt") + log.note).digest()
    leaf = canonical({"c": base64.urlsafe_b64encode(blinded).rstrip(b"=").decode()})
    if meta["leaf"].encode() != leaf or not checkpoint.origin.endswith("/audit/meta"):
        raise Tampered("log/meta.json speaks of another checkpoint")
    proof = [unbase64(one, "a hash of the meta proof", 32) for one in meta["proof"]]
    hashed = hashlib.sha256(b"\0" + leaf).digest()
    if not included(hashed, meta["index"], checkpoint.size, proof, checkpoint.root):
        raise Tampered("the checkpoint is not included in the log of checkpoints")
    return checkpoint


def check_kept(log: Log, path: Path, newer_refused: bool, report: Report) -> None:
    """Against a checkpoint that somebody kept: of a file with one, or of another bundle."""
    check = "previous" if newer_refused else "witness"
    with path.open("rb") as file:
        other = Archive(file) if file.read(4) == b"PK\3\4" else None
        file.seek(0)
        note = other.whole("log/checkpoint") if other else file.read(MAX_WHOLE)
        kept, mine = signed_checkpoint(note, log.vkeys, path.name), log.checkpoint
        if kept.origin != mine.origin:
            raise Tampered(f"{path.name} is of the log {kept.origin}, the bundle of {mine.origin}")
        if kept.size > mine.size and newer_refused:
            raise Tampered(
                f"an old checkpoint: the log had {kept.size} events when you looked last, "
                f"the bundle shows only {mine.size}"
            )
        if kept.size <= mine.size:
            same = log.roots({kept.size}).get(kept.size)
            if kept.size == mine.size:
                same = mine.root
        else:
            same = None
            if other and "log/hashes.bin" in other.entries:
                roots = roots_at(other.chunks("log/hashes.bin"), {mine.size, kept.size})
                if roots.get(kept.size) != kept.root:
                    raise Tampered(f"log/hashes.bin of {path.name} does not lead to its checkpoint")
                kept, same = kept._replace(root=roots[mine.size]), mine.root
    if same is None:
        report.add(check, "incomplete", f"{path.name} ({kept.size} events) cannot be compared")
    elif same != kept.root:
        raise Tampered(f"split view: the log of {path.name} and that of the bundle differ")
    else:
        report.add(check, "ok", f"the log only grew between {path.name} and the bundle")


def check_log(archive: Archive, manifest: dict[str, Any], options: Options, report: Report) -> None:
    if "log/checkpoint" not in archive.entries:
        asked = bool(options.previous or options.witnesses or options.cosigners)
        outcome = "incomplete" if asked or manifest["kind"] == "records" else "note"
        report.add("log", outcome, "the bundle carries no checkpoint of the log")
        return
    note = archive.whole("log/checkpoint")
    log = Log(archive, manifest, note, options.vkeys)
    mine = log.checkpoint
    report.add("checkpoint", "ok", f"{mine.origin}: {mine.size} events, signed")
    log.roots({mine.size})
    check_keys(log, report)
    openings = Openings(archive, log.certificates())
    events = log.check_events(openings)
    if events is None:
        openings.done()
        report.add("events", "note", "the bundle carries none")
    else:
        report.add("events", "ok", f"{log.count} from {log.first} on are those of the log")
        check_openings(openings, events, manifest, report)
        check_times(events, log, options, report)
    report.facts["log"] = mine._asdict() | {"root": mine.root.hex(), "first": log.first}
    for path in options.previous:
        check_kept(log, path, True, report)
    for path in options.witnesses:
        check_kept(log, path, False, report)
    notes = [note]
    if "log/meta.json" in archive.entries:
        meta = check_meta(log)
        notes.append(decoded(archive.whole("log/meta.json"), "")["checkpoint"].encode())
        report.add("meta", "ok", f"the checkpoint is in {meta.origin} of {meta.size}")
    else:
        report.add("meta", "note", "no proof that the checkpoint is in the log of checkpoints")
    if options.cosigners:
        signed = set[str]().union(
            *(open_note(one, options.cosigners, "a note")[1] for one in notes)
        )
        outcome = "ok" if len(signed) >= options.quorum else "incomplete"
        report.add("cosigned", outcome, f"by {len(signed)} of {options.quorum} witnesses")


def check_keys(log: Log, report: Report) -> None:
    """That the announcements of keys are events of the log."""
    if "log/keys.jsonl" in log.archive.entries:
        outcome, said = "note", "cannot be looked up: the bundle has no hashes of the whole log"
        if log.whole:
            for line in log.archive.lines("log/keys.jsonl"):
                start, _, index = line.rpartition(b',"index":')
                hashed = hashlib.sha256(b"\0" + start.removeprefix(BODY)).digest()
                log.check_leaf(int(index[:-1]), hashed)
            outcome, said = "ok", "are events of the log"
        report.add("keys", outcome, f"announcements of later keys {said}")


def check_openings(
    openings: Openings, events: Events, manifest: dict[str, Any], report: Report
) -> None:
    counts = (openings.disclosed, openings.redacted, openings.withheld)
    said = "{} personal values disclosed as the events commit to, {} erased".format(*counts)
    report.add("disclosed", "ok", said)
    if openings.uncertified:
        said = f"{openings.uncertified} are called erased without a certificate"
        report.add("disclosed", "incomplete", said)
    if manifest.get("profile") == "full" and openings.withheld:
        report.add("disclosed", "incomplete", f"{openings.withheld} are neither shown nor erased")
    report.facts["openings"] = dict(zip(("disclosed", "redacted", "withheld"), counts, strict=True))


def check_times(events: Events, log: Log, options: Options, report: Report) -> None:
    if not events.first_at:
        if log.checkpoint.size:
            report.add("period", "incomplete", "the bundle carries no event that has a time")
        return
    made, last = moment(log.manifest["created_at"]), moment(events.last_at)
    if (last - made).total_seconds() > 300:
        raise Tampered(f"an event of {last} is later than the bundle, made at {made}")
    bad = events.step_back > options.max_step_back
    if events.step_back > 5:
        said = f"times go back by up to {events.step_back:.0f} s"
        report.add("times", "incomplete" if bad else "note", said)
    if events.silence > (options.max_silence or log.proof.get("heartbeat_s", 0) * 3 or 1e18):
        said = (
            f"nothing was logged for {events.silence:.0f} s from {events.silent_from.decode()} on"
        )
        report.add("times", "incomplete" if options.max_silence else "note", said)
    if period := log.manifest.get("period"):
        start, end = moment(period["start"]), moment(period["end"])
        before = not log.first or moment(events.first_at) < start
        after = log.first + log.count == log.checkpoint.size or last >= end
        said = "the events reach over the whole period, or to the ends of the log"
        if not before or not after:
            said = "the events do not reach over the " + ("end" if before else "start")
        report.add("period", "ok" if before and after else "incomplete", said)


def check_receipt(data: bytes, vkeys: list[Vkey], report: Report) -> None:
    """A residency receipt as the API answers it: `note` signs the exact text of `body`."""
    report.proved, report.not_proved = RECEIPT_PROVED, RECEIPT_NOT_PROVED
    answer = decoded(data, "the receipt")
    body, note = answer["body"].encode(), answer["note"].encode()
    text, signed = open_note(note, [one for one in vkeys if one.algorithm == 1], "the note")
    if not signed:
        raise Tampered("the receipt is not signed by the key that you gave")
    receipt = decoded(body, "the receipt's body")
    digest = hashlib.sha256(body).hexdigest()
    log = f"/audit/t/{receipt['organization']}/bundle\n{RECEIPT}\n{digest}\n"
    if text.decode() not in {name + log for name in signed} or receipt["kind"] != RECEIPT:
        raise Tampered("the receipt is not the one that was signed")
    if answer["request"] != receipt["request"]:
        raise Tampered("the receipt is one of another request")
    report.facts |= {"kind": RECEIPT, "receipt": receipt}
    report.add("receipt", "ok", f"of {receipt['request']}, signed by the key that you gave")


def verify(path: Path, options: Options) -> Report:
    """Everything about one bundle or receipt. Raises OSError where it cannot be read."""
    report = Report()
    try:
        with path.open("rb") as file:
            if file.read(1) == b"{":
                file.seek(0)
                check_receipt(file.read(MAX_WHOLE), options.vkeys, report)
                return report
            archive = Archive(file)
            report.add("archive", "ok", f"{len(archive.entries)} files and nothing beside them")
            options = options._replace(vkeys=announced(archive, options.vkeys))
            manifest = check_manifest(archive, options.vkeys)
            report.facts |= {name: manifest[name] for name in ("kind", "id", "log", "origin")}
            report.add("manifest", "ok", "signed by the key that you gave")
            check_files(archive, manifest["files"])
            report.add("files", "ok", "every file is the one that was signed, and none more")
            check_log(archive, manifest, options, report)
    except Tampered as error:
        report.add("bundle", "tampered", str(error))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"something is not of the form that it has to have: {error!r}"
        report.add("bundle", "tampered", said[:200])
    return report


def shown(report: Report, path: Path, as_json: bool) -> str:
    verdict = VERDICTS[report.exit_code()]
    good = verdict != "tampered"
    if as_json:
        said = {"format": "stoa-verify/1", "bundle": path.name, "verdict": verdict} | report.facts
        said |= {
            "checks": report.checks,
            "proved": report.proved if good else (),
            "not_proved": report.not_proved,
        }
        return json.dumps(said, indent=1)
    lines = [f"{one['outcome']:10} {one['check']:10} {one['detail']}" for one in report.checks]
    if good:
        lines += ["", "This supports evidence", *(f"- {one}." for one in report.proved)]
        lines += ["It does not show", *(f"- {one}." for one in report.not_proved)]
    return "\n".join([*lines, "", f"verdict: {verdict}"])


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="stoa_verify.py", description="Check a Stoa evidence bundle or receipt alone."
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--vkey", action="append", required=True, help="the log's public key")
    parser.add_argument("--prev", action="append", type=Path, default=[], help="what you kept")
    parser.add_argument("--witness", action="append", type=Path, default=[], help="others kept")
    parser.add_argument("--witness-key", action="append", default=[], help="of a cosigner")
    parser.add_argument("--quorum", type=int, default=1, help="how many cosigners there must be")
    parser.add_argument("--max-silence", type=int, default=0, help="seconds without an event")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        keys, cosigners = (list(map(Vkey.parse, x)) for x in (given.vkey, given.witness_key))
        kept = (tuple(given.prev), tuple(given.witness), tuple(cosigners))
        options = Options(keys, *kept, given.quorum, given.max_silence)
        report = verify(given.bundle, options)
    except (Usage, OSError) as error:
        parser.error(str(error))
    sys.stdout.write(shown(report, given.bundle, given.json) + "\n")
    return report.exit_code()


if __name__ == "__main__":
    sys.exit(main())
