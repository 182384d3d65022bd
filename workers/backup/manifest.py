"""What a backup says of itself: canonical JSON, signed by the installation.

The signing key comes from the master key, so it needs no keeping of its own: a backup that somebody
else made, to the same public recipients, has another signer. `stoa backup signer` says the public
part, which belongs beside the identity that opens backups.
"""

import base64
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from workers.backup import envelope

FORMAT = "stoa-backup/1"
NAME, SIGNATURE = "manifest.json", "manifest.sig"


class ManifestError(Exception):
    """A backup is not what was written; the message says what of it."""


@dataclass(frozen=True)
class File:
    name: str
    size: int
    sha256: str
    plain_bytes: int


@dataclass(frozen=True)
class Manifest:
    """`facts` is of the database's snapshot (facts.py). Times are ISO 8601, in UTC."""

    id: str
    began_at: str  # when the spools began to be copied
    snapshot_at: str
    completed_at: str
    stoa: str
    files: list[File]
    keys: File | None  # in the keys' place; None: none is set
    recipients: list[str]
    facts: dict[str, Any]
    spools: list[dict[str, Any]] = field(default_factory=list)
    format: str = FORMAT

    def encoded(self) -> bytes:
        return rfc8785.dumps(asdict(self))

    @classmethod
    def decoded(cls, data: bytes) -> "Manifest":
        """Raises ManifestError."""
        try:
            said: dict[str, Any] = json.loads(data)
            if said.get("format") != FORMAT:
                raise ManifestError(f"it is {said.get('format')!r}, and this reads {FORMAT}")
            files = [File(**one) for one in said.pop("files")]
            keys = said.pop("keys")
            return cls(**said, files=files, keys=File(**keys) if keys else None)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ManifestError(f"it is no manifest: {error}") from error


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def signing_key(master_key: str) -> Ed25519PrivateKey:
    secret = base64.b64decode(master_key, altchars=b"-_", validate=True)
    kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"stoa backup manifest 1")
    return Ed25519PrivateKey.from_private_bytes(kdf.derive(secret))


def signer(master_key: str) -> str:
    """The public part, 64 hexadecimal digits."""
    return signing_key(master_key).public_key().public_bytes_raw().hex()


def write(folder: Path, manifest: Manifest, master_key: str) -> None:
    data = manifest.encoded()
    for name, content in ((NAME, data), (SIGNATURE, signing_key(master_key).sign(data))):
        with open(folder / name, "xb", opener=envelope.private) as file:
            file.write(content)


def read(folder: Path, signer: str = "") -> Manifest:
    """Checked against the signer where there is one. Raises ManifestError."""
    try:
        data, signature = (folder / NAME).read_bytes(), (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise ManifestError(f"{folder.name}: {error.strerror}: {error.filename}") from error
    if signer:
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)).verify(signature, data)
        except ValueError:
            raise ManifestError("a signer has 64 hexadecimal digits") from None
        except InvalidSignature:
            message = f"{folder.name}: the manifest was not signed by this installation"
            raise ManifestError(message) from None
    return Manifest.decoded(data)


def check(folder: Path, manifest: Manifest, told: envelope.Told = lambda count: None) -> None:
    """That every file is there and is what was written. Raises ManifestError."""
    for file in manifest.files:
        try:
            found = envelope.sha256(folder / file.name, told)
        except OSError as error:
            raise ManifestError(f"{folder.name}/{file.name}: {error.strerror}") from error
        if found != (file.size, file.sha256):
            raise ManifestError(f"{folder.name}/{file.name} is not what was written")
