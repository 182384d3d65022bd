"""A gang's network, for real: namespaces, packets, TLS between two nodes, and who is kept out."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.fleet import authority, wire
from tests.agent.test_relay import NOW, caller, node_identity, run
from workers.agent import engines, gang, kin, relay, tunnel
from workers.agent.engines import Running

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not Path("/dev/net/tun").exists(),
        reason="a network of their own for engines needs root and /dev/net/tun",
    ),
    # A TLS transport that is gone says that it is not closing; so asyncio complains of streams
    # that the other side has ended.
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
REPLICA = "rep_01gang"

MEMBER = """
import sys, time
from workers.agent.launcher.isolation import OWN, Isolation, enclose
enclose(Isolation(network=OWN, gang=sys.argv[1]))
print("up", flush=True)
time.sleep(600)
"""
LISTEN = """
import socket
with socket.create_server(("", 7000)) as server:
    print("listening", flush=True)
    connection, peer = server.accept()
    total = 0
    while data := connection.recv(1 << 20):
        total += len(data)
        connection.sendall(b"%d " % total)
    print(peer[0], total, flush=True)
"""
SEND = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 7000), timeout=20)
for _ in range(int(sys.argv[2])):
    connection.sendall(bytes(1 << 16))
    time.sleep(float(sys.argv[3]))
connection.shutdown(socket.SHUT_WR)
answer = b""
while data := connection.recv(1 << 20):
    answer += data
print(answer.split()[-1].decode())
"""
REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)
    print("reached")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def region() -> authority.Authority:
    return authority.create("eu-test-1", now=NOW)


