"""One consistent snapshot of schema `gateway`, read from PostgreSQL for one region."""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import psycopg

from billing.rating import PriceVersion
from gateway import nodes, windows
from gateway.brake import DEFAULT, RunPolicy
from gateway.budgets import Budget
from gateway.directory import (
    UNLIMITED,
    Alias,
    Directory,
    Endpoint,
    Key,
    Organization,
    Project,
    RateLimits,
    Replica,
    Rollout,
    StoppedRun,
)
from gateway.keyring import Keyring

log = logging.getLogger(__name__)

_ROWS = 500  # read at once: the event loop gets its turn between the batches

_MANY = 1000  # keys that changed: reading all of them costs no more

_GENERATION = "SELECT last_value FROM gateway.directory_generation"
_SNAPSHOT = "SELECT pg_current_snapshot()::text"
_CHANGES = """
SELECT DISTINCT kind, subject FROM gateway.changes
WHERE NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)
"""
_LIMITS = "requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, concurrency"
_KEYS = f"""
SELECT hash, key_id, secret_id, project_id, organization_id, scopes, allowed_models,
       extract(epoch FROM expires_at)::float8, priority, networks, {_LIMITS}
FROM gateway.keys WHERE region = %s
"""
_SOME_KEYS = f"{_KEYS} AND key_id = ANY(%s)"
_PROJECTS = f"""
SELECT project_id, organization_id, run_policy, {_LIMITS} FROM gateway.projects WHERE region = %s
"""
_ALIASES = "SELECT project_id, name, targets, fallback_on FROM gateway.aliases WHERE region = %s"
_ORGANIZATIONS = f"SELECT organization_id, {_LIMITS} FROM gateway.organizations WHERE region = %s"
_ENDPOINTS = """
SELECT endpoint_id, project_id, organization_id, name, model, adapters, stopped,
       extract(epoch FROM created_at)::int8, device_kind,
       start_s, queue_limit, queue_s, shared, ttft_target_s, openai
FROM gateway.endpoints WHERE region = %s ORDER BY endpoint_id
"""
_REPLICAS = """
SELECT r.replica_id, r.endpoint_id, r.address, r.max_model_len, r.kv_tokens, r.max_num_seqs,
       r.adapters, r.failed_adapters
FROM gateway.replicas r JOIN gateway.endpoints e USING (endpoint_id)
WHERE e.region = %s AND r.address <> '' ORDER BY r.replica_id
"""

_ROLLOUTS = """
SELECT endpoint_id, rollout_id, to_number, from_number, share, replica_ids
FROM gateway.rollouts WHERE region = %s
"""
_BUDGETS = """
SELECT budget_id, subject, subject_id, unit, amount, "window", time_zone, hard, allowance, name
FROM gateway.budgets WHERE region = %s
"""
_PRICES = """
SELECT price_id, meter, amount, valid_from, device_kind, currency, valid_to
FROM gateway.token_prices WHERE currency = 'EUR' OR %s = ''
"""
_STOPPED_RUNS = (
    "SELECT project_id, run, id, at, stopped FROM gateway.stopped_runs WHERE region = %s"
)
_REVOCATIONS = "SELECT node_id, issued_until FROM gateway.revocations WHERE region = %s"


async def generation(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute(_GENERATION)).fetchone()
    assert row is not None  # a sequence has one row
    return int(row[0])


