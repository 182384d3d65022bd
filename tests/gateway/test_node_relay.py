"""Engines on other hosts: the gateway's TLS against the agent's own relay, under one authority."""

import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, wire
from gateway import nodes
from gateway.directory import Replica
from gateway.limits import Limits
from gateway.upstream import DIALS
from tests.gateway.house import eventually
from tests.gateway.rig import KEY, Rig
from tests.gateway.wire import Response
from workers.agent import credential, relay

REGION = "eu-test"
NOW = datetime.now(UTC)
CHAT = "/v1/chat/completions"


def identity(
    region: authority.Authority,
    folder: Path,
    now: datetime = NOW,
    lifetime: timedelta = timedelta(days=1),
    node_id: str = "node_1",
) -> credential.Identity:
    key = credential.pending_key(folder)
    certificate = authority.node_certificate(
        region, key.public_key(), node_id=node_id, now=now, lifetime=lifetime
    )
    answer = wire.Credential(
        node_id=node_id,
        region=region.region,
        pool="default",
        certificate_pem=authority.pem(certificate),
        ca_pem=region.certificate_pem,
        expires_at=certificate.not_valid_after_utc.isoformat(),
    )
    return credential.accept(folder, url="http://127.0.0.1", key=key, credential=answer)


def show(region: authority.Authority, folder: Path) -> None:
    """Write the gateway's certificate, as its operator does."""
    key = Ed25519PrivateKey.generate()
    certificate = authority.gateway_certificate(region, key.public_key(), gateway_id="gw", now=NOW)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "certificate.pem").write_text(authority.pem(certificate))
    (folder / "ca.pem").write_text(region.certificate_pem)


@dataclass
class Far:
    """A gateway and, behind a node's relay, an engine."""

    rig: Rig
    folder: Path
    region: authority.Authority
    address: str
    relay: relay.Relay


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def far(limits: Limits) -> Iterator[Far]:
    with tempfile.TemporaryDirectory(prefix="gw-") as name:
        folder = Path(name)
        region = authority.create(REGION, now=NOW)
        show(region, folder)
        rig = Rig(
            folder,
            limits,
            certificate=folder / "certificate.pem",
            certificate_key=folder / "key.pem",
            certificate_ca=folder / "ca.pem",
        )
        rig.key()
        engine = rig.engine("ep_tiny")
        (folder / "node").mkdir()
        sockets = {"rep_01abc": str(engine.socket)}
        node = relay.Relay(identity(region, folder / "node"), sockets.get)
        port = rig.run(node.start("127.0.0.1", 0))
        rig.endpoint("tiny")
        address = f"relay:127.0.0.1:{port}"
        rig.change("tiny", replicas=(Replica("rep_01abc", "ep_tiny", address),))
        yield Far(rig, folder, region, address, node)
        rig.run(node.stop())
        rig.stop()


def test_requests_reach_an_engine_on_another_host(far: Far) -> None:
    for _ in range(3):
        assert far.rig.chat("tiny", user="tokens=4").json["usage"]["completion_tokens"] == 4
    assert len(far.rig.chat("tiny", stream=True, user="tokens=20;fill=2000").events) == 21
    assert far.rig.engines[0].connections == 1


def test_requests_that_come_at_once_are_all_answered(far: Far) -> None:
    with ThreadPoolExecutor(24) as clients:
        asked = [clients.submit(far.rig.chat, "tiny", user="tokens=2") for _ in range(96)]
    assert [one.result().status for one in asked] == [200] * 96


