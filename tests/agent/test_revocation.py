"""Certificates that end or are revoked while a stream passes the relay. Real TLS on loopback."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, wire
from tests.agent.test_relay import NOW, REPLICA, caller, echo, node_identity, region, run
from workers.agent import peers, relay

__all__ = ["region"]  # a fixture

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GATEWAY = wire.Revoked(kind="gateway", id="gw-1", issued_until=NOW.timestamp())


class Rig:
    """A relay before an engine that echoes."""

    def __init__(self, region: authority.Authority, directory: Path) -> None:
        self.directory, self.region = directory, region
        path = directory / "e.sock"
        self.path = path
        self.relay = relay.Relay(node_identity(region, directory), {REPLICA: str(path)}.get)
        self.port = 0
        self.served: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Rig":
        self.engine = await asyncio.start_unix_server(self._serve, self.path)
        self.port = await self.relay.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.relay.stop()
        await asyncio.gather(*self.served)  # it sees them all leave
        self.engine.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.served.append(task)
        with contextlib.suppress(ConnectionError):  # a caller that was cut
            await echo(reader, writer)
        writer.close()

    async def connect(self, context: ssl.SSLContext) -> Stream:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=relay.server_name(REPLICA)
        )


async def passes(stream: Stream, word: bytes) -> None:
    stream[1].write(word)
    assert await stream[0].readexactly(len(word)) == word


async def refused(rig: Rig, context: ssl.SSLContext) -> None:
    """A connection that gives nothing: the handshake fails, or it ends before a word passed."""
    try:
        reader, writer = await rig.connect(context)
        writer.write(b"hello")
        assert await reader.read(1) == b""
        writer.close()
    except (OSError, ssl.SSLError):
        pass


def short_lived(
    region: authority.Authority,
    directory: Path,
    lifetime: timedelta,
    later: timedelta = timedelta(),
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=region.certificate_pem)
    key = Ed25519PrivateKey.generate()
    certificate = authority.gateway_certificate(
        region,
        key.public_key(),
        gateway_id="gw-1",
        now=datetime.now(UTC) + later,
        lifetime=lifetime,
    )
    path = directory / "short.pem"
    path.write_bytes(_pem(key) + authority.pem(certificate).encode())
    context.load_cert_chain(path)
    return context


def test_a_revoked_gateway_is_cut_in_the_middle_and_comes_back_with_a_new_certificate(
    region: authority.Authority, tmp_path: Path
) -> None:
    async def work() -> None:
        async with Rig(region, tmp_path) as rig:
            old = caller(tmp_path, region, region, kind="gateway")
            stream = await rig.connect(old)
            await passes(stream, b"before")
            rig.relay.revoke([GATEWAY])
            assert await stream[0].read() == b""  # cut at once, while the answer was under way
            await refused(rig, old)
            # Issued later, the certificate of the same gateway is good.
            new = short_lived(region, tmp_path, timedelta(days=1), later=timedelta(seconds=2))
            stream = await rig.connect(new)
            await passes(stream, b"after")
            stream[1].close()

    run(work)


def test_who_was_not_meant_is_not_cut(region: authority.Authority, tmp_path: Path) -> None:
    async def work() -> None:
        async with Rig(region, tmp_path) as rig:
            stream = await rig.connect(caller(tmp_path, region, region, kind="gateway"))
            await passes(stream, b"one")
            rig.relay.revoke(
                [
                    wire.Revoked(kind="gateway", id="gw-2", issued_until=NOW.timestamp()),
                    wire.Revoked(kind="node", id="gw-1", issued_until=NOW.timestamp()),
                ]
            )
            await passes(stream, b"two")
            stream[1].close()

    run(work)


def test_when_a_certificate_ends_its_stream_goes_on_and_no_other_begins(
    region: authority.Authority, tmp_path: Path
) -> None:
    async def work() -> None:
        async with Rig(region, tmp_path) as rig:
            context = short_lived(region, tmp_path, timedelta(seconds=3))
            stream = await rig.connect(context)
            await passes(stream, b"before")
            while peers.left_s(rig_peer(rig)) > 0:
                await asyncio.sleep(0.1)
            await passes(stream, b"after it has ended")
            await refused(rig, context)
            stream[1].close()

    run(work)


def test_an_answer_that_outlives_its_certificate_too_long_is_cut(
    region: authority.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LINGER_S", 0.5)

    async def work() -> None:
        async with Rig(region, tmp_path) as rig:
            stream = await rig.connect(short_lived(region, tmp_path, timedelta(seconds=3)))
            await passes(stream, b"before")
            assert await stream[0].read() == b""
            assert peers.left_s(None) == 0.0

    run(work)


def test_what_was_revoked_is_kept_for_the_next_start(tmp_path: Path) -> None:
    assert peers.kept(tmp_path) == []
    peers.keep(tmp_path, [GATEWAY])
    assert peers.kept(tmp_path) == [GATEWAY]
    (tmp_path / peers.KEPT).write_text("{")
    assert peers.kept(tmp_path) == []


def rig_peer(rig: Rig) -> peers.Peer | None:
    return next(iter(rig.relay._callers)).peer


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