async def read(
    connection: psycopg.AsyncConnection[Any],
    region: str,
    pepper: bytes,
    read_at: float,
    before: Directory | None = None,
    *,
    whole: bool = True,
) -> Directory:
    """One snapshot, in one REPEATABLE READ transaction: all of it, or only what changed since
    `before`, which then was read over the same connection. Raises psycopg.Error.

    The generation is read first: it may then be newer than the rows (its change is announced
    when it commits, and read again), never older.
    """
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    async with connection.transaction():
        number = await generation(connection)
        row = await (await connection.execute(_SNAPSHOT)).fetchone()
        assert row is not None
        snapshot, alike = str(row[0]), _Alike()
        changes = None
        if before is not None and not whole:
            changes = await _changes(connection, before)
        if before is None or changes is None:
            keys = await _keys(connection, region, alike, before.keys if before else Keyring())
        else:
            keys = await _changed(connection, region, alike, before, changes.keys)
            if not changes.rest:
                # A generation that is drawn, and whose change has not been committed, is not ours.
                reached = number if changes.keys else before.generation
                return before.with_keys(keys, reached, read_at, snapshot)
        projects = _Kept(before.projects if before else {})
        for project in await _projects(connection, region, alike):
            projects.add(project)
        organizations = _Kept(before.organizations if before else {})
        async for organization_id, *limits in _rows(
            connection, "organizations", _ORGANIZATIONS, region
        ):
            organizations.add(Organization(organization_id, alike.limits(limits)))
        endpoints = await _endpoints(connection, region, alike)
        budgets = _Kept(before.budgets.by_id if before else {})
        async for row in _rows(connection, "budgets", _BUDGETS, region):
            budgets.add(Budget(*row))
        stopped = await _stopped(connection, region)
        revoked = await _revoked(connection, region)
        prices = [PriceVersion(*row) async for row in _rows(connection, "prices", _PRICES, region)]
    bounds = projects, organizations, budgets
    same = before is not None and all(kept.same for kept in bounds)
    made = Directory(
        pepper, keys, endpoints, projects=() if same else projects.all,
        organizations=() if same else organizations.all, budgets=() if same else budgets.all,
        prices=prices, stopped_runs=stopped, revoked=revoked, generation=number, read_at=read_at,
    )  # fmt: skip
    made.snapshot = snapshot
    if before is not None and same:
        made.keep_bounds(before)
    return made


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


class _Kept(Generic[T]):
    """Things of one kind as they are read; those that are as they were are the ones they were."""

    def __init__(self, before: Mapping[str, T]) -> None:
        self._before = before
        self._news = False
        self.all: list[T] = []

    def add(self, thing: T) -> None:
        old = self._before.get(thing.id)
        if old is None or old != thing:
            self.all.append(thing)
            self._news = True
        else:
            self.all.append(old)

    @property
    def same(self) -> bool:
        return not self._news and len(self.all) == len(self._before)


@dataclass(frozen=True)
class _Changes:
    keys: list[str]  # ids
    rest: bool  # anything else


async def _changes(connection: psycopg.AsyncConnection[Any], before: Directory) -> _Changes | None:
    """What `before` could not see. None: everything must be read."""
    rows = await (await connection.execute(_CHANGES, (before.snapshot,))).fetchall()
    keys = [subject for kind, subject in rows if kind == "key"]
    kinds = {kind for kind, _ in rows}
    if "all" in kinds or len(keys) > _MANY:
        return None
    return _Changes(keys, "rest" in kinds)


async def _changed(
    connection: psycopg.AsyncConnection[Any],
    region: str,
    alike: "_Alike",
    before: Directory,
    ids: list[str],
) -> Keyring[Key]:
    """The keys of `before` (they themselves when none changed), with those of `ids` anew."""
    if not ids:
        return before.keys
    rows = _rows(connection, "keys", _SOME_KEYS, region, ids)
    return before.keys.changed(ids, [_key(row, alike) async for row in rows])


class _Alike:
    """Things that are equal are one thing: keys differ in few ways, and there may be 100,000."""

    def __init__(self) -> None:
        self._words: dict[frozenset[str], frozenset[str]] = {}
        self._texts: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._limits = {UNLIMITED: UNLIMITED}

    def words(self, words: list[str]) -> frozenset[str]:
        made = frozenset(words)
        return self._words.setdefault(made, made)

    def texts(self, texts: list[str]) -> tuple[str, ...]:
        made = tuple(texts)
        return self._texts.setdefault(made, made)

    def limits(self, limits: list[int | None]) -> RateLimits:
        made = RateLimits(*limits)
        return self._limits.setdefault(made, made)


async def _keys(
    connection: psycopg.AsyncConnection[Any], region: str, alike: _Alike, known: Keyring[Key]
) -> Keyring[Key]:
    """All. What is known already is taken from there: to let go of 100,000 keys at once would
    hold up the event loop."""
    made: Keyring[Key] = Keyring()
    same = 0
    async for row in _rows(connection, "keys", _KEYS, region):
        digest, key = _key(row, alike)
        old = known.find(digest)
        if old == key:
            same += 1
            key = old
        made.add(digest, key)
    return known if same == len(made) == len(known) else made


