"""The gateway's few connections to PostgreSQL: shipping, activity and uses share them.

Serving never waits on them. They are opened on demand, and dropped at the first error, so that a
server that comes back is found at the caller's next try.
"""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg

QUERY_TIMEOUT_S = 10.0  # a dead network is told sooner, by TCP

Connection = psycopg.AsyncConnection[tuple[object, ...]]

# What goes wrong when the server is away, refuses us, or hangs; other errors are ours.
AWAY = (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError)


async def connect(url: str, purpose: str) -> Connection:
    """One autocommitting connection that notices a peer that vanished. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(
        url,
        autocommit=True,
        application_name=f"stoa gateway {purpose}",
        connect_timeout=5,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=3_000,
    )


@contextmanager
def deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """After `seconds` the connection is cut off, and what waits on it raises OperationalError.

    Cancelling a query (asyncio.timeout) would ask the server first, and a network that swallows
    the query swallows that too: ten seconds more.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: Connection) -> None:
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as it:
        it.shutdown(socket.SHUT_RDWR)


class Backoff:
    """Waits that double from `first_s` to `cap_s`, spread so that gateways do not march in step."""

    def __init__(self, first_s: float = 0.1, cap_s: float = 5.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next(self) -> float:
        wait_s, self._next_s = self._next_s, min(self._cap_s, self._next_s * 2)
        return wait_s * random.uniform(0.5, 1.0)


class Store:
    def __init__(self, url: str, size: int = 2) -> None:
        self._url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for one statement or transaction, for at most QUERY_TIMEOUT_S.

        Raises what AWAY lists when the server is away or hangs.
        """
        async with self._slots:
            connection = self._idle.pop() if self._idle else await connect(self._url, "store")
            try:
                with deadline(connection, QUERY_TIMEOUT_S):
                    yield connection
            except (psycopg.DataError, psycopg.IntegrityError):
                self._idle.append(connection)  # the row is bad, the connection is well
                raise
            except BaseException:
                await connection.close()
                raise
            self._idle.append(connection)

    async def stop(self) -> None:
        while self._idle:
            await self._idle.pop().close()
