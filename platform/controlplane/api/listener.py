"""One LISTEN connection per web process: long polls and event streams sleep here until news.

    async with listener.waiting([node_id]) as waiter:
        ... look at the database ...
        await waiter.wait(10.0)

Subscribe first and look afterwards: what changes in between is then heard. A waiter holds neither
a thread nor a database connection. News may be lost while PostgreSQL is away, so whoever waits
looks again now and then; after each reconnect everybody is woken.

The same connection hears gateways whose requests wait for an endpoint, and passes it on.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import close_old_connections, connections
from django.utils import timezone
from psycopg import sql

from controlplane.endpoints import observe, pulse
from controlplane.endpoints import services as endpoints
from controlplane.fleet import notify

log = logging.getLogger(__name__)

WAKE = "stoa_wake"  # payload: the id of an endpoint for which requests wait
BEAT_EVERY_S = 2.0  # a connection that died unnoticed is found then
_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 5.0


class Waiter:
    """Wakes when something was said of one of its ids since the last wait."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    async def wait(self, timeout_s: float) -> bool:
        """True on news, False after `timeout_s` seconds without any."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class Listener:
    """The connection, and who waits for what. Lives in one event loop."""

    def __init__(self) -> None:
        self._waiters: defaultdict[str, set[Waiter]] = defaultdict(set)
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="stoa-listener")

    @asynccontextmanager
    async def waiting(
        self, ids: Iterable[str], waiter: Waiter | None = None
    ) -> AsyncGenerator[Waiter]:
        """`waiter`: one of the caller's own kind."""
        self.start()
        waiter, wanted = waiter or Waiter(), set(ids)
        for id in wanted:
            self._waiters[id].add(waiter)
        try:
            yield waiter
        finally:
            for id in wanted:
                self._waiters[id].discard(waiter)
                if not self._waiters[id]:
                    del self._waiters[id]

    async def _run(self) -> None:
        retry_s = _RETRY_FIRST_S
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(**_parameters()) as connection:
                    for channel in (notify.CHANGED, WAKE):
                        await connection.execute(
                            sql.SQL("LISTEN {}").format(sql.Identifier(channel))
                        )
                    retry_s = _RETRY_FIRST_S
                    self.connected.set()
                    self._wake_all()
                    await self._hear(connection)
            except (psycopg.Error, OSError) as error:
                log.warning("not listening, again in %.1f s: %s", retry_s, str(error).strip())
            finally:
                self.connected.clear()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _RETRY_MOST_S)

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            async for notification in connection.notifies(timeout=BEAT_EVERY_S):
                if notification.channel == WAKE:
                    self._hear_of(notification.payload)
                else:
                    for waiter in tuple(self._waiters.get(notification.payload, ())):
                        waiter.wake()
            # Nodes can reach us: from now on their silence is theirs.
            beat = pulse.values(pulse.DOOR, now=timezone.now(), gap_s=observe.pulse_gap_s())
            await connection.execute(pulse.STATEMENT, beat)

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

    def _hear_of(self, endpoint_id: str) -> None:
        """Once at a time for each endpoint: a crowd at its door asks many times."""
        if endpoint_id not in self._waking:
            task = asyncio.create_task(asyncio.to_thread(_hear_of, endpoint_id))
            self._waking[endpoint_id] = task
            task.add_done_callback(lambda _: self._waking.pop(endpoint_id, None))


_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, Listener] = WeakKeyDictionary()


def current() -> Listener:
    """The running event loop's listener, started on first use."""
    loop = asyncio.get_running_loop()
    listener = _listeners.get(loop)
    if listener is None:
        listener = _listeners[loop] = Listener()
    listener.start()
    return listener


@asynccontextmanager
async def waiting(ids: Iterable[str]) -> AsyncGenerator[Waiter]:
    """A waiter for news of these node_…, ep_… and rep_… ids."""
    async with current().waiting(ids) as waiter:
        yield waiter


def _hear_of(endpoint_id: str) -> None:
    try:
        endpoints.heard(endpoint_id, now=timezone.now())
    except Exception:  # the sweep asks again; the listener must live
        log.exception("could not look at %s", endpoint_id)
    finally:
        close_old_connections()


def _parameters() -> dict[str, Any]:
    """Django's database, as psycopg's own arguments; a dead peer is noticed within a minute."""
    database = connections["default"].settings_dict
    options = {name: value for name, value in database["OPTIONS"].items() if name != "pool"}
    known = {
        "dbname": database["NAME"],
        "user": database["USER"],
        "password": database["PASSWORD"],
        "host": database["HOST"],
        "port": database["PORT"],
    }
    return {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "stoa-listener",
        **options,
        **{name: value for name, value in known.items() if value},
        "autocommit": True,
    }
