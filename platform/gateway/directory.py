"""Everything that the gateway must know to serve: keys, endpoints, ready replicas.

A `Directory` is one consistent snapshot of schema `gateway`, for one region, in memory; a request
uses the one that was current when it arrived. The `Keeper` replaces it whenever PostgreSQL says
that something changed, and keeps a copy on disk for a start while PostgreSQL is away.
"""

import asyncio
import contextlib
import hmac
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import psycopg

from gateway import store, tasks
from gateway.config import Config
from gateway.saved import RefusedError, Saved

log = logging.getLogger(__name__)

_CONTACT_S = 1.0  # between two signs of life of PostgreSQL; also finds a lost notification
_READ_ANYWAY_S = 60.0  # for what changes without a notification
_COALESCE_S = 0.02  # notifications that come this close share one reading
_COALESCE_MAX_S = 0.4  # with a directory that takes long to read, we read at most half the time
_START_WAIT_S = 3.0  # for PostgreSQL, before the copy on disk is tried
_READ_TIMEOUT_S = 30.0
_TOUCH_S = 15.0  # how exact the age of the copy on disk is, at most

_ROWS = 2000  # read at once: the event loop gets its turn between the batches


class Key(msgspec.Struct, frozen=True, gc=False):
    """An API key that is not revoked; whoever asks checks `expires_at` (Unix seconds)."""

    id: str
    project_id: str
    organization_id: str
    scopes: frozenset[str]
    models: frozenset[str]  # endpoint names that it may call; empty: every endpoint
    expires_at: float | None


class Replica(msgspec.Struct, frozen=True, gc=False):
    """An engine that answered its probe: `unix:/path` or `relay:HOST:PORT`."""

    id: str
    endpoint_id: str
    address: str


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    id: str
    project_id: str
    organization_id: str
    region: str
    name: str
    model: str
    adapters: frozenset[str]
    stopped: bool
    created: int  # Unix seconds
    replicas: tuple[Replica, ...]  # the ready ones, by id
    max_model_len: int | None  # tokens; the smallest that a ready replica reported


class Content(msgspec.Struct):
    """What goes to disk: hashes of keys, never keys.

    In pieces, each encoded by itself: one call for 100,000 keys would hold up the event loop.
    """

    region: str
    keys: list[bytes]  # each a list[tuple[bytes, Key]]
    endpoints: list[bytes]  # each a list[Endpoint]


class Directory:
    """An immutable snapshot. `read_at` is Unix seconds, `generation` rises with every change."""

    __slots__ = ("_by_id", "_by_name", "_keys", "_pepper", "_projects", "generation", "read_at")

    def __init__(
        self,
        pepper: bytes,
        keys: dict[bytes, Key],
        endpoints: Iterable[Endpoint],
        *,
        generation: int,
        read_at: float,
    ) -> None:
        self._pepper = pepper
        self._keys = keys
        self._by_id: dict[str, Endpoint] = {}
        self._by_name: dict[tuple[str, str], Endpoint] = {}
        self._projects: dict[str, list[Endpoint]] = {}
        self.generation = generation
        self.read_at = read_at
        for endpoint in endpoints:
            self._by_id[endpoint.id] = endpoint
            self._by_name[endpoint.project_id, endpoint.name] = endpoint
            self._projects.setdefault(endpoint.project_id, []).append(endpoint)

    def key(self, secret: bytes) -> Key | None:
        """The key whose whole text (`sk-stoa-…`) is `secret`."""
        return self._keys.get(hmac.digest(self._pepper, secret, "sha256"))

    def endpoint(self, project_id: str, name_or_id: str) -> Endpoint | None:
        """A project's endpoint by its name or its `ep_…` id; None for another project's."""
        found = self._by_name.get((project_id, name_or_id))
        if found is None:
            found = self._by_id.get(name_or_id)
            if found is not None and found.project_id != project_id:
                return None
        return found

    def endpoints(self, project_id: str) -> list[Endpoint]:
        """A project's endpoints, oldest first."""
        return list(self._projects.get(project_id, ()))

    def every_endpoint(self) -> list[Endpoint]:
        """All endpoints of the region: what keeps connections to replicas follows this."""
        return list(self._by_id.values())

    def encode(self, region: str) -> bytes:
        keys = _pieces(self._keys.items())
        return msgspec.msgpack.encode(Content(region, keys, _pieces(self._by_id.values())))

    @classmethod
    def decode(
        cls, payload: bytes, pepper: bytes, region: str, *, generation: int, read_at: float
    ) -> "Directory":
        """Raises ValueError when the payload is another region's or another version's."""
        try:
            content = msgspec.msgpack.decode(payload, type=Content)
            keys: dict[bytes, Key] = {}
            for piece in content.keys:
                keys.update(msgspec.msgpack.decode(piece, type=list[tuple[bytes, Key]]))
            endpoints: list[Endpoint] = []
            for piece in content.endpoints:
                endpoints += msgspec.msgpack.decode(piece, type=list[Endpoint])
        except msgspec.MsgspecError as error:
            raise ValueError(f"the directory on disk is of another version: {error}") from error
        if content.region != region:
            raise ValueError(f"the directory on disk is of region {content.region}, not {region}")
        return cls(pepper, keys, endpoints, generation=generation, read_at=read_at)


