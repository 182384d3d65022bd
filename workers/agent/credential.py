"""Who this node is: a key that never leaves it and the certificate that its region gave for it.

The key is drawn here and kept in one file together with its certificate, so that no crash can
leave one without the other. A key that waits for its certificate is kept beside it: a join or a
renewal whose answer was lost asks again for the same key.
"""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from controlplane.fleet import wire
from workers.agent import files

IDENTITY = "identity.json"
CERTIFICATE = "certificate.pem"
PENDING_KEY = "next-key.pem"


class CredentialError(Exception):
    """What we were given, or have on disk, is no credential of ours; for a person."""


class _Stored(msgspec.Struct, kw_only=True):
    url: str
    key_pem: str
    credential: wire.Credential


@dataclass(frozen=True)
class Identity:
    """A node's key and certificate, and the control plane that they are for."""

    url: str
    key: Ed25519PrivateKey
    credential: wire.Credential
    certificate: x509.Certificate

    def headers(self, method: str, path_and_query: str, body: bytes, now: float) -> dict[str, str]:
        """The headers that prove one request; `now` in Unix seconds."""
        timestamp = f"{now:.6f}"
        signature = self.key.sign(wire.signed_bytes(method, path_and_query, timestamp, body))
        certificate = self.certificate.public_bytes(serialization.Encoding.DER)
        return {
            wire.CERTIFICATE_HEADER: base64.b64encode(certificate).decode(),
            wire.SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            wire.TIMESTAMP_HEADER: timestamp,
        }

    @property
    def expires_at(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def expired(self, now: datetime) -> bool:
        return now >= self.expires_at

    def renewal_in_s(self, now: datetime) -> float:
        """Seconds until the last third of the certificate's life; negative within it."""
        life = self.expires_at - self.certificate.not_valid_before_utc
        return (self.expires_at - life / 3 - now).total_seconds()

    def key_pem(self) -> bytes:
        return _key_pem(self.key)


def load(directory: Path) -> Identity | None:
    """The identity kept in `directory`; None before the first join. Raises CredentialError."""
    content = files.read(directory / IDENTITY)
    if content is None:
        return None
    try:
        stored = msgspec.json.decode(content, type=_Stored)
        return _identity(stored.url, _read_key(stored.key_pem.encode()), stored.credential)
    except (msgspec.DecodeError, ValueError) as error:
        raise CredentialError(f"{directory / IDENTITY} is damaged ({error}): join again") from error


def pending_key(directory: Path) -> Ed25519PrivateKey:
    """The key that waits for a certificate, drawn now if none does."""
    path = directory / PENDING_KEY
    content = files.read(path)
    if content is not None:
        return _read_key(content)
    key = Ed25519PrivateKey.generate()
    files.write(path, _key_pem(key))
    return key


def request(key: Ed25519PrivateKey, name: str) -> str:
    """A signing request (PEM). The certificate's names are the control plane's to choose."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "node")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def accept(
    directory: Path, *, url: str, key: Ed25519PrivateKey, credential: wire.Credential
) -> Identity:
    """Keep what the control plane answered. Raises CredentialError when it is not for our key."""
    try:
        identity = _identity(url, key, credential)
    except ValueError as error:
        raise CredentialError(f"the control plane sent no usable certificate: {error}") from error
    stored = _Stored(url=url, key_pem=_key_pem(key).decode(), credential=credential)
    files.write(directory / IDENTITY, msgspec.json.encode(stored))
    # A copy, for whoever wants to know how long it is good: no secret, and nothing reads it here.
    files.write(directory / CERTIFICATE, credential.certificate_pem.encode())
    files.remove(directory / PENDING_KEY)
    return identity


def now_utc() -> datetime:
    return datetime.now(UTC)


def _identity(url: str, key: Ed25519PrivateKey, credential: wire.Credential) -> Identity:
    certificate = x509.load_pem_x509_certificate(credential.certificate_pem.encode())
    if certificate.public_key() != key.public_key():
        raise ValueError("the certificate is for another key")
    issuer = x509.load_pem_x509_certificate(credential.ca_pem.encode())
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError) as error:
        raise ValueError("the certificate is not from the region's authority") from error
    return Identity(url, key, credential, certificate)


def _key_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read_key(pem: bytes) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the key is not an Ed25519 key")
    return key
