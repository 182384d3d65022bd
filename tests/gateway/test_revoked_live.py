"""A node that is revoked in the control plane, and a running gateway with a stream through it."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compliance import audit
from controlplane.endpoints.models import Replica
from controlplane.fleet import authority, revoking, services, wire
from controlplane.fleet.models import Node
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import REGION, Beat, House, Road, eventually
from tests.gateway.test_node_relay import show
from tests.gateway.test_process import CHAT, KEY, Process, engine
from tests.gateway.wire import Connection
from workers.agent import credential, relay

__all__ = ["engine"]  # a fixture

BODY: dict[str, Any] = {"model": "tiny", "messages": []}


@dataclass
class Far:
    gateway: Process
    node: Node
    engine: FakeEngine


def identity(region: authority.Authority, node: Node, folder: Path) -> credential.Identity:
    folder.mkdir()
    key = credential.pending_key(folder)
    certificate = authority.node_certificate(
        region, key.public_key(), node_id=node.id, now=node.created_at, lifetime=timedelta(days=1)
    )
    answer = wire.Credential(
        node_id=node.id,
        region=REGION,
        pool="gpu",
        certificate_pem=authority.pem(certificate),
        ca_pem=region.certificate_pem,
        expires_at=certificate.not_valid_after_utc.isoformat(),
    )
    return credential.accept(folder, url="http://127.0.0.1", key=key, credential=answer)


@pytest.fixture
def far(house: House, engine: FakeEngine, road: Road, beat: Beat, tmp_path: Path) -> Iterator[Far]:
    """The house's one replica, behind the relay of a node."""
    now = datetime.now(UTC)
    node = Node.objects.create(
        pool=house.pool,
        name="gpu-1",
        certificate_sha256="a" * 64,
        certificate_expires_at=now + timedelta(days=1),
        created_at=now,
    )
    region = authority.create(REGION, now=now)
    show(region, tmp_path)
    replica = Replica.objects.get()
    sockets = {replica.id: str(engine.socket)}
    mine = relay.Relay(identity(region, node, tmp_path / "node"), sockets.get)
    port = beat.run(mine.start("127.0.0.1", 0))
    Replica.objects.update(address=f"relay:127.0.0.1:{port}")
    gateway = Process(
        tmp_path,
        road.port,
        STOA_GATEWAY_CERTIFICATE=str(tmp_path / "certificate.pem"),
        STOA_GATEWAY_KEY=str(tmp_path / "key.pem"),
        STOA_GATEWAY_CA=str(tmp_path / "ca.pem"),
    )
    gateway.start()
    yield Far(gateway, node, engine)
    if gateway.process is not None:
        gateway.end(signal.SIGKILL)
    beat.run(mine.stop())


def status(far: Far) -> int:
    with Connection(far.gateway.port) as client:
        client.post(CHAT, BODY, key=KEY)
        return client.response().status


@pytest.mark.parametrize("verb", ["revoke", "remove"])
def test_a_stream_through_a_node_ends_as_its_certificate_does(far: Far, verb: str) -> None:
    assert status(far) == 200
    with Connection(far.gateway.port) as client:
        user = "tokens=9999;delay=0.01"
        client.post(CHAT, {**BODY, "user": user, "stream": True}, key=KEY)
        client.read_until(b"data: ")
        began, now = time.monotonic(), datetime.now(UTC)
        if verb == "revoke":
            revoking.revoke_node(node=far.node, actor=audit.SYSTEM, now=now)
        else:
            services.remove_node(node=far.node, actor=audit.SYSTEM, now=now)
        eventually(lambda: far.engine.seen[-1].aborted)
        print(f"cut after {time.monotonic() - began:.2f} s")
    served = len(far.engine.seen)
    assert status(far) in (502, 503)
    assert len(far.engine.seen) == served
