"""A small house for a gateway: rows below its views, its database role, a loop, an outage."""

import asyncio
import contextlib
import hmac
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
import uvloop
from django.db import connection

from billing.models import Account
from compliance import grants
from controlplane.endpoints import version_spec
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Pool, Region
from controlplane.tenancy.models import ApiKey, Organization, Project
from gateway import disk
from gateway.config import Config

T = TypeVar("T")

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
PEPPER = b"tests"
REGION = "eu-de-1"


def role_url(role: str = "stoa_gateway", *, port: int | None = None) -> str:
    """The test database as a real login of `role`."""
    settings = connection.settings_dict
    secret = Path(os.environ["STOA_TEST_SERVERS"]) / "secrets" / role
    where = f"127.0.0.1:{port or settings['PORT']}/{settings['NAME']}"
    return f"postgresql://{role}:{quote(secret.read_text())}@{where}"


def new_project(organization: str, region: str) -> Project:
    """In an organization of its own."""
    account = Account.objects.create(name=organization, created_at=NOW)
    owner = Organization.objects.create(
        name=organization, region_code=region, account=account, created_at=NOW
    )
    return Project.objects.create(organization=owner, name="first", created_at=NOW)


@dataclass
class House:
    """One organization with one project in one region; call it to add things."""

    project: Project
    pool: Pool
    _number: int = 0

    @classmethod
    def build(cls, region: str = REGION) -> "House":
        project = new_project("Ada's", region)
        place = Region.objects.create(
            code=region, country="DE", name="x", ca_certificate="", ca_key=b"", created_at=NOW
        )
        return cls(project, Pool.objects.create(region=place, name="gpu", created_at=NOW))

    def key(self, secret: str, **fields: Any) -> ApiKey:
        self._number += 1
        prefix = f"sk-stoa-{self._number:08d}{self.pool.region_id}"[:24]
        key = ApiKey.objects.create(
            project=self.project,
            name="key",
            prefix=prefix,
            scopes=fields.pop("scopes", ["inference"]),
            created_at=NOW,
            created_by="tests",
            **fields,
        )
        digest = hmac.digest(PEPPER, secret.encode(), "sha256")
        key.secrets.create(prefix=prefix, hash=digest, created_at=NOW)
        return key

    def endpoint(self, name: str = "chat", **fields: Any) -> Endpoint:
        endpoint = Endpoint.objects.create(
            project=fields.pop("project", self.project),
            pool=self.pool,
            region_code=self.pool.region_id,
            name=name,
            model="org/model",
            device_kind="cpu",
            created_at=NOW,
            **fields,
        )
        version_spec.begin(endpoint, now=NOW)
        return endpoint

    def replica(self, endpoint: Endpoint, address: str = "unix:/run/x", **fields: Any) -> Replica:
        """A replica that is ready; made in two steps, as in life, so that the gateway hears it."""
        replica = Replica.objects.create(
            endpoint=endpoint, generation=1, reason=Reason.SCALE_UP, state_at=NOW, created_at=NOW
        )
        Replica.objects.filter(pk=replica.pk).update(state=State.READY, address=address, **fields)
        replica.refresh_from_db()
        return replica


class Beat:
    """An event loop in a thread, so that a test may use the ORM beside it."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="beat")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], within_s: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within_s)

    def call(self, work: Callable[..., T], *arguments: Any) -> T:
        async def wrapped() -> T:
            return work(*arguments)

        return self.run(wrapped())

    def begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Start something now and look at its result later."""

        async def wrapped() -> "asyncio.Future[T]":
            return asyncio.ensure_future(work)

        return self.run(wrapped())

    def wait(self, future: "asyncio.Future[T]", within_s: float = 30.0) -> T:
        async def wrapped() -> T:
            return await future

        return self.run(wrapped(), within_s)

    def stop(self) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def eventually(holds: Callable[[], T], within_s: float = 30.0) -> T:
    """The first true value of `holds()`; an assertion error when there is none in time."""
    waiting = threading.Event()
    for _ in range(int(within_s / 0.02)):
        if value := holds():
            return value
        waiting.wait(0.02)
    raise AssertionError(f"still {holds()!r} after {within_s} s")


class Road:
    """The network between the gateway and PostgreSQL: it can be cut, or go silent."""

    def __init__(self, beat: Beat, port: int) -> None:
        self._beat = beat
        self._target = port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.WriteTransport] = set()
        self.silent = False
        self.port = 0
        self.mend()

    def mend(self) -> None:
        self.silent = False
        self._beat.run(self._mend())

    def cut(self) -> None:
        self._beat.run(self._cut())

    async def _mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for transport in list(self._open):
            transport.abort()
        self._open.clear()
        await asyncio.sleep(0)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = (writer.transport, far_writer.transport)
        self._open.update(ends)
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pipe(reader, far_writer), self._pipe(far_reader, writer))
        for end in ends:
            end.abort()

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if not self.silent:
                sink.write(data)
                await sink.drain()
        sink.close()


@pytest.fixture
def beat() -> Iterator[Beat]:
    beat = Beat()
    yield beat
    beat.stop()


@pytest.fixture
def house(transactional_db: None) -> House:
    """Rows that other connections see, and the gateway's role as in production."""
    grants.apply("stoa_app", "stoa_gateway")
    return House.build()


@pytest.fixture
def road(house: House, beat: Beat) -> Iterator[Road]:
    road = Road(beat, int(connection.settings_dict["PORT"]))
    yield road
    road.cut()


@pytest.fixture
def config(house: House, road: Road, tmp_path: Path) -> Config:
    disk.private_folder(tmp_path / "gateway")
    return Config(
        database_url=role_url(port=road.port),
        pepper=PEPPER,
        folder=tmp_path / "gateway",
        gateway_id="gw-test",
        region=REGION,
        directory_max_age_s=900,
        activity_every_s=0.3,
        sockets=Path("/tmp"),
    )