def _pieces(things: Iterable[object]) -> list[bytes]:
    rest = iter(things)
    pieces = []
    while piece := list(itertools.islice(rest, _ROWS)):
        pieces.append(msgspec.msgpack.encode(piece))
    return pieces


_GENERATION = "SELECT last_value FROM gateway.directory_generation"
_KEYS = """
SELECT hash, key_id, project_id, organization_id, scopes, allowed_models,
       extract(epoch FROM expires_at)::float8
FROM gateway.keys WHERE region = %s
"""
_ENDPOINTS = """
SELECT endpoint_id, project_id, organization_id, name, model, adapters, stopped,
       extract(epoch FROM created_at)::int8
FROM gateway.endpoints WHERE region = %s ORDER BY endpoint_id
"""
_REPLICAS = """
SELECT r.replica_id, r.endpoint_id, r.address, r.max_model_len
FROM gateway.replicas r JOIN gateway.endpoints e USING (endpoint_id)
WHERE e.region = %s AND r.address <> '' ORDER BY r.replica_id
"""


async def read_generation(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute(_GENERATION)).fetchone()
    assert row is not None  # a sequence has one row
    return int(row[0])


async def read(
    connection: psycopg.AsyncConnection[Any], region: str, pepper: bytes, read_at: float
) -> Directory:
    """One snapshot, in one REPEATABLE READ transaction. Raises psycopg.Error.

    The generation is read first: it may then be newer than the rows (its change is announced
    when it commits, and read again), never older.
    """
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    async with connection.transaction():
        generation = await read_generation(connection)
        # Sets that are alike are one set: keys differ in few ways, and there may be 100,000.
        sets: dict[frozenset[str], frozenset[str]] = {}

        def shared(words: list[str]) -> frozenset[str]:
            made = frozenset(words)
            return sets.setdefault(made, made)

        keys: dict[bytes, Key] = {}
        async for digest, key_id, project, organization, scopes, models, expires in _rows(
            connection, "keys", _KEYS, region
        ):
            keys[digest] = Key(
                key_id, project, organization, shared(scopes), shared(models), expires
            )
        replicas: dict[str, list[Replica]] = {}
        lengths: dict[str, int] = {}
        async for replica_id, endpoint_id, address, length in _rows(
            connection, "replicas", _REPLICAS, region
        ):
            replicas.setdefault(endpoint_id, []).append(Replica(replica_id, endpoint_id, address))
            if length is not None:
                lengths[endpoint_id] = min(length, lengths.get(endpoint_id, length))
        endpoints: list[Endpoint] = []
        async for row in _rows(connection, "endpoints", _ENDPOINTS, region):
            endpoint_id, project, organization, name, model, adapters, stopped, created = row
            ready = tuple(replicas.get(endpoint_id, ()))
            endpoints.append(
                Endpoint(
                    endpoint_id, project, organization, region, name, model, shared(adapters),
                    stopped, created, ready, lengths.get(endpoint_id),
                )
            )  # fmt: skip
    return Directory(pepper, keys, endpoints, generation=generation, read_at=read_at)


async def _rows(
    connection: psycopg.AsyncConnection[Any], name: str, query: str, region: str
) -> AsyncIterator[tuple[Any, ...]]:
    async with connection.cursor(name=name) as cursor:
        await cursor.execute(query, (region,), binary=True)
        while rows := await cursor.fetchmany(_ROWS):
            for row in rows:
                yield row


