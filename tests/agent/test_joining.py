"""Joining, renewing, being refused: the node's credential from the first day to the last."""

import asyncio
import os
import signal
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, wire
from controlplane.fleet.wire import Phase
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import get, wait_until
from tests.agent.node import TestNode, spec
from workers.agent import client, credential, kin


def test_joining_needs_one_command_and_spends_the_token(
    plane: ControlPlane, node: TestNode
) -> None:
    assert node.ask("join") == 0
    assert "joined eu-test-1, pool default, as node_1" in node.said()
    identity = node.directory / credential.IDENTITY
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.directory.stat().st_mode) == 0o700
    assert not (node.directory / credential.PENDING_KEY).exists()
    assert node.ask("join") == 3
    assert "has been used" in node.said()
    # What it has still works, and it remembers the address.
    node.environment["STOA_CONTROLPLANE_URL"] = ""
    node.agent(STOA_AGENT_TOKEN="")
    wait_until(lambda: plane.reports)


def test_a_node_that_never_joined_says_so(plane: ControlPlane, node: TestNode) -> None:
    assert node.ask("run", STOA_AGENT_TOKEN="") == 3
    assert "has not joined" in node.said() and "enrollment_token" in node.said()


def test_yesterdays_credential_stops_the_agent_and_no_engine(
    plane: ControlPlane, node: TestNode
) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    agent.send_signal(signal.SIGTERM)
    agent.wait(10)
    _expire(plane, node)

    assert node.ask("run", STOA_AGENT_TOKEN="") == 3
    assert "enrol again" in node.said() and plane.url in node.said()
    assert get(ready.address.removeprefix("unix:"), "/").text == "alive"

    # Enrolled again, it takes up where it left.
    plane.tokens.add("stoa-enroll-second")
    boot = plane.reports[-1].boot_id
    node.agent(STOA_AGENT_TOKEN="stoa-enroll-second")
    wait_until(lambda: plane.reports[-1].boot_id != boot)
    assert plane.wait_for(wish.replica_id, Phase.READY).pid == ready.pid


def test_a_refused_credential_is_replaced_with_a_token_once(
    plane: ControlPlane, node: TestNode
) -> None:
    assert node.ask("join") == 0
    plane.certificates.clear()  # another database, say
    plane.tokens.add("stoa-enroll-second")
    node.agent(STOA_AGENT_TOKEN="stoa-enroll-second")
    wait_until(lambda: plane.reports)
    assert len(plane.certificates) == 1


def test_a_removed_node_stops_its_engines(plane: ControlPlane, node: TestNode) -> None:
    agent = node.agent()
    wish = spec()
    plane.want(wish)
    ready = plane.wait_for(wish.replica_id, Phase.READY)
    plane.answer = 410
    plane.change()
    assert agent.wait(20) == 4
    assert kin.read(ready.pid) is None and node.engines() == []


def test_the_certificate_is_renewed_when_told_and_before_it_ends(
    plane: ControlPlane, node: TestNode
) -> None:
    node.agent()
    wait_until(lambda: plane.reports)
    plane.renew = True
    wait_until(lambda: len(plane.certificates) == 2)
    # It uses the new one, and nothing was lost over it.
    heard = len(plane.reports)
    wait_until(lambda: len(plane.reports) > heard + 2)
    stored = credential.load(node.directory)
    assert stored is not None
    assert authority.sha256(stored.certificate) == plane.certificates[-1]


def test_renewal_falls_due_in_the_last_third() -> None:
    now = datetime.now(UTC)
    region = authority.create("eu-test-1", now=now)
    key = Ed25519PrivateKey.generate()
    certificate = authority.node_certificate(
        region, key.public_key(), node_id="node_1", now=now, lifetime=timedelta(hours=24)
    )
    answer = wire.Credential(
        node_id="node_1",
        region="eu-test-1",
        pool="",
        certificate_pem="",
        ca_pem="",
        expires_at="",
    )
    identity = credential.Identity("http://127.0.0.1", key, answer, certificate)
    assert identity.renewal_in_s(now + timedelta(hours=15)) > 0
    assert identity.renewal_in_s(now + timedelta(hours=17)) < 0
    assert not identity.expired(now) and identity.expired(now + timedelta(hours=24))


def test_a_certificate_for_another_key_is_not_accepted(plane: ControlPlane, tmp_path: Path) -> None:
    key, other = credential.pending_key(tmp_path), Ed25519PrivateKey.generate()
    answer = plane.certify(credential.request(other, "node"))
    with pytest.raises(credential.CredentialError, match="another key"):
        credential.accept(tmp_path, url=plane.url, key=key, credential=answer)
    assert credential.load(tmp_path) is None


