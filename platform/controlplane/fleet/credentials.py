"""Who is calling: proof that a request of an agent comes from a node of the fleet.

The proof is the node's certificate, shown in the connection's handshake, and a signature by its
key over the whole request. The signature costs a quarter of a ms; it ties a request to its key
however connections are kept and passed on, and its time orders the boots of an agent. Replays
within the allowed clock difference change nothing: reports are ordered, log lines are numbered,
and a renewal is good only for who holds its key.
"""

import base64
import binascii
import contextlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from controlplane.fleet import authority, errors, revoking, wire
from controlplane.fleet.models import Node, Region

_HEADER_LENGTH = 8_192
_CURE = "ask the operator for an enrolment token for this node and run the join command again"


@dataclass(frozen=True)
class Call:
    """A request as it arrived. `path` is the raw path with its query."""

    method: str
    path: str
    headers: Mapping[str, str]  # case-insensitive, as Django's
    body: bytes
    # SHA-256 of the certificate shown in the handshake, empty for none. None: the web process,
    # where agents of wire version 1 call, which show none.
    shown: str | None = None


@dataclass(frozen=True)
class Proof:
    """What a call proves: the node, the certificate it showed, and when it signed (its clock)."""

    node: Node
    certificate_sha256: str
    signed_at: datetime


@dataclass(frozen=True)
class Caller:
    """Whom a certificate names, which its region's authority has issued."""

    node_id: str
    region: str
    certificate_sha256: str
    key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime


# What an authority has signed it has signed for good: it is looked at once. Whether it is still
# the node's is asked each time. About 2 KiB each; the newest are kept.
_KNOWN = 16_384
_known: OrderedDict[str, Caller] = OrderedDict()


def verify(call: Call, *, now: datetime) -> Proof:
    """The node that makes `call`, its inventory left for who asks for it.

    Raises CredentialError (MissingCredential, ClockSkew, ExpiredCredential,
    RevokedCredential, SupersededCredential) and RemovedNode. What a certificate is good for is
    said only to who holds its key.
    """
    who, signed_at = signer(call, now=now)
    found = Node.objects.select_related("pool").defer("inventory")
    node = found.filter(pk=who.node_id).first()
    if node is None or node.pool.region_id != who.region:
        raise errors.CredentialError("The certificate names no node of the region.")
    if node.removed_at is not None:
        raise errors.RemovedNode(f"Node {node.name} was removed from the fleet: stop its engines.")
    _check_newest(node, who.certificate_sha256)
    return Proof(node, who.certificate_sha256, signed_at)


def claimed(call: Call) -> str | None:
    """The node whose certificate `call` shows, if it was seen before; nothing is proved."""
    known = _known.get(call.headers.get(wire.CERTIFICATE_HEADER, ""))
    return known.node_id if known else None


def signer(call: Call, *, now: datetime) -> tuple[Caller, datetime]:
    """Who signed `call`, and when by the node's clock; not whether the node still is ours.

    Raises CredentialError (MissingCredential, ClockSkew, ExpiredCredential).
    """
    encoded = call.headers.get(wire.CERTIFICATE_HEADER, "")
    if not encoded or not call.headers.get(wire.SIGNATURE_HEADER):
        raise errors.MissingCredential("The request carries no node certificate or no signature.")
    who = _named(encoded)
    if call.shown is not None and call.shown != who.certificate_sha256:
        raise errors.CredentialError(
            "The request is signed for another certificate than the connection shows."
        )
    signed_at = _signed_at(call, who)
    _check_times(who, signed_at, now)
    _remember(encoded, who)
    return who, signed_at


def signed(certificate: bytes, signature: bytes, said: bytes) -> Caller:
    """Whose certificate (DER) it is whose key signed `said`, at whatever time that was.

    Raises CredentialError for another signature, or what no authority of ours has issued.
    """
    encoded = base64.b64encode(certificate).decode()
    who = _named(encoded)
    try:
        _check(who, signature, said)
    except InvalidSignature as error:
        raise errors.CredentialError("The signature does not match what was said.") from error
    _remember(encoded, who)
    return who