class Keeper:
    """Keeps `current` current. Create and use it in one event loop."""

    def __init__(self, config: Config) -> None:
        self.current = Directory(config.pepper, {}, (), generation=0, read_at=0.0)
        self.contact_at = 0.0  # Unix seconds of the last answer of PostgreSQL; 0: never
        self._config = config
        self._saved = Saved(config.folder, config.pepper, config.directory_max_age_s)
        self._touch_s = min(_TOUCH_S, config.directory_max_age_s / 20)
        self._touched_at = 0.0
        self._contact_clock = 0.0  # the same moment as contact_at, on the monotonic clock
        self._floor = 0
        self._read_s = 0.0  # how long the last reading took
        self._next: asyncio.Future[Directory] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tried = asyncio.Event()  # PostgreSQL has been asked once
        self._live = False  # and has answered
        self._to_save = asyncio.Event()
        self._saved_directory: Directory | None = None

    def stale(self, now: float) -> bool:
        """Whether PostgreSQL has been silent for too long to serve (`now` in Unix seconds)."""
        max_age_s = self._config.directory_max_age_s
        if now - self.contact_at > max_age_s:
            return True
        # A clock that was set back must not stretch the age.
        return self._contact_clock > 0 and time.monotonic() - self._contact_clock > max_age_s

    async def changed(self) -> Directory:
        """The next snapshot, once it is current."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def start(self) -> None:
        """Return with PostgreSQL's directory, or the one on disk, or (logged) an empty one."""
        highest: int | None = await asyncio.to_thread(self._saved.highest)
        self._floor = highest or 0
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._save())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_WAIT_S):
                await self._tried.wait()
        if not self._live:
            await self._load()

    async def stop(self) -> None:
        await tasks.end(*self._tasks)
        self._tasks = []
        if self._live:
            with contextlib.suppress(OSError):
                await self._save_once()

    # --- PostgreSQL -------------------------------------------------------------------
    async def _follow(self) -> None:
        backoff = store.Backoff()
        away = False
        while True:
            try:
                connection = await store.connect(self._config.database_url, "directory")
                try:
                    await connection.execute("LISTEN stoa_directory")
                    await self._read(connection)
                    if away:
                        log.info("PostgreSQL is back: generation %d", self.current.generation)
                    away = False
                    backoff.reset()
                    await self._listen(connection)
                finally:
                    await connection.close()
            except Exception as error:  # whatever it is, the next connection may do better
                if not away:
                    log.warning("no directory from PostgreSQL: %s", _line(error))
                away = True
                self._tried.set()
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: store.Connection) -> None:
        while True:
            if await _notified(connection, _CONTACT_S, stop_after=1):
                wait_s = min(max(_COALESCE_S, self._read_s), _COALESCE_MAX_S)
                await _notified(connection, wait_s)
                await self._read(connection)
                continue
            with store.deadline(connection, store.QUERY_TIMEOUT_S):
                generation = await read_generation(connection)
            self._contact()
            overdue = self.contact_at - self.current.read_at > _READ_ANYWAY_S
            if generation != self.current.generation or overdue:
                await self._read(connection)
            elif self.contact_at - self._touched_at > self._touch_s:
                self._to_save.set()

    async def _read(self, connection: store.Connection) -> None:
        began = time.monotonic()
        with store.deadline(connection, _READ_TIMEOUT_S):
            config = self._config
            directory = await read(connection, config.region, config.pepper, time.time())
        self._read_s = time.monotonic() - began
        if directory.generation < max(self._floor, self.current.generation):
            # The database is the authority: a restored backup brings its older counter along.
            log.warning(
                "PostgreSQL's directory went back to generation %d; %d was seen here before",
                directory.generation,
                max(self._floor, self.current.generation),
            )
        self._floor = 0
        self._contact()
        self._publish(directory)
        self._live = True
        self._tried.set()
        self._to_save.set()

    def _contact(self) -> None:
        self.contact_at = time.time()
        self._contact_clock = time.monotonic()

    def _publish(self, directory: Directory) -> None:
        self.current = directory
        if self._next is not None:
            waiting, self._next = self._next, None
            waiting.set_result(directory)

    # --- Disk -------------------------------------------------------------------------
    async def _load(self) -> None:
        config = self._config
        try:
            loaded = await asyncio.to_thread(self._saved.load, time.time())
            directory = Directory.decode(
                loaded.payload,
                config.pepper,
                config.region,
                generation=loaded.generation,
                read_at=loaded.read_at,
            )
        except (RefusedError, ValueError) as error:
            if not self._live:
                log.error("PostgreSQL is away and the directory on disk is refused: %s", error)
            return
        if self._live:
            return  # PostgreSQL answered in the meantime
        age_s = time.time() - loaded.contact_at
        log.warning(
            "PostgreSQL is away: serving from the directory on disk, generation %d, %.0f s old",
            loaded.generation,
            age_s,
        )
        self.contact_at = loaded.contact_at
        self._contact_clock = time.monotonic() - age_s
        self._publish(directory)

    async def _save(self) -> None:
        failing = False
        while True:
            await self._to_save.wait()
            try:
                await self._save_once()
                failing = False
            except OSError as error:
                if not failing:
                    log.error("the directory cannot be saved in %s: %s", self._config.folder, error)
                failing = True
                await asyncio.sleep(1.0)
                self._to_save.set()

    async def _save_once(self) -> None:
        self._to_save.clear()
        self._touched_at = contact_at = self.contact_at
        directory = self.current

        def write() -> None:
            if directory is self._saved_directory:
                self._saved.touch(contact_at)
                return
            payload = directory.encode(self._config.region)
            self._saved.write(payload, directory.generation, directory.read_at, contact_at)

        await asyncio.to_thread(write)
        self._saved_directory = directory


async def _notified(
    connection: store.Connection, timeout_s: float, stop_after: int | None = None
) -> bool:
    found = False
    async for _ in connection.notifies(timeout=timeout_s, stop_after=stop_after):
        found = True
    return found


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())
