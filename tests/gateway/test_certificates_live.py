"""A running gateway with a stream through a node whose certificate is revoked, or ends."""

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
from controlplane.fleet import authority, revoking, services
from controlplane.fleet.models import Node
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import REGION, Beat, House, Road, eventually
from tests.gateway.test_node_relay import identity, show
from tests.gateway.test_process import CHAT, KEY, Process, engine
from tests.gateway.wire import Connection, Response
from workers.agent import relay

__all__ = ["engine"]  # a fixture

TOKENS = 9_999  # more than any test waits for
BODY: dict[str, Any] = {"model": "tiny", "messages": []}


@dataclass
class Far:
    gateway: Process
    node: Node
    engine: FakeEngine
    beat: Beat
    relay: relay.Relay
    region: authority.Authority
    folder: Path

    def show(self, lifetime: timedelta) -> float:
        """The node's next connections show a certificate made now; when it ends (Unix seconds)."""
        new = identity(self.region, self.folder, datetime.now(UTC), lifetime, self.node.id)
        self.beat.call(self.relay.use, new)
        return new.certificate.not_valid_after_utc.timestamp()


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
    folder = tmp_path / "node"
    folder.mkdir()
    first = identity(region, folder, now, timedelta(days=1), node.id)
    mine = relay.Relay(first, sockets.get)
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
    yield Far(gateway, node, engine, beat, mine, region, folder)
    if gateway.process is not None:
        gateway.end(signal.SIGKILL)
    beat.run(mine.stop())


def ask(far: Far) -> Response:
    with Connection(far.gateway.port) as client:
        client.post(CHAT, BODY, key=KEY)
        return client.response()


def status(far: Far) -> int:
    return ask(far).status


def stream_that_outlives(far: Far) -> tuple[Connection, float]:
    """An open stream of TOKENS, and when the certificate that it began under ends."""
    while True:
        ends = far.show(timedelta(seconds=3))
        client = Connection(far.gateway.port)
        client.post(CHAT, BODY | {"user": f"tokens={TOKENS};delay=0.02", "stream": True}, key=KEY)
        if client.head()[0] == 200:
            return client, ends
        client.close()  # it had ended before it was shown: a busy machine


@pytest.mark.parametrize("verb", ["revoke", "remove"])
def test_a_stream_through_a_node_ends_as_its_certificate_does(far: Far, verb: str) -> None:
    assert status(far) == 200
    with Connection(far.gateway.port) as client:
        user = f"tokens={TOKENS};delay=0.01"
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


def test_a_stream_outlives_its_certificate_and_the_next_request_takes_the_renewed(
    far: Far,
) -> None:
    client, ends = stream_that_outlives(far)
    with client:
        # A connection that is in use all the while: what is open is no way around the end.
        while time.time() <= ends:
            assert ask(far).status == 200 or time.time() > ends
        while time.time() <= ends + 1:  # OpenSSL counts whole seconds
            ask(far)
        answer = ask(far)
        assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
        assert "certificate has expired" in far.gateway.log
        assert far.engine.seen[0].generated < TOKENS and not far.engine.seen[0].aborted

        far.show(timedelta(days=1))
        eventually(lambda: status(far) == 200)
        assert far.engine.seen[0].generated < TOKENS
        far.engine.hurries = True
        body = b"".join(iter(client.chunk, b""))
    events = Response(200, {}, body).events
    assert events[-1] == "[DONE]" and not any("error" in event for event in events)
    assert sum(bool(event["choices"]) for event in events[:-1]) >= TOKENS