def _named(encoded: str) -> Caller:
    return _known.get(encoded) or _issued(encoded)


def _remember(encoded: str, who: Caller) -> None:
    _known[encoded] = who
    with contextlib.suppress(KeyError):  # two threads may make room at once
        _known.move_to_end(encoded)
        if len(_known) > _KNOWN:
            _known.popitem(last=False)


def _issued(encoded: str) -> Caller:
    try:
        certificate = x509.load_der_x509_certificate(_decoded(encoded))
    except ValueError as error:
        raise errors.CredentialError("The certificate cannot be read.") from error
    named = authority.identity(certificate)
    if named is None or named.kind != "node":
        raise errors.CredentialError("The certificate names no node.")
    region = Region.objects.filter(code=named.region).first()
    if region is None or not authority.issued(certificate, region.ca_certificate):
        raise errors.CredentialError("The certificate was not issued by its region's authority.")
    key = certificate.public_key()
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise errors.CredentialError("The certificate's key is of no kind that we issue for.")
    return Caller(
        node_id=named.id,
        region=named.region,
        certificate_sha256=authority.sha256(certificate),
        key=key,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _signed_at(call: Call, who: Caller) -> datetime:
    """Verify the signature, then read the time that it covers."""
    timestamp = call.headers.get(wire.TIMESTAMP_HEADER, "")
    signed = wire.signed_bytes(call.method, call.path, timestamp, call.body)
    try:
        signature = _decoded(call.headers[wire.SIGNATURE_HEADER])
        _check(who, signature, signed)
        seconds = float(timestamp)
        if not math.isfinite(seconds):
            raise ValueError(timestamp)
        return datetime.fromtimestamp(seconds, UTC)
    except (InvalidSignature, ValueError, OverflowError, OSError) as error:
        raise errors.CredentialError("The signature does not match the request.") from error


def _check(who: Caller, signature: bytes, signed: bytes) -> None:
    """Raises InvalidSignature."""
    if isinstance(who.key, ed25519.Ed25519PublicKey):
        who.key.verify(signature, signed)
    else:
        who.key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))


def _check_times(who: Caller, signed_at: datetime, now: datetime) -> None:
    ahead = signed_at - now
    if abs(ahead) > timedelta(seconds=wire.CLOCK_SKEW_S):
        raise errors.ClockSkew(
            f"The request was signed {abs(ahead.total_seconds()):.0f} s"
            f" {'ahead of' if ahead > timedelta(0) else 'behind'} this clock:"
            " set the node's clock, for instance with an NTP service."
        )
    if now >= who.not_after:
        raise errors.ExpiredCredential(
            f"The node's certificate expired at {who.not_after:%Y-%m-%d %H:%M} UTC: {_CURE}."
        )
    if now < who.not_before:
        raise errors.CredentialError("The certificate is not valid yet.")


def _check_newest(node: Node, shown: str) -> None:
    """The newest certificate counts; the one before it too, until the newest is first shown."""
    if shown == node.certificate_sha256:
        if node.previous_certificate_sha256:
            Node.objects.filter(pk=node.pk, certificate_sha256=shown).update(
                previous_certificate_sha256=""
            )
            node.previous_certificate_sha256 = ""
        return
    if revoking.is_revoked(node.certificate_sha256):
        raise errors.RevokedCredential(f"The node's certificate was revoked: {_CURE}.")
    if shown != node.previous_certificate_sha256:
        raise errors.SupersededCredential(
            f"The node's certificate was replaced by a newer one. If this node lost that: {_CURE}."
        )


def _decoded(text: str) -> bytes:
    """Strict base64. Raises ValueError."""
    if len(text) > _HEADER_LENGTH:
        raise ValueError("too long")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