@dataclass
class Member:
    """An engine's process, as far as its network goes."""

    process: subprocess.Popen[str]
    rank: int

    @property
    def running(self) -> Running:
        found = kin.read(self.process.pid)
        assert found is not None
        return Running(
            replica_id=REPLICA,
            pid=found.pid,
            start_time=found.start_time,
            boot_id=engines.boot_id(),
            socket="",
            tier=wire.StartTier.COLD,
            log="",
            directory="",
            home="",
            exit_file="",
        )

    def inside(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        enter = ["nsenter", f"--target={self.process.pid}", "--net", "--"]
        return subprocess.Popen(
            [*enter, sys.executable, "-I", "-c", program, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )

    async def says(self, program: str, *arguments: str) -> str:
        inside = self.inside(program, *arguments)
        out, _ = await asyncio.to_thread(inside.communicate, timeout=60)
        end(inside)
        return str(out).strip()


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Ranks 0 and 1, and a stranger that has the address of rank 1 in a gang of its own."""
    started = []
    for rank in (0, 1, 1):
        process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, tunnel.address(rank)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        )
        started.append(Member(process, rank))
    for member in started:
        assert member.process.stdout is not None
        assert member.process.stdout.readline() == "up\n"
    yield started
    for member in started:
        end(member.process)


def end(process: subprocess.Popen[str]) -> None:
    with process:  # and close its pipes
        process.kill()


@dataclass
class Node:
    """A node's relay and its gangs, without the rest of its agent."""

    id: str
    relay: relay.Relay
    gangs: gang.Gangs
    port: int

    async def host(self, member: Member, peers: list[wire.Peer]) -> None:
        seat = wire.Seat(rank=member.rank, size=2)
        await self.gangs.follow({REPLICA: (member.running, seat, peers)})

    def linked(self) -> set[int]:
        return self.gangs.linked(REPLICA)


@contextlib.asynccontextmanager
async def node(region: authority.Authority, directory: Path, id: str) -> AsyncIterator[Node]:
    directory.mkdir(exist_ok=True)
    calls: list[relay.Relay] = []
    gangs = gang.Gangs(lambda *to: calls[0].call(*to))
    door = relay.Relay(node_identity(region, directory, id), lambda _: None, gangs.admit)
    calls.append(door)
    port = await door.start("127.0.0.1", 0)
    try:
        yield Node(id, door, gangs, port)
    finally:
        await gangs.close()
        await door.stop()


@contextlib.asynccontextmanager
async def two_nodes(
    region: authority.Authority, folder: Path, members: list[Member]
) -> AsyncIterator[tuple[Node, Node, list[wire.Peer]]]:
    """Each hosts a member of one gang, and they are linked."""
    async with node(region, folder / "a", "node_a") as a, node(region, folder / "b", "node_b") as b:
        peers = [
            wire.Peer(rank=rank, node_id=one.id, relay=f"127.0.0.1:{one.port}")
            for rank, one in enumerate((a, b))
        ]
        await a.host(members[0], peers)
        await b.host(members[1], peers)
        await until(lambda: a.linked() == {1} and b.linked() == {0})
        yield a, b, peers


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.02)


async def started(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    assert await asyncio.to_thread(server.stdout.readline) == "listening\n"


def test_members_reach_each_other_on_any_port(
    region: authority.Authority, tmp_path: Path, members: list[Member]
) -> None:
    """Both ways, and fast enough for what passes between stages of a model."""

    async def work() -> None:
        async with two_nodes(region, tmp_path, members):
            for here, there in (members[:2], members[1::-1]):
                server = there.inside(LISTEN)
                await started(server)
                since = time.monotonic()
                sent = await here.says(SEND, tunnel.address(there.rank), "640", "0")
                took = time.monotonic() - since
                assert sent == str(640 << 16)
                out, _ = await asyncio.to_thread(server.communicate, timeout=20)
                end(server)
                assert out.split() == [tunnel.address(here.rank), sent]
                print(f"rank {here.rank}: {(640 << 16) / took / 1e6:.0f} MB/s")

    run(work)


def test_a_connection_outlives_the_agent(
    region: authority.Authority, tmp_path: Path, members: list[Member]
) -> None:
    """Its end of the network is let go and taken up again, as after a kill -9 of it."""

    async def work() -> None:
        async with two_nodes(region, tmp_path, members) as (a, _, peers):
            server = members[0].inside(LISTEN)
            await started(server)
            client = members[1].inside(SEND, tunnel.address(0), "40", "0.02")
            await asyncio.sleep(0.2)
            await a.gangs.close()
            assert a.linked() == set()
            await a.host(members[0], peers)
            await until(lambda: a.linked() == {1})
            sent, _ = await asyncio.to_thread(client.communicate, timeout=30)
            assert sent.strip() == str(40 << 16)
            end(server)
            end(client)

    run(work)


def test_nobody_else_gets_in_and_nothing_out(
    region: authority.Authority, tmp_path: Path, members: list[Member]
) -> None:
    async def work() -> None:
        async with (
            two_nodes(region, tmp_path, members) as (a, _, peers),
            node(region, tmp_path / "c", "node_c") as c,
        ):
            server = members[0].inside(LISTEN)
            await started(server)
            # A node of the region that hosts no member: its calls are taken for nobody's.
            stranger = members[2]
            await c.host(stranger, peers)
            assert await stranger.says(REACH, tunnel.address(0), "7000") == "TimeoutError"
            assert a.linked() == {1}
            # From inside a gang: the hosts' loopback, where a relay listens, and the world.
            assert await members[1].says(REACH, "127.0.0.1", str(a.port)) == (
                "ConnectionRefusedError"
            )
            assert await members[1].says(REACH, "192.0.2.1", "80") == "OSError"
            # The member is reached all the while.
            assert await members[1].says(REACH, tunnel.address(0), "7000") == "reached"
            end(server)

    run(work)


async def answer(context: ssl.SSLContext, port: int, name: str, say: bytes) -> bytes:
    """What a relay sends to who calls it so, until it hangs up."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=context,
        server_hostname=name,
    )
    with contextlib.suppress(OSError):
        writer.write(say)
        return await reader.read(100)
    return b""


def packet(source: str, target: str) -> bytes:
    head = bytearray(20)
    head[0], head[3] = 0x45, 20
    head[12:16], head[16:20] = socket.inet_aton(source), socket.inet_aton(target)
    return bytes(head)


@pytest.mark.parametrize(
    ("source", "target"),
    [("10.0.0.1", "10.0.0.1"), ("10.0.0.3", "10.0.0.1"), ("10.0.0.2", "192.168.0.1")],
)
def test_a_member_speaks_for_itself_alone(
    region: authority.Authority,
    tmp_path: Path,
    members: list[Member],
    source: str,
    target: str,
) -> None:
    """A node that hosts rank 1 sends a packet in another's name: the link ends."""

    async def work() -> None:
        async with node(region, tmp_path / "a", "node_a") as a:
            await a.host(members[0], [wire.Peer(rank=1, node_id="node_2", relay="")])
            context = caller(tmp_path, region, region, kind="node")  # node_2
            context.check_hostname = False
            name = gang.server_name(REPLICA)
            ended = await answer(context, a.port, name, packet(source, target))
            assert ended == b""
            assert a.linked() == set()

    run(work)


def test_a_gateway_is_no_member_and_a_member_no_gateway(
    region: authority.Authority, tmp_path: Path, members: list[Member]
) -> None:
    async def work() -> None:
        async with node(region, tmp_path / "a", "node_a") as a:
            await a.host(members[0], [wire.Peer(rank=1, node_id="node_2", relay="")])
            for kind, name in (
                ("gateway", gang.server_name(REPLICA)),
                ("node", relay.server_name(REPLICA)),
                ("node", gang.server_name("rep_01other")),
            ):
                context = caller(tmp_path, region, region, kind=kind)
                context.check_hostname = False
                assert await answer(context, a.port, name, b"x") == b""
            assert a.linked() == set()

    run(work)


def test_who_answers_must_be_that_node(
    region: authority.Authority, tmp_path: Path, members: list[Member]
) -> None:
    async def work() -> None:
        async with (
            node(region, tmp_path / "a", "node_a") as a,
            node(region, tmp_path / "b", "node_b") as b,
        ):
            with pytest.raises(OSError, match="is not the node node_c"):
                await a.relay.call("127.0.0.1", b.port, gang.server_name(REPLICA), "node_c")

    run(work)
