"""Many nodes' agents in one process: real keys, real signatures, the real API; engines of air.

Told on standard input by JSON lines, answers with one line each. The first says where to join:
{"port", "tokens", "devices", "report_every_s"}. Then "stats" asks for what was seen since.
"""

import asyncio
import base64
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet import wire
from tests.benchmarks.fleet.http import Connection
from workers.agent import credential

KIND = "cpu"
WAIT_S = 20.0
JOIN_AT_ONCE = 8
VERSION = "bench"


@dataclass
class Seen:
    """What all agents saw since somebody asked."""

    report_s: list[float] = field(default_factory=list)
    news: dict[str, float] = field(default_factory=dict)  # replica: when its node's poll answered
    polls: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass
class Agent:
    """A node that obeys at once: what it is told to run is ready, what not has stopped."""

    number: int
    port: int
    devices: int
    report_every_s: float
    seen: Seen
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    certificate: str = ""
    version: int = 0
    seq: int = 0
    since: dict[str, float] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.polling = Connection("127.0.0.1", self.port)
        self.reporting = Connection("127.0.0.1", self.port)

    async def join(self, token: str) -> None:
        message = wire.EnrollRequest(
            token=token,
            name=f"node-{self.number:04}",
            csr_pem=credential.request(self.key, "bench"),
            agent_version=VERSION,
        )
        body = msgspec.json.encode(message)
        status, answer = await self.reporting.ask("POST", "/agent/v1/enroll", {}, body)
        assert status == 200, answer
        pem = msgspec.json.decode(answer, type=wire.Credential).certificate_pem
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
        self.certificate = base64.b64encode(der).decode()
        await self.report(self._inventory())

    async def call(
        self, connection: Connection, method: str, path: str, body: bytes = b""
    ) -> bytes:
        stamp = f"{time.time():.6f}"
        signature = self.key.sign(wire.signed_bytes(method, path, stamp, body))
        headers = {
            wire.CERTIFICATE_HEADER: self.certificate,
            wire.SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            wire.TIMESTAMP_HEADER: stamp,
        }
        status, answer = await connection.ask(method, path, headers, body)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer[:200]!r}")
        return answer

    async def report(self, inventory: wire.Inventory | None = None) -> None:
        self.seq += 1
        now = time.monotonic()
        running = [
            wire.ReplicaReport(
                replica_id=id,
                phase=wire.Phase.READY,
                address=f"unix:/run/{id}.sock",
                ready_s=now - since,
            )
            for id, since in self.since.items()
        ]
        over = [wire.ReplicaReport(replica_id=id, phase=wire.Phase.STOPPED) for id in self.stopped]
        report = wire.Report(
            boot_id=f"boot-{self.number}",
            seq=self.seq,
            agent_version=VERSION,
            desired_version=self.version,
            replicas=running + over,
            inventory=inventory,
        )
        body = msgspec.json.encode(report)
        await self.call(self.reporting, "POST", "/agent/v1/report", body)
        self.seen.report_s.append(time.monotonic() - now)

    async def poll(self) -> None:
        path = f"/agent/v1/desired?have={self.version}&wait={WAIT_S:g}"
        answer = await self.call(self.polling, "GET", path)
        desired = msgspec.json.decode(answer, type=wire.Desired)
        self.seen.polls += 1
        if desired.replicas is None or desired.version == self.version:
            return
        at = time.time()
        self.version = desired.version
        run = {one.replica_id for one in desired.replicas if one.run}
        for id in run - self.since.keys():
            self.since[id] = time.monotonic()
            self.seen.news[id] = at
        for id in self.since.keys() - run:
            del self.since[id]
        self.stopped = {one.replica_id for one in desired.replicas if not one.run}
        self.changed.set()

    async def live(self) -> None:
        await asyncio.gather(self._forever(self.poll), self._forever(self._report_in_time))

    async def _report_in_time(self) -> None:
        try:
            async with asyncio.timeout(self.report_every_s):
                await self.changed.wait()
        except TimeoutError:
            pass
        self.changed.clear()
        await self.report()

    async def _forever(self, step: Any) -> None:
        await asyncio.sleep(random.uniform(0, self.report_every_s))
        while True:
            try:
                await step()
            except (RuntimeError, OSError, asyncio.IncompleteReadError) as error:
                self.seen.errors.append(f"{step.__name__}: {error!r}")
                await asyncio.sleep(random.uniform(0.5, 1.5))

    def _inventory(self) -> wire.Inventory:
        devices = [
            wire.DeviceInfo(index=index, kind=KIND, name=KIND, memory_bytes=1 << 30)
            for index in range(self.devices)
        ]
        return wire.Inventory(
            hostname=f"node-{self.number:04}",
            os="Debian 13",
            kernel="6.12",
            cpu_model="EPYC",
            cpu_count=64,
            memory_bytes=1 << 40,
            disk_free_bytes=1 << 41,
            python="3.12.8",
            devices=devices,
            walls=list(wire.Wall),
        )


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


async def main() -> None:
    told = await lines()
    wish = json.loads(await told.readline())
    seen = Seen()
    agents = [
        Agent(number, wish["port"], wish["devices"], wish["report_every_s"], seen)
        for number in range(len(wish["tokens"]))
    ]
    at_once = asyncio.Semaphore(JOIN_AT_ONCE)

    async def join(agent: Agent, token: str) -> None:
        async with at_once:
            await agent.join(token)

    await asyncio.gather(*map(join, agents, wish["tokens"]))
    print("{}", flush=True)
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.live())
        while await told.readline():
            said = dict(vars(seen)) | {"versions": sum(agent.version > 1 for agent in agents)}
            print(json.dumps(said), flush=True)
            vars(seen).update(vars(Seen()))
        sys.exit(0)


if __name__ == "__main__":
    asyncio.run(main())
