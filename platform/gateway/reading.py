"""One consistent snapshot of schema `gateway`, read from PostgreSQL for one region."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg

from gateway.directory import Directory, Endpoint, Key, Replica

_ROWS = 2000  # read at once: the event loop gets its turn between the batches

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


async def generation(connection: psycopg.AsyncConnection[Any]) -> int:
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
        number = await generation(connection)
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
    return Directory(pepper, keys, endpoints, generation=number, read_at=read_at)


async def _rows(
    connection: psycopg.AsyncConnection[Any], name: str, query: str, region: str
) -> AsyncIterator[tuple[Any, ...]]:
    async with connection.cursor(name=name) as cursor:
        await cursor.execute(query, (region,), binary=True)
        while rows := await cursor.fetchmany(_ROWS):
            for row in rows:
                yield row
