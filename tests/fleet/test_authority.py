"""Certificates as TLS stacks see them: a strict handshake, names, constraints, expiry."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, errors
from tests.fleet.machine import Key, csr

DAY = timedelta(days=1)
REPLICA = "rep-01k9zzzzzzzzzzzzzzzzzzzzzz.replica.stoa"


@pytest.fixture
def germany() -> authority.Authority:
    return authority.create("eu-de-1", now=datetime.now(UTC))


def _context(
    side: int, folder: Path, own: x509.Certificate, key: Key, trusted: authority.Authority
) -> ssl.SSLContext:
    folder.mkdir()
    (folder / "own.pem").write_text(authority.pem(own))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(folder / "own.pem", folder / "key.pem")
    context.load_verify_locations(cadata=trusted.certificate_pem)
    return context


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> dict[str, object]:
    """Both sides' handshake in memory; the certificate that the server saw."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname=name)
    answerer = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (caller, answerer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    seen = answerer.getpeercert()
    assert seen is not None
    return dict(seen)


def _node(of: authority.Authority, key: Key, now: datetime | None = None) -> x509.Certificate:
    return authority.node_certificate(
        of, key.public_key(), node_id="node_01k", now=now or datetime.now(UTC), lifetime=DAY
    )


def test_relay_and_gateway_know_each_other(germany: authority.Authority, tmp_path: Path) -> None:
    node_key, gateway_key = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    gateway = authority.gateway_certificate(
        germany, gateway_key.public_key(), gateway_id="gw-1", now=datetime.now(UTC)
    )
    server = _context(
        ssl.PROTOCOL_TLS_SERVER, tmp_path / "node", _node(germany, node_key), node_key, germany
    )
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path / "gw", gateway, gateway_key, germany)
    seen = _handshake(client, server, REPLICA)
    assert ("URI", "spiffe://stoa/region/eu-de-1/gateway/gw-1") in seen["subjectAltName"]  # type: ignore[operator]
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(client, server, "www.replica.stoa.example")


def test_another_regions_certificate_is_refused(
    germany: authority.Authority, tmp_path: Path
) -> None:
    france = authority.create("eu-fr-1", now=datetime.now(UTC))
    node_key, gateway_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    gateway = authority.gateway_certificate(
        france, gateway_key.public_key(), gateway_id="gw-1", now=datetime.now(UTC)
    )
    server = _context(
        ssl.PROTOCOL_TLS_SERVER, tmp_path / "node", _node(germany, node_key), node_key, germany
    )
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path / "gw", gateway, gateway_key, germany)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(client, server, REPLICA)


def test_gateways_certificate_serves_nobody(germany: authority.Authority, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    gateway = authority.gateway_certificate(
        germany, key.public_key(), gateway_id="gw-1", now=datetime.now(UTC)
    )
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path / "gw", gateway, key, germany)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path / "node", _node(germany, key), key, germany)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _handshake(client, server, REPLICA)


def test_authority_vouches_for_no_name_but_ours(
    germany: authority.Authority, tmp_path: Path
) -> None:
    """What a stolen authority key signs for a foreign name is worth nothing to TLS."""
    key = Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    foreign = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(germany.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(germany.key.public_key()), False
        )
        .sign(germany.key, hashes.SHA256())
    )
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path / "evil", foreign, key, germany)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path / "node", _node(germany, key), key, germany)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        _handshake(client, server, "bank.example")


def test_leaf_is_short_lived_backdated_and_named_by_us(germany: authority.Authority) -> None:
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)
    key = Ed25519PrivateKey.generate()
    certificate = _node(germany, key, now)
    assert certificate.not_valid_before_utc == now - authority.BACKDATED
    assert certificate.not_valid_after_utc == now + DAY
    assert authority.identity(certificate) == authority.Identity("eu-de-1", "node", "node_01k")
    assert authority.issued(certificate, germany.certificate_pem)
    other = authority.create("eu-de-1", now=now)  # same name, other key
    assert not authority.issued(certificate, other.certificate_pem)


def test_no_leaf_outlives_its_authority(germany: authority.Authority) -> None:
    key = Ed25519PrivateKey.generate()
    end = germany.certificate.not_valid_after_utc
    certificate = _node(germany, key, end - timedelta(hours=1))
    assert certificate.not_valid_after_utc == end


def test_signing_request_gives_its_key_alone() -> None:
    for key in (Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        assert authority.requested_key(csr(key, "node_of_somebody_else")) == key.public_key()


def _rsa_request() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _altered_request() -> str:
    request = x509.load_pem_x509_csr(csr(Ed25519PrivateKey.generate(), "abcdef").encode())
    der = request.public_bytes(serialization.Encoding.DER).replace(b"abcdef", b"abcdeg")
    altered = x509.load_der_x509_csr(der)
    return altered.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        ("", "cannot be read"),
        ("garbage \0 é", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "read"),
        ("x" * 20_000, "too long"),
        (_rsa_request(), "Ed25519 or EC P-256"),
        (csr(ec.generate_private_key(ec.SECP384R1())), "Ed25519 or EC P-256"),
        (_altered_request(), "not signed by its key"),
    ],
    ids=["empty", "garbage", "broken", "long", "rsa", "p-384", "altered"],
)
def test_bad_signing_requests_are_refused(pem: str, says: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=says):
        authority.requested_key(pem)


@pytest.mark.parametrize("bad", ["", "GW", "gw.example", "gw/../node", "a" * 65, "-gw", "gw\n"])
def test_gateway_id_is_a_plain_label(germany: authority.Authority, bad: str) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(errors.InvalidName):
        authority.gateway_certificate(germany, key, gateway_id=bad, now=datetime.now(UTC))


def test_authority_opens_from_what_is_kept(germany: authority.Authority) -> None:
    again = authority.Authority.open("eu-de-1", germany.certificate_pem, germany.key_pem)
    key = Ed25519PrivateKey.generate()
    assert authority.issued(_node(again, key), germany.certificate_pem)
