"""Signed notes and checkpoints as C2SP has them (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).

Pure: no I/O. Ed25519 alone (type 0x01). A key's name is the installation's; its id is the start of
SHA-256(name || 0x0A || 0x01 || public key).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from compliance.log.merkle import HASH_BYTES

ED25519 = 0x01
MAX_SIGNATURES = 64  # of one note; the specification asks for 16 at least
MAX_NOTE_BYTES = 1 << 18
_DASH = "— "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class NoteError(Exception):
    """A note, a key or a checkpoint that may not be trusted; the message says why."""


@dataclass(frozen=True)
class Verifier:
    """A public key by its name: what `vkey` writes and `parse_vkey` reads."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        said = self.name.encode() + b"\n" + bytes([ED25519]) + self.public
        return hashlib.sha256(said).digest()[:4]

    def vkey(self) -> str:
        key = base64.b64encode(bytes([ED25519]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def good(self, text: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log. `extensions`: further lines, which nobody here writes."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


def verifier(name: str, key: Ed25519PrivateKey) -> Verifier:
    return Verifier(_name(name), key.public_key().public_bytes_raw())


def parse_vkey(vkey: str) -> Verifier:
    """Raises NoteError on another form, another kind of key, and an id that is not the key's."""
    name, _, rest = vkey.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _base64(encoded)
    if len(raw) != 33 or raw[0] != ED25519:
        raise NoteError("the key is no Ed25519 key of a note: NAME+ID+BASE64")
    found = Verifier(_name(name), raw[1:])
    if found.key_id.hex() != key_id:
        raise NoteError(f"the id of the key of {name} is not {key_id}")
    return found


def sign(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The note: text, an empty line, one signature. Raises NoteError on a text that none can be."""
    if not text.endswith("\n") or any(ord(each) < 0x20 and each != "\n" for each in text):
        raise NoteError("a note's text ends with a newline and has no other control character")
    signature = verifier(name, key).key_id + key.sign(text.encode())
    return f"{text}\n{_DASH}{name} {base64.b64encode(signature).decode()}\n"


def cosign(note: str, name: str, key: Ed25519PrivateKey) -> str:
    """The same note with one more signature below the others."""
    text, _ = _split(note)
    return note + sign(text, name, key)[len(text) + 1 :]


def rotation(name: str, new: str) -> str:
    """The text by which a key announces the next one, `new`, as a vkey: of two lines, so never a
    checkpoint's or a manifest's."""
    return f"{_name(name)}/rotate\n{new}\n"


def open_note(note: str, vkeys: Iterable[Verifier]) -> str:
    """The text, which at least one of the keys has signed.

    Signatures of unknown keys are passed over; a bad one of a known key spoils the note.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError("a note of that length is not read")
    text, signatures = _split(note)
    known = {(each.name, each.key_id): each for each in vkeys}
    good = 0
    for name, key_id, signature in signatures:
        if (key := known.get((name, key_id))) is None:
            continue
        if not key.good(text, signature):
            raise NoteError(f"the signature of {name} is not of this text")
        good += 1
    if not good:
        raise NoteError("no known key has signed this")
    return text


def checkpoint(origin: str, size: int, root: bytes) -> str:
    """The text of a checkpoint. Raises NoteError on what none can say."""
    if not origin or any(ord(each) <= 0x20 or each == "+" for each in origin):
        raise NoteError("an origin is one word without a plus")
    if size < 0 or len(root) != HASH_BYTES:
        raise NoteError("a checkpoint has a size and a root of 32 bytes")
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Of a text that `open_note` gave; raises NoteError on another form."""
    if not text.endswith("\n"):
        raise NoteError("a checkpoint ends with a newline")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines):
        raise NoteError("a checkpoint has three lines at least, none of them empty")
    if not _SIZE.fullmatch(lines[1]):
        raise NoteError(f"{lines[1][:20]!r} is no size")
    root = _base64(lines[2])
    if len(root) != HASH_BYTES:
        raise NoteError("a root has 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]))


def _split(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Text, and (name, key id, signature) of each line below the last empty one."""
    if any(ord(each) < 0x20 and each != "\n" for each in note):
        raise NoteError("a note has no control characters")
    at = note.rfind("\n\n")
    if at < 0 or not note.endswith("\n"):
        raise NoteError("a note is a text, an empty line and signatures")
    lines = note[at + 2 : -1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"more than {MAX_SIGNATURES} signatures")
    return note[: at + 1], [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    raw = _base64(encoded)
    if not line.startswith(_DASH) or not separator or len(raw) < 5:
        raise NoteError("a signature is a line of dash, name and base64")
    return _name(name), raw[:4], raw[4:]


def _name(name: str) -> str:
    if not name or "+" in name or any(each.isspace() for each in name):
        raise NoteError("a key's name is one word without a plus")
    return name


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("expected base64") from None