def _key(row: tuple[Any, ...], alike: _Alike) -> tuple[bytes, Key]:
    digest, key_id, secret_id, project, organization, scopes, models, expires, *more = row
    priority, networks, *limits = more
    return digest, Key(
        key_id, project, organization, alike.words(scopes), alike.words(models), expires,
        alike.limits(limits), priority, alike.texts(networks), secret_id,
    )  # fmt: skip


def _policy(project_id: str, kept: object) -> RunPolicy:
    if kept is None:
        return DEFAULT
    try:
        return msgspec.convert(kept, RunPolicy)
    except msgspec.ValidationError as error:  # one project's policy must not stop the reading
        log.error("the run policy of %s is not understood: %s", project_id, error)
        return DEFAULT


async def _projects(
    connection: psycopg.AsyncConnection[Any], region: str, alike: _Alike
) -> list[Project]:
    aliases = await _aliases(connection, region)
    return [
        Project(
            project_id, organization, alike.limits(limits), aliases.get(project_id, {}),
            _policy(project_id, policy),
        )
        async for project_id, organization, policy, *limits in _rows(
            connection, "projects", _PROJECTS, region
        )
    ]  # fmt: skip


async def _aliases(
    connection: psycopg.AsyncConnection[Any], region: str
) -> dict[str, dict[str, Alias]]:
    found: dict[str, dict[str, Alias]] = {}
    async for project_id, name, targets, events in _rows(connection, "aliases", _ALIASES, region):
        found.setdefault(project_id, {})[name] = Alias(tuple(targets), frozenset(events))
    return found


async def _stopped(connection: psycopg.AsyncConnection[Any], region: str) -> list[StoppedRun]:
    rows = _rows(connection, "stops", _STOPPED_RUNS, region)
    return [StoppedRun(*row) async for row in rows]


async def _revoked(connection: psycopg.AsyncConnection[Any], region: str) -> dict[str, float]:
    found = _rows(connection, "revocations", _REVOCATIONS, region)
    return {nodes.name(region, node_id): until async for node_id, until in found}


async def _endpoints(
    connection: psycopg.AsyncConnection[Any], region: str, alike: _Alike
) -> list[Endpoint]:
    replicas: dict[str, list[Replica]] = {}
    async for row in _rows(connection, "replicas", _REPLICAS, region):
        replica_id, endpoint_id, address, length, kv_tokens, sequences, loaded, failed = row
        if kv_tokens and length is not None:
            length = min(length, kv_tokens)  # what no cache holds, no window holds
        replicas.setdefault(endpoint_id, []).append(
            Replica(
                replica_id, endpoint_id, address, kv_tokens, sequences,
                alike.words(loaded), alike.words(failed), length,
            )
        )  # fmt: skip
    rollouts: dict[str, Rollout] = {}
    async for endpoint_id, id, new, old, share, ids in _rows(
        connection, "rollouts", _ROLLOUTS, region
    ):
        rollouts[endpoint_id] = Rollout(id, new, old, share, frozenset(ids))
    endpoints: list[Endpoint] = []
    async for row in _rows(connection, "endpoints", _ENDPOINTS, region):
        endpoint_id, project, organization, name, model, adapters, stopped, *more = row
        created, kind, start_s, queue_limit, queue_s, shared, ttft_target_s, openai = more
        ready = tuple(replicas.get(endpoint_id, ()))
        window, uneven = windows.spread(ready)
        endpoints.append(
            Endpoint(
                endpoint_id, project, organization, region, name, model, alike.words(adapters),
                stopped, created, ready, window, kind,
                start_s=start_s, queue_limit=queue_limit, queue_s=queue_s, shared=shared,
                rollout=rollouts.get(endpoint_id), ttft_target_s=ttft_target_s, uneven=uneven,
                openai=openai,
            )
        )  # fmt: skip
    return endpoints


async def _rows(
    connection: psycopg.AsyncConnection[Any], name: str, query: str, *arguments: object
) -> AsyncIterator[tuple[Any, ...]]:
    async with connection.cursor(name=name) as cursor:
        await cursor.execute(query, arguments, binary=True)
        while rows := await cursor.fetchmany(_ROWS):
            for row in rows:
                yield row
