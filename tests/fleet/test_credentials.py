"""Who gets through the agents' door, and what the others are told."""

import base64
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance import audit
from controlplane.fleet import authority, credentials, errors, issuance, revoking, services, wire
from controlplane.fleet.models import Node, Region
from tests.fleet.machine import Join, Machine

PATH = "/agent/v1/report"
HOUR = timedelta(hours=1)


def _renewed(node: Node, machine: Machine, now: datetime) -> Machine:
    proof = credentials.verify(machine.call("POST", "/agent/v1/renew", now=now), now=now)
    _, credential = services.renew(
        node=node,
        csr_pem=machine.csr,
        presented_sha256=proof.certificate_sha256,
        now=now,
    )
    newer = Machine(machine.key)
    newer.certificate_pem = credential.certificate_pem
    return newer


def test_a_nodes_own_request_passes(join: Join, now: datetime) -> None:
    node, machine = join()
    proof = credentials.verify(machine.call("POST", PATH, b"{}", now=now), now=now)
    assert proof.node == node
    assert proof.node.pool.region.code == "eu-de-1"
    assert proof.certificate_sha256 == node.certificate_sha256
    assert proof.signed_at == now


def test_a_p256_key_passes(join: Join, now: datetime) -> None:
    node, _ = join()
    machine = Machine(ec.generate_private_key(ec.SECP256R1()))
    _, secret = services.issue_enrollment_token(pool=node.pool, actor=audit.SYSTEM, now=now)
    other, credential = services.enroll(
        token=secret, csr_pem=machine.csr, name="p256", agent_version="0.1.0", now=now
    )
    machine.certificate_pem = credential.certificate_pem
    assert credentials.verify(machine.call("GET", PATH, now=now), now=now).node == other


def test_yesterdays_credential_is_refused_with_its_cure(join: Join, now: datetime) -> None:
    _, machine = join()
    tomorrow = now + 24 * HOUR
    with pytest.raises(errors.ExpiredCredential, match=r"expired at 2026-03-05 12:00.*join"):
        credentials.verify(machine.call("POST", PATH, now=tomorrow), now=tomorrow)
    just_before = tomorrow - timedelta(seconds=1)
    credentials.verify(machine.call("POST", PATH, now=just_before), now=just_before)


def test_superseded_certificate_dies_when_the_new_one_is_seen(join: Join, now: datetime) -> None:
    node, machine = join()
    newer = _renewed(node, machine, now)
    credentials.verify(machine.call("POST", PATH, now=now), now=now)  # the overlap
    credentials.verify(newer.call("POST", PATH, now=now), now=now)
    with pytest.raises(errors.SupersededCredential, match="enrolment token"):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)


def test_a_lost_renewal_locks_nobody_out(join: Join, now: datetime) -> None:
    node, machine = join()
    lost = _renewed(node, machine, now)
    now += HOUR
    newer = _renewed(node, machine, now)
    credentials.verify(newer.call("POST", PATH, now=now), now=now)
    for old in (machine, lost):
        with pytest.raises(errors.SupersededCredential):
            credentials.verify(old.call("POST", PATH, now=now), now=now)


def test_enrolling_again_ends_the_old_credential_at_once(join: Join, now: datetime) -> None:
    node, stolen = join()
    _, secret = services.issue_enrollment_token(
        pool=node.pool, node=node, actor=audit.SYSTEM, now=now
    )
    services.enroll(
        token=secret, csr_pem=Machine().csr, name="gpu-1", agent_version="0.1.0", now=now
    )
    with pytest.raises(errors.SupersededCredential):
        credentials.verify(stolen.call("POST", PATH, now=now), now=now)


def test_a_removed_node_is_gone(join: Join, now: datetime) -> None:
    node, machine = join()
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    with pytest.raises(errors.RemovedNode):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)


def _forged(by: authority.Authority, node_id: str, now: datetime, *, claim: str = "") -> Machine:
    """A machine whose certificate some authority signed for `node_id` of the region `claim`."""
    machine = Machine()
    signer = replace(by, region=claim or by.region)
    machine.certificate_pem = authority.pem(
        authority.node_certificate(
            signer, machine.key.public_key(), node_id=node_id, now=now, lifetime=HOUR
        )
    )
    return machine


@pytest.fixture
def france(db: None, now: datetime) -> Region:
    return services.create_region(
        code="eu-fr-1", country="FR", name="Paris", actor=audit.SYSTEM, now=now
    )


def test_another_regions_authority_cannot_name_our_nodes(
    join: Join, france: Region, now: datetime
) -> None:
    node, _ = join()
    paris = issuance.opened(france)
    for claim in ("eu-fr-1", "eu-de-1", "eu-xx-9"):
        machine = _forged(paris, node.id, now, claim=claim)
        with pytest.raises(errors.CredentialError) as refused:
            credentials.verify(machine.call("POST", PATH, now=now), now=now)
        assert refused.value.code == "credential_invalid"


