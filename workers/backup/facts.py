"""What a database holds at one moment, to be found again in what is restored of it.

Read before a dump in the very snapshot that is dumped, and after a restore: the same words. Plain
SQL over the catalogue, so that rooms and later tables come in by themselves.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'gateway') AND c.relname <> 'stoa_restoring'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# Triggers that hold a superuser too, by table and name.
_GUARDS = """
SELECT string_agg(said, E'\n' ORDER BY said), count(*) FROM (
    SELECT pg_get_triggerdef(oid) AS said FROM pg_trigger
    WHERE NOT tgisinternal AND tgenabled = 'A') t
"""
_HEADS = """
SELECT DISTINCT ON (log_id) log_id, id, encode(sha256(body), 'hex'),
       count(*) OVER (PARTITION BY log_id)
FROM compliance_auditevent ORDER BY log_id, id DESC
"""
_LEDGER = """
SELECT a.currency, a.scale, sum(e.amount)::text, count(*)
FROM billing_ledgerentry e JOIN billing_ledgeraccount a ON a.id = e.account_id
GROUP BY 1, 2 ORDER BY 1, 2
"""
_UNBALANCED = """
SELECT count(*) FROM (
    SELECT FROM billing_ledgerentry e JOIN billing_ledgeraccount a ON a.id = e.account_id
    GROUP BY e.transaction_id, a.currency, a.scale HAVING sum(e.amount) <> 0) t
"""
_MISTAKEN = """
SELECT count(*) FROM (
    SELECT id, log_id, convert_from(body, 'UTF8')::jsonb AS said FROM compliance_auditevent) t
WHERE (said ->> 'id', said ->> 'log') IS DISTINCT FROM (id::text, log_id::text)
"""
_NEWEST = {
    "audit_event": "SELECT max(recorded_at) FROM compliance_auditevent",
    "request": "SELECT max(received_at) FROM billing_usageinbox",
    "usage_event": "SELECT max(at) FROM billing_usageevent",
    "ledger": "SELECT max(posted_at) FROM billing_ledgertransaction",
}


@dataclass(frozen=True)
class Snapshot:
    """One moment of a database, held open for pg_dump."""

    name: str
    at: datetime
    facts: dict[str, Any]
    server_major: int


@contextmanager
def snapshot(url: str) -> Iterator[Snapshot]:
    """Raises psycopg.Error."""
    with psycopg.connect(url, application_name="stoa backup") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        # Many rows are counted; no statement of ours may be cut off by a role's own limit.
        row = connection.execute(
            "SELECT pg_export_snapshot(), statement_timestamp(),"
            " current_setting('server_version_num')::int / 10000"
        ).fetchone()
        assert row is not None
        yield Snapshot(str(row[0]), row[1], read(connection), int(row[2]))


def read(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """JSON alone, in the connection's present snapshot."""
    guards = _row(connection, _GUARDS)
    return {
        "postgres": _row(connection, "SELECT current_setting('server_version')")[0],
        "migrations": [
            f"{app}.{name}"
            for app, name in connection.execute(
                "SELECT app, name FROM django_migrations ORDER BY app, name"
            )
        ],
        "rows": {
            f"{schema}.{table}": _row(
                connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
            )[0]
            for schema, table in connection.execute(_TABLES).fetchall()
        },
        "guards": {
            "count": guards[1],
            "sha256": hashlib.sha256((guards[0] or "").encode()).hexdigest(),
        },
        "audit": [
            {"log": log, "last": last, "sha256": digest, "events": events}
            for log, last, digest, events in connection.execute(_HEADS)
        ],
        "ledger": [
            {"currency": currency, "scale": scale, "sum": total, "entries": entries}
            for currency, scale, total, entries in connection.execute(_LEDGER)
        ],
        "newest": {name: _stamp(_row(connection, query)[0]) for name, query in _NEWEST.items()},
    }


def problems(connection: psycopg.Connection[Any], written: dict[str, Any]) -> list[str]:
    """What of a restored database is not as it was when it was dumped, in words; none: it is."""
    found = read(connection)
    wrong = [
        f"{name}: was {_short(written[name])}, is {_short(found[name])}"
        for name in ("migrations", "guards", "audit", "ledger", "newest")
        if found[name] != written[name]
    ]
    rows, had = found["rows"], written["rows"]
    wrong += [
        f"{table}: {had.get(table, 'no table')} rows, now {rows.get(table, 'no table')}"
        for table in sorted(rows.keys() | had.keys())
        if rows.get(table) != had.get(table)
    ]
    wrong += [
        f"the ledger of {one['currency']} sums to {one['sum']}"
        for one in found["ledger"]
        if one["sum"] != "0"
    ]
    if unbalanced := _row(connection, _UNBALANCED)[0]:
        wrong.append(f"{unbalanced} ledger transactions do not balance")
    return [*wrong, *_unreadable_events(connection)]


def _unreadable_events(connection: psycopg.Connection[Any]) -> list[str]:
    """Whether there are events whose body is no JSON, or tells of another than its columns do."""
    try:
        with connection.transaction():
            count = _row(connection, _MISTAKEN)[0]
    except psycopg.DataError:
        return ["the body of an audit event is no JSON"]
    return [f"{count} audit events are not what their columns say"] if count else []


def _row(connection: psycopg.Connection[Any], query: str | sql.Composed) -> tuple[Any, ...]:
    found: tuple[Any, ...] | None = connection.execute(query).fetchone()
    assert found is not None
    return found


def _stamp(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
