"""A gang's private network: the packets of one engine here, to and from its members elsewhere.

An engine on several nodes has one process tree, a *member*, on each. Each member's namespace has
one interface beside loopback, and this is what it leads to: for each other member one connection
between the two nodes' relays, TLS 1.3 under the region's authority, on which packets follow each
other. A connection is taken only from the node that the control plane has named for that member,
and on it only packets from that member's address to ours pass. Nothing else is routed: there is
no way from a gang to a host, to another gang or to the world.

The member of the higher rank calls the one of the lower, again and again while both live; what is
lost meanwhile the engines' own TCP sends again.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from controlplane.fleet import wire
from workers.agent import tunnel
from workers.agent.engines import Running

log = logging.getLogger("stoa.agent")

SUFFIX = ".gang.stoa"
CALL_TIMEOUT_S = 10.0
AGAIN_S = 0.5
# What may wait for a slow peer. The engines' TCP has far less under way, so this drops nothing
# of theirs and yet bounds our memory.
QUEUE_BYTES = 64 << 20
_BLOCK = 1 << 18
_HEADER = 20
_BATCH = 64  # packets before it is somebody else's turn

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Wanted = tuple[Running, wire.Seat, Sequence[wire.Peer]]
# (host, port, name, node id) -> a connection to that very node, or OSError
Call = Callable[[str, int, str, str], Awaitable[Stream]]


def server_name(replica_id: str) -> str:
    """The name under which a relay knows a gang's member."""
    return replica_id.replace("_", "-") + SUFFIX