def test_a_strangers_authority_of_the_same_name_is_refused(join: Join, now: datetime) -> None:
    node, _ = join()
    machine = _forged(authority.create("eu-de-1", now=now), node.id, now)
    with pytest.raises(errors.CredentialError, match="not issued by"):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)


def test_a_gateways_certificate_is_no_nodes(region: Region, join: Join, now: datetime) -> None:
    machine = Machine()
    machine.certificate_pem = revoking.issue_gateway_certificate(
        region=region, gateway_id="gw-1", csr_pem=machine.csr, actor=audit.SYSTEM, now=now
    )
    with pytest.raises(errors.CredentialError, match="names no node"):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)


def test_an_unknown_node_of_the_region_is_refused(region: Region, now: datetime) -> None:
    machine = _forged(issuance.opened(region), "node_unknown", now)
    with pytest.raises(errors.CredentialError, match="no node of the region"):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)


def test_whatever_is_altered_breaks_the_signature(join: Join, now: datetime) -> None:
    _, machine = join()
    call = machine.call("POST", PATH, b'{"seq":1}', now=now)
    other_key = Machine(Ed25519PrivateKey.generate())
    other_key.certificate_pem = machine.certificate_pem
    later = f"{(now + timedelta(seconds=1)).timestamp():.6f}"
    altered = [
        replace(call, body=b'{"seq":2}'),
        replace(call, method="PUT"),
        replace(call, path=PATH + "?x=1"),
        replace(call, headers={**call.headers, wire.TIMESTAMP_HEADER: later}),
        replace(call, headers={**call.headers, wire.SIGNATURE_HEADER: "AAAA"}),
        replace(call, headers={**call.headers, wire.SIGNATURE_HEADER: "no base64!"}),
        replace(call, headers={**call.headers, wire.TIMESTAMP_HEADER: ""}),
        other_key.call("POST", PATH, b'{"seq":1}', now=now),
    ]
    for one in altered:
        with pytest.raises(errors.CredentialError, match="does not match") as refused:
            credentials.verify(one, now=now)
        assert refused.value.code == "credential_invalid"


@pytest.mark.parametrize("timestamp", ["nan", "inf", "-1e400", "1e18", "today", "٣"])
def test_a_signed_time_must_be_a_time(join: Join, now: datetime, timestamp: str) -> None:
    _, machine = join()
    assert isinstance(machine.key, Ed25519PrivateKey)
    call = machine.call("POST", PATH, now=now)
    signature = machine.key.sign(wire.signed_bytes("POST", PATH, timestamp, b""))
    headers = {
        **call.headers,
        wire.TIMESTAMP_HEADER: timestamp,
        wire.SIGNATURE_HEADER: base64.b64encode(signature).decode(),
    }
    with pytest.raises(errors.CredentialError):
        credentials.verify(replace(call, headers=headers), now=now)


@pytest.mark.parametrize("offset_s", [-301, 301])
def test_an_old_request_is_not_replayed(join: Join, now: datetime, offset_s: int) -> None:
    _, machine = join()
    call = machine.call("POST", PATH, now=now + timedelta(seconds=offset_s))
    with pytest.raises(errors.ClockSkew, match=r"301 s .*clock"):
        credentials.verify(call, now=now)
    near = machine.call("POST", PATH, now=now + timedelta(seconds=offset_s * 300 / 301))
    credentials.verify(near, now=now)


def _headers(**changes: str) -> dict[str, str]:
    return {
        wire.CERTIFICATE_HEADER: changes.get("certificate", "AAAA"),
        wire.SIGNATURE_HEADER: changes.get("signature", "AAAA"),
        wire.TIMESTAMP_HEADER: "0",
    }


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "credential_missing"),
        (_headers(signature=""), "credential_missing"),
        (_headers(), "credential_invalid"),
        (_headers(certificate="not base64"), "credential_invalid"),
        (_headers(certificate="A" * 10_000), "credential_invalid"),
    ],
)
def test_no_credential_or_a_broken_one(
    region: Region, now: datetime, headers: dict[str, str], code: str
) -> None:
    with pytest.raises(errors.CredentialError) as refused:
        credentials.verify(credentials.Call("POST", PATH, headers, b""), now=now)
    assert refused.value.code == code


def test_a_certificate_without_our_name_is_refused(region: Region, now: datetime) -> None:
    """The region's own authority certificate, which everybody can see, admits nobody."""
    machine = Machine()
    machine.certificate_pem = region.ca_certificate
    assert x509.load_pem_x509_certificate(region.ca_certificate.encode())
    with pytest.raises(errors.CredentialError, match="names no node"):
        credentials.verify(machine.call("POST", PATH, now=now), now=now)
