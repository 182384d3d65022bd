"""A real gateway on a loopback port, in a thread, with engines behind it and no PostgreSQL.

The directory is put in place by hand; the spool is the real one, on disk.
"""

import asyncio
import hmac
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from gateway import server, table, tls
from gateway.activity import Activity
from gateway.books import Books
from gateway.config import Config
from gateway.directory import Directory, Endpoint, Key, Organization, Project, Replica
from gateway.gate import Gate
from gateway.host import Host
from gateway.keeper import Keeper
from gateway.leases import Leases
from gateway.limits import Limits
from gateway.records import CloseRecord, OpenRecord
from gateway.spool import Spool, SpoolFull
from gateway.stops import Stops
from gateway.store import Store
from gateway.table import Slots, Table
from gateway.uses import Uses
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.wire import Connection, Response

PEPPER = b"pepper"
PROJECT = "prj_ours"
ORGANIZATION = "org_ours"
KEY = "sk-stoa-abcdefgh-" + "k" * 43
OTHER_KEY = "sk-stoa-otherorg-" + "k" * 43
PATIENCE_S = 30.0

T = TypeVar("T")


class HandKeeper(Keeper):
    """A directory that the test writes."""

    def put(self, directory: Directory) -> None:
        self._contact()
        self._publish(directory)