class Gang:
    """One member of this node. `running` is its engine."""

    def __init__(self, running: Running, seat: wire.Seat, call: Call) -> None:
        self.running, self.seat = running, seat
        self._call = call
        self._peers: dict[int, wire.Peer] = {}
        self._links: dict[int, asyncio.StreamWriter] = {}
        self._callers: dict[int, asyncio.Task[None]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._end = -1
        self._attaching = asyncio.create_task(self._attach())

    def meet(self, peers: Sequence[wire.Peer]) -> None:
        """Who the others are and where; called again when that changed."""
        self._peers = {peer.rank: peer for peer in peers if peer.rank != self.seat.rank}
        for rank in self._peers:
            if rank < self.seat.rank and rank not in self._callers:
                self._callers[rank] = asyncio.create_task(self._keep_calling(rank))

    async def admit(self, node_id: str, stream: Stream) -> None:
        """A call from a node, which has proved that it is that one; lasts as long as the link."""
        ranks = [r for r, peer in self._peers.items() if peer.node_id == node_id]
        if not ranks or ranks[0] < self.seat.rank:
            log.info("gang %s: %s is no member that calls", self.running.replica_id, node_id)
            return
        await self._carry(ranks[0], stream)

    def linked(self) -> set[int]:
        """Ranks with whom a connection stands."""
        return set(self._links)

    async def close(self) -> None:
        tasks = [self._attaching, *self._callers.values(), *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._links.values():
            writer.transport.abort()
        if self._end >= 0:
            asyncio.get_running_loop().remove_reader(self._end)
            os.close(self._end)
            self._end = -1

    # --- our end ---------------------------------------------------------------------------

    async def _attach(self) -> None:
        while self._end < 0:
            try:
                self._end = tunnel.attach(self.running.pid)
            except tunnel.NotYet:
                await asyncio.sleep(0.02)
            except OSError as error:  # it ended; whoever watches it will close us
                log.info("gang %s: %s", self.running.replica_id, error)
                await asyncio.sleep(AGAIN_S)
        asyncio.get_running_loop().add_reader(self._end, self._outgoing)

    def _outgoing(self) -> None:
        """Packets from the engine, each to the member whose address it bears."""
        mine = socket.inet_aton(tunnel.address(self.seat.rank))
        for _ in range(_BATCH):
            try:
                packet = os.read(self._end, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                asyncio.get_running_loop().remove_reader(self._end)
                return
            if packet[:1] != b"\x45" or packet[12:16] != mine or packet[16:19] != mine[:3]:
                continue  # IPv6 and the like
            writer = self._links.get(packet[19] - 1)
            if writer is not None and writer.transport.get_write_buffer_size() < QUEUE_BYTES:
                writer.write(packet)

    # --- links -----------------------------------------------------------------------------

    async def _keep_calling(self, rank: int) -> None:
        while True:
            peer = self._peers.get(rank)
            if peer is not None and peer.relay:
                host, _, port = peer.relay.rpartition(":")
                with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                    async with asyncio.timeout(CALL_TIMEOUT_S):
                        name = server_name(self.running.replica_id)
                        stream = await self._call(host.strip("[]"), int(port), name, peer.node_id)
                    await self._carry(rank, stream)
            await asyncio.sleep(AGAIN_S)

    async def _carry(self, rank: int, stream: Stream) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        reader, writer = stream
        watch(writer.transport)
        before, self._links[rank] = self._links.get(rank), writer
        if before is not None:
            before.close()  # its caller has begun anew
        log.info("gang %s: linked with rank %s", self.running.replica_id, rank)
        try:
            await self._incoming(rank, reader)
        finally:
            self._serving.discard(task)
            if self._links.get(rank) is writer:
                del self._links[rank]
            writer.transport.abort()  # nobody waits for what is under way: it is sent again

    async def _incoming(self, rank: int, reader: asyncio.StreamReader) -> None:
        """Packets from a member, into the engine. Raises OSError at what cannot be its."""
        source = socket.inet_aton(tunnel.address(rank))
        target = socket.inet_aton(tunnel.address(self.seat.rank))
        waiting = bytearray()
        while data := await reader.read(_BLOCK):
            waiting += data
            at = 0
            while len(waiting) - at >= _HEADER:
                length = int.from_bytes(waiting[at + 2 : at + 4], "big")
                addressed = waiting[at + 12 : at + 16] == source
                addressed &= waiting[at + 16 : at + 20] == target
                if waiting[at] != 0x45 or length < _HEADER or not addressed:
                    raise OSError(f"rank {rank} sent what is no packet from it to us")
                if len(waiting) - at < length:
                    break
                if self._end >= 0:
                    with contextlib.suppress(OSError):  # full, or going down: it is sent again
                        os.write(self._end, memoryview(waiting)[at : at + length])
                at += length
            del waiting[:at]


def watch(transport: asyncio.BaseTransport) -> None:
    """Find out within seconds that whoever is at the other end is gone, though it says nothing."""
    plain: socket.socket = transport.get_extra_info("socket")
    for option, value in (
        (socket.TCP_KEEPIDLE, 5),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 2),
        (socket.TCP_USER_TIMEOUT, 15_000),
        (socket.TCP_NODELAY, 1),
    ):
        plain.setsockopt(socket.IPPROTO_TCP, option, value)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Gangs:
    """All gangs with a member on this node."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._all: dict[str, Gang] = {}

    async def follow(self, wanted: Mapping[str, Wanted]) -> None:
        """Have exactly these, by replica id; a level, so that calling again changes nothing."""
        for replica_id, gang in list(self._all.items()):
            if replica_id not in wanted or wanted[replica_id][0].pid != gang.running.pid:
                del self._all[replica_id]
                await gang.close()
        for replica_id, (running, seat, peers) in wanted.items():
            if replica_id not in self._all:
                self._all[replica_id] = Gang(running, seat, self._call)
            self._all[replica_id].meet(peers)

    async def admit(self, name: str, node_id: str, stream: Stream) -> None:
        """A call to a relay of ours, for the gang of that name."""
        replica_id = name.removesuffix(SUFFIX).replace("-", "_")
        if gang := self._all.get(replica_id):
            await gang.admit(node_id, stream)

    def linked(self, replica_id: str) -> set[int]:
        """Ranks with whom a connection stands."""
        found = self._all.get(replica_id)
        return found.linked() if found else set()

    async def close(self) -> None:
        await self.follow({})
