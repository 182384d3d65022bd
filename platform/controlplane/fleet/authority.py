"""A region's certificate authority: who is a node of ours, and who is a gateway. Pure.

One self-signed authority per region, constrained to our own names, so that what it signs means
nothing elsewhere. Leaves are short-lived: expiry is the revocation that needs no list. Names:

    URI  spiffe://stoa/region/<region>/node/<node id>        who it is
    URI  spiffe://stoa/region/<region>/gateway/<gateway id>
    URI  spiffe://stoa/region/<region>/controlplane/door     who answers agents
    DNS  *.replica.stoa                                      on nodes: the relay's server names

P-256 for the authority, because every TLS stack takes it; agents hold Ed25519 or P-256 keys.
Only the public key of a signing request is used: names come from the control plane.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.fleet import errors, wire

TRUST_DOMAIN = "stoa"
RELAY_DOMAIN = "replica.stoa"
AUTHORITY_LIFETIME = timedelta(days=3650)
GATEWAY_LIFETIME = timedelta(days=30)
DOOR_LIFETIME = timedelta(days=1)
BACKDATED = timedelta(minutes=5)  # for clocks that run a little behind ours

GATEWAY_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_IDENTITY = re.compile(
    r"spiffe://stoa/region/([a-z0-9-]+)/(node|gateway|controlplane)/([a-z0-9_-]+)"
)
_REQUEST_LENGTH = 16_384

LeafKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Identity:
    """Who a certificate names."""

    region: str
    kind: str  # "node" | "gateway" | "controlplane"
    id: str


@dataclass(frozen=True)
class Authority:
    """An authority with its key open."""

    region: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> str:
        return pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """PKCS#8, not encrypted: for `compliance.sealing`, and nowhere else."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def open(cls, region: str, certificate_pem: str, key_pem: bytes) -> "Authority":
        key = serialization.load_pem_private_key(key_pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(region, x509.load_pem_x509_certificate(certificate_pem.encode()), key)


def create(region: str, *, now: datetime) -> Authority:
    """A new authority for `region`, good for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Stoa region {region}")
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[
                    x509.DNSName(RELAY_DOMAIN),
                    x509.UniformResourceIdentifier(TRUST_DOMAIN),
                ],
                excluded_subtrees=None,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(region, certificate, key)


def node_certificate(
    authority: Authority, key: LeafKey, *, node_id: str, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """A node's certificate: it calls the control plane, and its relay answers gateways."""
    names: list[x509.GeneralName] = [
        _identity(authority.region, "node", node_id),
        x509.DNSName(f"*.{RELAY_DOMAIN}"),
    ]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return _leaf(authority, key, node_id, names, purposes, now, lifetime)


def gateway_certificate(
    authority: Authority,
    key: LeafKey,
    *,
    gateway_id: str,
    now: datetime,
    lifetime: timedelta = GATEWAY_LIFETIME,
) -> x509.Certificate:
    """A gateway's certificate: it calls nodes' relays, and serves nobody.

    Raises errors.InvalidName for an id that could be taken for a host's name.
    """
    if GATEWAY_ID.fullmatch(gateway_id) is None:
        raise errors.InvalidName(
            "A gateway's id is 1 to 64 lower-case letters, digits and hyphens."
        )
    names: list[x509.GeneralName] = [_identity(authority.region, "gateway", gateway_id)]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _leaf(authority, key, gateway_id, names, purposes, now, lifetime)


def door_certificate(authority: Authority, key: LeafKey, *, now: datetime) -> x509.Certificate:
    """What the agents' door shows to the nodes of a region; good for a day."""
    names: list[x509.GeneralName] = [
        _identity(authority.region, "controlplane", "door"),
        x509.DNSName(wire.door_name(sha256(authority.certificate))),
    ]
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    return _leaf(authority, key, "Stoa control plane", names, purposes, now, DOOR_LIFETIME)


def requested_key(csr_pem: str) -> LeafKey:
    """The public key of a signing request whose sender holds the private one.

    Raises errors.InvalidRequest.
    """
    if len(csr_pem) > _REQUEST_LENGTH:
        raise errors.InvalidRequest("The certificate signing request is too long.")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
    except Exception as error:  # the parser's errors are many, and the bytes are a stranger's
        raise errors.InvalidRequest("The certificate signing request cannot be read.") from error
    if not signed:
        raise errors.InvalidRequest("The certificate signing request is not signed by its key.")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise errors.InvalidRequest("The key must be Ed25519 or EC P-256.")


def issued(certificate: x509.Certificate, authority_pem: str) -> bool:
    """Whether this region's authority, and no other, signed `certificate`."""
    issuer = x509.load_pem_x509_certificate(authority_pem.encode())
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def identity(certificate: x509.Certificate) -> Identity | None:
    """Whom `certificate` names, or None when it has not exactly one name of ours."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _IDENTITY.fullmatch(uris[0]) if len(uris) == 1 else None
    return Identity(*match.groups()) if match else None


def sha256(certificate: x509.Certificate) -> str:
    """The fingerprint by which a node's certificate is known: 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pin(authority_pem: str) -> str:
    """`sha256:` and the fingerprint of an authority, as join commands and settings have it."""
    return f"sha256:{sha256(x509.load_pem_x509_certificate(authority_pem.encode()))}"


def key_sha256(key: LeafKey) -> str:
    """The fingerprint of a machine's key: 64 hexadecimal digits."""
    encoded = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(encoded).hexdigest()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _leaf(
    authority: Authority,
    key: LeafKey,
    common_name: str,
    names: list[x509.GeneralName],
    purposes: list[x509.ObjectIdentifier],
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    issuer = authority.certificate
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )


def _identity(region: str, kind: str, id: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/region/{region}/{kind}/{id}")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