def test_a_certificate_of_another_authority_is_not_accepted(
    plane: ControlPlane, tmp_path: Path
) -> None:
    key = credential.pending_key(tmp_path)
    answer = plane.certify(credential.request(key, "node"))
    other = authority.create("eu-test-1", now=datetime.now(UTC))
    answer = msgspec.structs.replace(answer, ca_pem=other.certificate_pem)
    with pytest.raises(credential.CredentialError, match="authority"):
        credential.accept(tmp_path, url=plane.url, key=key, credential=answer)


def test_the_key_that_waits_is_the_same_after_a_crash(tmp_path: Path) -> None:
    first, second = credential.pending_key(tmp_path), credential.pending_key(tmp_path)
    assert first.public_key() == second.public_key()
    mode = (tmp_path / credential.PENDING_KEY).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_damaged_identity_says_join_again(tmp_path: Path) -> None:
    (tmp_path / credential.IDENTITY).write_text('{"url": "http://127.0.0.1"')
    with pytest.raises(credential.CredentialError, match="join again"):
        credential.load(tmp_path)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.7:8000", "http://stoa.example", "http://127.0.0.1.example"]
)
def test_plain_http_beyond_this_machine_is_refused(url: str) -> None:
    with pytest.raises(client.InsecureAddress, match="https"):
        client.checked(url)


@pytest.mark.parametrize("url", ["ftp://a", "stoa.example", "", "https://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        client.checked(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/", "http://[::1]:1", "https://stoa.eu"])
def test_loopback_and_https_are_fine(url: str) -> None:
    assert client.checked(url) == url.rstrip("/")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, client.Refused),
        (410, client.Gone),
        (422, client.Rejected),
        (429, client.Unavailable),
        (503, client.Unavailable),
    ],
)
def test_answers_have_their_meaning(
    plane: ControlPlane, tmp_path: Path, status: int, error: type[client.CallError]
) -> None:
    identity = _identity(plane, tmp_path)
    plane.answer = status
    with pytest.raises(error, match=f"told to answer {status}"):
        asyncio.run(_desired(plane.url, identity))


def test_a_wrong_clock_is_no_reason_to_enrol_again(plane: ControlPlane, tmp_path: Path) -> None:
    identity = _identity(plane, tmp_path)
    plane.answer, plane.code = 401, "clock_skew"
    with pytest.raises(client.Unavailable):
        asyncio.run(_desired(plane.url, identity))


@pytest.mark.parametrize("content", [b"", b"[" * 5000, b'{"node_id":"\xc2"}'])
def test_an_answer_that_cannot_be_read_is_no_answer(content: bytes) -> None:
    with pytest.raises(client.Unavailable):
        client.decode(content, wire.Credential)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with ControlPlane() as plane:
        identity, url = _identity(plane, tmp_path), plane.url
    with pytest.raises(client.Unavailable):
        asyncio.run(_desired(url, identity))


def test_waits_grow_to_a_bound() -> None:
    backoff = client.Backoff(cap_s=4.0)
    waits = [backoff.next() for _ in range(12)]
    assert max(waits) <= 4.0 and min(waits[6:]) >= 2.0 and waits[0] <= 0.5
    backoff.reset()
    assert backoff.next() <= 0.5


def _identity(plane: ControlPlane, directory: Path) -> credential.Identity:
    key = credential.pending_key(directory)
    answer = plane.certify(credential.request(key, "node"))
    return credential.accept(directory, url=plane.url, key=key, credential=answer)


async def _desired(url: str, identity: credential.Identity) -> wire.Desired:
    async with client.Client(url, identity) as calls:
        return await calls.desired(0, 0)


def _expire(plane: ControlPlane, node: TestNode) -> None:
    """Put a certificate in place that ended a moment ago."""
    held = credential.load(node.directory)
    assert held is not None
    certificate = authority.node_certificate(
        plane.authority,
        held.key.public_key(),
        node_id="node_1",
        now=datetime.now(UTC) - timedelta(hours=2),
        lifetime=timedelta(hours=1),
    )
    plane.certificates.append(authority.sha256(certificate))
    answer = msgspec.structs.replace(held.credential, certificate_pem=authority.pem(certificate))
    credential.accept(node.directory, url=held.url, key=held.key, credential=answer)
    assert os.path.exists(node.directory / credential.IDENTITY)
