"""The relay with real TLS on loopback: who gets in, where to, and how fast."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import authority, wire
from workers.agent import credential, relay

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
REPLICA = "rep_01abc"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def region() -> authority.Authority:
    return authority.create("eu-test-1", now=NOW)


def node_identity(
    region: authority.Authority, directory: Path, node_id: str = "node_1"
) -> credential.Identity:
    key = credential.pending_key(directory)
    certificate = authority.node_certificate(
        region, key.public_key(), node_id=node_id, now=NOW, lifetime=DAY
    )
    answer = wire.Credential(
        node_id=node_id,
        region=region.region,
        pool="default",
        certificate_pem=authority.pem(certificate),
        ca_pem=region.certificate_pem,
        expires_at=certificate.not_valid_after_utc.isoformat(),
    )
    return credential.accept(directory, url="http://127.0.0.1", key=key, credential=answer)


def caller(
    directory: Path, trusts: authority.Authority, issuer: authority.Authority | None, *, kind: str
) -> ssl.SSLContext:
    """A client's TLS context; `issuer` None: it has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trusts.certificate_pem)
    if issuer is None:
        return context
    key = Ed25519PrivateKey.generate()
    if kind == "gateway":
        certificate = authority.gateway_certificate(
            issuer, key.public_key(), gateway_id="gw-1", now=NOW
        )
    else:
        certificate = authority.node_certificate(
            issuer, key.public_key(), node_id="node_2", now=NOW, lifetime=DAY
        )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = directory / "caller.pem"
    path.write_bytes(pem + authority.pem(certificate).encode())
    context.load_cert_chain(path)
    return context


@asynccontextmanager
async def serving(
    region: authority.Authority,
    directory: Path,
    engine: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Callable[[ssl.SSLContext, str], Awaitable[Connection]]]:
    """A relay in front of one engine; gives the way to connect to it."""
    path = directory / "e.sock"
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        await engine(reader, writer)

    server = await asyncio.start_unix_server(serve, path)
    sockets = {REPLICA: str(path), "rep_01dead": str(directory / "nobody.sock")}
    node = relay.Relay(node_identity(region, directory), sockets.get)
    port = await node.start("127.0.0.1", 0)

    async def connect(context: ssl.SSLContext, name: str) -> Connection:
        return await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=name, limit=1 << 16
        )

    try:
        yield connect
    finally:
        await node.stop()
        await asyncio.gather(*served)  # it sees them all leave
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    uvloop.run(bounded())


def test_a_gateway_reaches_the_engine_that_it_names(
    region: authority.Authority, tmp_path: Path
) -> None:
    async def work() -> None:
        async with serving(region, tmp_path, echo) as connect:
            context = caller(tmp_path, region, region, kind="gateway")
            reader, writer = await connect(context, relay.server_name(REPLICA))
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()

    run(work)


def test_bytes_pass_both_ways_at_once_and_whole(
    region: authority.Authority, tmp_path: Path
) -> None:
    sent = bytes(range(256)) * 40_000  # 10 MB: far more than any buffer on the way

    async def work() -> None:
        async with serving(region, tmp_path, echo) as connect:
            context = caller(tmp_path, region, region, kind="gateway")
            reader, writer = await connect(context, relay.server_name(REPLICA))

            async def send() -> None:
                writer.write(sent)
                await writer.drain()

            sending = asyncio.create_task(send())
            assert await reader.readexactly(len(sent)) == sent
            await sending
            writer.close()

    run(work)


def test_a_slow_reader_slows_the_engine(region: authority.Authority, tmp_path: Path) -> None:
    async def work() -> None:
        written = 0
        blocked = asyncio.Event()

        async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"x" * 65_536)
                    written += 65_536
                    try:
                        async with asyncio.timeout(0.5):
                            await writer.drain()
                    except TimeoutError:
                        blocked.set()
                        await writer.drain()

        async with serving(region, tmp_path, flood) as connect:
            context = caller(tmp_path, region, region, kind="gateway")
            _, writer = await connect(context, relay.server_name(REPLICA))
            await blocked.wait()
            assert written < 32 << 20
            writer.transport.abort()

    run(work)


def test_the_engine_sees_a_caller_leave(region: authority.Authority, tmp_path: Path) -> None:
    async def work() -> None:
        left = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"first")
            await reader.read()
            left.set()
            writer.close()

        async with serving(region, tmp_path, wait) as connect:
            context = caller(tmp_path, region, region, kind="gateway")
            reader, writer = await connect(context, relay.server_name(REPLICA))
            assert await reader.readexactly(5) == b"first"
            writer.close()
            await left.wait()

    run(work)


@pytest.mark.parametrize("name", ["rep-01other.replica.stoa", "rep-01dead.replica.stoa"])
def test_an_engine_that_is_not_here_ends_the_connection(
    region: authority.Authority, tmp_path: Path, name: str
) -> None:
    async def work() -> None:
        async with serving(region, tmp_path, echo) as connect:
            context = caller(tmp_path, region, region, kind="gateway")
            reader, writer = await connect(context, name)
            assert await reader.read() == b""
            writer.close()

    run(work)


@pytest.mark.parametrize("who", ["nobody", "a node", "another region's gateway", "no name"])
def test_strangers_reach_no_engine(region: authority.Authority, tmp_path: Path, who: str) -> None:
    other = authority.create("eu-test-2", now=NOW)
    reached = asyncio.Event()

    async def engine(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async def work() -> None:
        async with serving(region, tmp_path, engine) as connect:
            issuer = {"nobody": None, "another region's gateway": other}.get(who, region)
            kind = "node" if who == "a node" else "gateway"
            context = caller(tmp_path, region, issuer, kind=kind)
            name = relay.server_name(REPLICA)
            if who == "no name":
                context.check_hostname, name = False, "127.0.0.1"
            # TLS 1.3 refuses a client only after the client believes that it is connected.
            try:
                reader, writer = await connect(context, name)
                writer.write(b"hello")
                assert await reader.read() == b""
                writer.close()
            except OSError as refused:
                assert isinstance(refused, ssl.SSLError | ConnectionError)
            assert not reached.is_set()

    run(work)


def test_a_gateway_that_trusts_another_region_refuses_the_node(
    region: authority.Authority, tmp_path: Path
) -> None:
    other = authority.create("eu-test-2", now=NOW)

    async def work() -> None:
        async with serving(region, tmp_path, echo) as connect:
            context = caller(tmp_path, other, region, kind="gateway")
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(context, relay.server_name(REPLICA))

    run(work)