def test_few_handshakes_with_a_relay_are_under_way_at_once(far: Far) -> None:
    """Of a node that says nothing; when it hangs up, nobody waits for the turn of another."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(24) as clients:
        address = f"relay:127.0.0.1:{silent.getsockname()[1]}"
        far.rig.change("tiny", replicas=(Replica("rep_01abc", "ep_tiny", address),))
        asked = [clients.submit(far.rig.chat, "tiny") for _ in range(24)]
        silent.settimeout(30)
        greeted = [silent.accept()[0] for _ in range(DIALS)]
        silent.settimeout(1)
        with pytest.raises(TimeoutError):
            silent.accept()
        silent.close()
        for connection in greeted:
            connection.close()
        assert {one.result().error["code"] for one in asked} == {"engine_unavailable"}


@pytest.mark.trap("abandoned-generation")
def test_a_client_that_leaves_stops_an_engine_on_another_host(far: Far) -> None:
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=999;delay=0.01"}
    with far.rig.connect() as connection:
        connection.post(CHAT, body, key=KEY)
        connection.head()
        connection.chunk()
    far.rig.until(lambda: far.rig.engines[0].seen[0].aborted)
    assert far.rig.closed()[0].finish == "client_gone"


@pytest.mark.trap("identity-by-address")
def test_a_replica_that_the_node_does_not_run_is_unreachable(far: Far) -> None:
    far.rig.change("tiny", replicas=(Replica("rep_01other", "ep_tiny", far.address),))
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"


@pytest.mark.trap("identity-by-address")
def test_a_relay_of_another_authority_is_not_believed(far: Far) -> None:
    stranger = authority.create(REGION, now=NOW)
    (far.folder / "ca.pem").write_text(stranger.certificate_pem)
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"
    assert far.rig.engines[0].seen == []


def test_a_renewed_certificate_is_taken_up(far: Far) -> None:
    stranger = authority.create(REGION, now=NOW)
    show(stranger, far.folder)
    (far.folder / "ca.pem").write_text(far.region.certificate_pem)
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"
    show(far.region, far.folder)
    assert far.rig.chat("tiny").status == 200


def revoke(far: Far, node_id: str = "node_1") -> None:
    far.rig.revoked = {nodes.name(REGION, node_id): NOW.timestamp()}
    far.rig.publish()


def test_what_is_open_to_a_revoked_node_is_cut_at_once(far: Far) -> None:
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=9999;delay=0.01"}
    with far.rig.connect() as connection:
        connection.post(CHAT, body, key=KEY)
        connection.head()
        connection.chunk()
        revoke(far)
        far.rig.until(lambda: far.rig.engines[0].seen[0].aborted)  # though the node would go on
    assert far.rig.closed()[0].finish != "stop"
    # A new connection gets as far as the certificate, and no request is sent over it.
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"
    assert len(far.rig.engines[0].seen) == 1


def test_an_idle_connection_to_a_revoked_node_is_not_used(far: Far) -> None:
    assert far.rig.chat("tiny").status == 200
    revoke(far)
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"
    assert len(far.rig.engines[0].seen) == 1


def test_another_nodes_revocation_cuts_nothing(far: Far) -> None:
    assert far.rig.chat("tiny").status == 200
    revoke(far, "node_2")
    assert far.rig.chat("tiny").status == 200
    assert far.rig.engines[0].connections == 1


def test_a_certificate_that_a_revoked_node_got_later_is_good(far: Far) -> None:
    revoke(far)
    assert far.rig.chat("tiny").error["code"] == "engine_unavailable"
    use(far, identity(far.region, far.folder / "node", NOW + timedelta(seconds=2)))
    assert far.rig.chat("tiny").status == 200


def use(far: Far, renewed: credential.Identity) -> None:
    async def show_it() -> None:
        far.relay.use(renewed)

    far.rig.run(show_it())


def test_what_is_open_takes_no_request_once_ours_was_renewed(far: Far) -> None:
    assert far.rig.chat("tiny").status == 200
    show(far.region, far.folder)
    engine = far.rig.engines[0]
    eventually(lambda: far.rig.chat("tiny").status == 200 and engine.connections == 2)


@pytest.mark.parametrize("limits", [Limits(expired_s=0.5)])
def test_an_answer_that_outlives_its_nodes_certificate_too_long_is_cut(far: Far) -> None:
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=9999;delay=0.01"}
    status = 0
    while status != 200:  # on a busy machine it has ended before it was shown
        life = timedelta(seconds=2)
        use(far, identity(far.region, far.folder / "node", datetime.now(UTC), life))
        with far.rig.connect() as connection:
            connection.post(CHAT, body, key=KEY)
            status, headers = connection.head()
            if status == 200:
                chunks = list(iter(connection.chunk, b""))
    error = Response(status, headers, b"".join(chunks)).events[-1]["error"]
    assert (error["code"], error["type"]) == ("engine_gone", "server_error")
    far.rig.until(lambda: far.rig.engines[0].seen[0].aborted)
    use(far, identity(far.region, far.folder / "node"))
    eventually(lambda: far.rig.chat("tiny").status == 200)