class WatchedSpool(Spool):
    """The real spool; keeps what was recorded, and can be full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.opened: list[OpenRecord] = []
        self.closed: list[CloseRecord] = []
        self.full = False

    def open(self, record: OpenRecord) -> None:
        if self.full:
            raise SpoolFull("no space left")
        super().open(record)
        self.opened.append(record)

    def close(self, record: CloseRecord) -> None:
        super().close(record)
        self.closed.append(record)


class WatchedActivity(Activity):
    def __init__(self) -> None:
        super().__init__(Store("postgresql://nowhere"), "gw", 5.0)
        self.events: list[tuple[str, str, int]] = []

    def began(self, endpoint_id: str, *, line: bool = False) -> None:
        self.events.append((endpoint_id, "line" if line else "running", 1))

    def ended(self, endpoint_id: str, *, line: bool = False) -> None:
        self.events.append((endpoint_id, "line" if line else "running", -1))

    def waiting(self, endpoint_id: str, delta: int) -> None:
        self.events.append((endpoint_id, "waiting", delta))

    def pressed(self, endpoint_id: str) -> None:
        self.events.append((endpoint_id, "pressed", 1))

    def balance(self, what: str) -> int:
        return sum(delta for _, kind, delta in self.events if kind == what)


def alone() -> Host:
    """A host with one worker."""
    return Host(
        Table(table.create(1 << 10), "loads"),
        Slots(table.create(1 << 10)),
        Slots(table.create(1 << 10)),
    )


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Rig:
    """Call its methods from the test's thread."""

    def __init__(self, folder: Path, limits: Limits | None = None, **settings: Any) -> None:
        self.folder = folder
        self._settings = settings
        self.limits = limits or Limits()
        self.tls: ssl.SSLContext | None = None  # how clients connect
        self.engines: list[FakeEngine] = []
        self.keys: dict[str, Key] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.projects = {PROJECT: Project(PROJECT, ORGANIZATION)}  # change, then publish()
        self.organizations = {ORGANIZATION: Organization(ORGANIZATION)}
        self.revoked: dict[str, float] = {}  # change, then publish()
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        config = Config(
            database_url="postgresql://nowhere",
            pepper=PEPPER,
            folder=self.folder,
            gateway_id="gw",
            region="eu-test",
            port=0,
            **{"sockets": Path("/tmp"), **self._settings},
        )
        self.keeper = HandKeeper(config)
        self.spool = WatchedSpool(self.folder / "spool")
        self.activity = WatchedActivity()
        self.uses = Uses(Store("postgresql://nowhere"), "gw", 5.0)
        shared = Table(table.create(1 << 10), self.spool.name)
        books = Books(shared)
        self.gate = Gate(shared, Leases(books, Store(config.database_url), "gw"), books)
        self.host = alone()
        self.server = server.Server(
            server.context(
                config,
                self.limits,
                self.keeper,
                self.spool,
                self.activity,
                self.uses,
                self.gate,
                Stops(Store(config.database_url), "gw"),
                self.host,
            ),
            tls=tls.for_clients(config),
        )
        await self.spool.start()
        await self.server.start()

    def stop(self) -> None:
        async def end() -> None:
            for engine in self.engines:
                await engine.stop()
            await self.server.drain()
            await self.spool.stop()
            await asyncio.sleep(0.01)  # closed transports need a turn of the loop to go
            await asyncio.get_running_loop().shutdown_default_executor()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S * 3)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what the gateway's thread brings about."""

        async def look() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0.002)

        self.run(look())

    # --- what the gateway knows ---------------------------------------------------------
    def engine(self, model: str, *, adapters: Iterable[str] = ()) -> FakeEngine:
        socket = self.folder / f"{len(self.engines)}.sock"
        engine = FakeEngine(socket, model, tuple(adapters))
        self.run(engine.start())
        self.engines.append(engine)
        return engine

    def endpoint(
        self,
        name: str,
        engines: Iterable[FakeEngine] = (),
        *,
        project_id: str = PROJECT,
        adapters: Iterable[str] = (),
    ) -> Endpoint:
        """An endpoint with a replica for each engine; its id is `ep_<name>`."""
        made = Endpoint(
            id=f"ep_{name}",
            project_id=project_id,
            organization_id=ORGANIZATION,
            region="eu-test",
            name=name,
            model="org/model",
            adapters=frozenset(adapters),
            stopped=False,
            created=1_700_000_000,
            replicas=self.replicas(name, engines),
            max_model_len=2048,
        )
        self.endpoints[name] = made
        self.publish()
        return made

    def replicas(self, name: str, engines: Iterable[FakeEngine]) -> tuple[Replica, ...]:
        return tuple(
            Replica(
                f"rep_{name}_{at}",
                f"ep_{name}",
                engine.address,
                adapters=frozenset(engine.adapters),
            )
            for at, engine in enumerate(engines)
        )

    def key(self, secret: str = KEY, **changes: Any) -> None:
        plain = Key(
            id=f"key_{secret[8:16]}",
            project_id=PROJECT,
            organization_id=ORGANIZATION,
            scopes=frozenset({"inference"}),
            models=frozenset(),
            expires_at=None,
        )
        fields = {name: changes.get(name, getattr(plain, name)) for name in plain.__struct_fields__}
        self.keys[secret] = Key(**fields)
        self.publish()

    def change(self, name: str, **changes: Any) -> None:
        known = self.endpoints[name]
        fields = {field: getattr(known, field) for field in known.__struct_fields__} | changes
        self.endpoints[name] = Endpoint(**fields)
        self.publish()

    def publish(self) -> None:
        async def put() -> None:
            keys = {
                hmac.digest(PEPPER, secret.encode(), "sha256"): key
                for secret, key in self.keys.items()
            }
            generation = self.keeper.current.generation + 1
            self.keeper.put(
                Directory(
                    PEPPER,
                    keys,
                    list(self.endpoints.values()),
                    projects=list(self.projects.values()),
                    organizations=list(self.organizations.values()),
                    revoked=dict(self.revoked),
                    generation=generation,
                    read_at=1.0,
                )
            )

        self.run(put())

    # --- calls --------------------------------------------------------------------------
    @property
    def port(self) -> int:
        return self.server.port

    def connect(self) -> Connection:
        return Connection(self.port, self.tls)

    def post(
        self,
        path: str,
        body: bytes | dict[str, Any],
        *,
        key: str | None = KEY,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """One request on a connection of its own."""
        with self.connect() as connection:
            connection.post(path, body, key=key, headers=headers)
            return connection.response()

    def get(self, path: str, *, key: str | None = KEY) -> Response:
        with self.connect() as connection:
            connection.get(path, key=key)
            return connection.response()

    def chat(self, model: str, **fields: Any) -> Response:
        messages = [{"role": "user", "content": "hello"}]
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, **fields})

    def closed(self, count: int = 1) -> list[CloseRecord]:
        """What was settled, once there is so much."""
        self.until(lambda: len(self.spool.closed) >= count)
        return list(self.spool.closed)


__all__ = ["KEY", "OTHER_KEY", "Rig", "replace"]
