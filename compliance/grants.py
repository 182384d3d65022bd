"""What the running roles may do in the database: everything here, nothing elsewhere.

Migrations run as the tables' owner. The app role runs the house and owns nothing, so that it
cannot switch off the triggers of append-only tables. The gateway's role reads its own views and
inserts what it saw. `apply` may be repeated; rooms name their append-only tables when they load.
"""

from collections.abc import Iterator

from django.db import connection, transaction
from psycopg import sql

_append_only: set[str] = set()
_narrow: dict[str, str] = {}
# Names of other rooms' tables are plain words here: this room imports none of them. The columns
# that are missing are the control plane's own: when it received and booked a row.
_GATEWAY_INSERTS: dict[str, tuple[str, ...]] = {
    "billing_usageinbox": (
        *("request_id", "gateway_id", "key_id", "project_id", "endpoint_id", "replica_id"),
        *("operation", "opened_at", "closed_at", "status", "finish", "counted_by"),
        *("input_tokens", "cached_tokens", "output_tokens"),
        *("nano_eur", "run", "agent", "charges", "first_us", "decode_us"),
    ),
    "billing_runstop": ("project_id", "run", "key_id", "gateway_id", "stopped"),
    "endpoints_activity": (
        *("endpoint_id", "gateway_id", "worker", "in_flight", "waiting"),
        *("uncached_tokens", "kv_tokens", "running", "pressed", "idle_s", "prefill_tps", "people"),
    ),
    "endpoints_versionhealth": (
        *("rollout_id", "version", "gateway_id", "requests", "errors", "first", "total"),
    ),
    "tenancy_secretuse": ("secret_id", "gateway_id", "used_at"),
}
# Functions that run with their owner's rights: how a gateway asks for what it may not look at.
_GATEWAY_CALLS = (
    "billing_lease(text, text, integer, jsonb)",
    "billing_close_leases(text, text[])",
    "endpoints_note_routed(text[])",
)


class RoleMissing(Exception):
    """A role that should be provided for does not exist; the message says which."""


def append_only(*tables: str) -> None:
    """The app role may add rows to these tables and read them, nothing else."""
    _append_only.update(tables)


def narrow(table: str, rights: str) -> None:
    """The app role has these rights on a table (`SELECT`, `SELECT, INSERT, UPDATE`), no others."""
    _narrow[table] = rights


def append_only_tables() -> frozenset[str]:
    return frozenset(_append_only)


def apply(app_role: str, gateway_role: str) -> None:
    """Grant exactly what the two roles need and take away the rest, in one transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        for role in (app_role, gateway_role):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            if cursor.fetchone() is None:
                raise RoleMissing(
                    f"the database has no role {role!r}: CREATE ROLE {role} LOGIN PASSWORD …,"
                    " or name another in STOA_APP_ROLE / STOA_GATEWAY_ROLE"
                )
        for statement in (*_closed(app_role, gateway_role), *_app(app_role)):
            cursor.execute(statement)
        for statement in _gateway(gateway_role):
            cursor.execute(statement)


def _closed(*roles: str) -> Iterator[sql.Composed]:
    """Nobody may do anything: where the grants below start from."""
    everybody = sql.SQL("PUBLIC, ") + _names(*roles)
    for schema in (sql.Identifier("public"), sql.Identifier("gateway")):
        yield sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, everybody)
        for kind in ("TABLES", "SEQUENCES"):
            statement = "REVOKE ALL ON ALL {} IN SCHEMA {} FROM {}"
            yield sql.SQL(statement).format(sql.SQL(kind), schema, everybody)
        for function in _own_functions(schema):
            yield sql.SQL("REVOKE ALL ON FUNCTION {} FROM {}").format(function, everybody)
    yield sql.SQL("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC").format()
    if database := _own_database():
        yield sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, everybody)
        for role in roles:
            statement = "GRANT CONNECT ON DATABASE {} TO {}"
            yield sql.SQL(statement).format(database, sql.Identifier(role))


def _app(role: str) -> Iterator[sql.Composed]:
    who = sql.Identifier(role)
    yield sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(who)
    for table in _tables():
        rights = "SELECT, INSERT, UPDATE, DELETE"
        if table in _append_only:
            rights = "SELECT, INSERT"
        elif table == "django_migrations":
            rights = "SELECT"
        rights = _narrow.get(table, rights)  # also where triggers alone add rows
        statement = sql.SQL("GRANT {} ON {} TO {}")
        yield statement.format(sql.SQL(rights), sql.Identifier("public", table), who)
    yield sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(who)
    # Triggers run with the rights of whoever writes, and may call on each other.
    for function in _own_functions(sql.Identifier("public")):
        yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(function, who)


def _gateway(role: str) -> Iterator[sql.Composed]:
    who = sql.Identifier(role)
    # USAGE of public lets it name its tables; it may look at none.
    for schema in ("gateway", "public"):
        yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), who)
    yield sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA gateway TO {}").format(who)
    yield sql.SQL("GRANT SELECT ON gateway.directory_generation TO {}").format(who)
    for table, columns in _GATEWAY_INSERTS.items():
        statement = sql.SQL("GRANT INSERT ({}) ON {} TO {}")
        yield statement.format(_names(*columns), sql.Identifier("public", table), who)
    for function in _GATEWAY_CALLS:
        statement = sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}")
        yield statement.format(sql.SQL(function), who)


def _names(*names: str) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _tables() -> list[str]:
    """Tables that are granted: a partition is reached through its parent alone."""
    return _column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition"
        " AND pg_has_role(relowner, 'USAGE') ORDER BY 1"
    )


def _own_functions(schema: sql.Identifier) -> list[sql.SQL]:
    """Ours; those of extensions belong to whoever installed them."""
    found = _column(
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE pg_has_role(p.proowner, 'USAGE')"
        " AND p.pronamespace = %s::regnamespace AND NOT EXISTS"
        " (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') ORDER BY 1",
        schema.as_string(),
    )
    return [sql.SQL(name) for name in found]


def _own_database() -> sql.Identifier | None:
    found = _column(
        "SELECT datname FROM pg_database WHERE datname = current_database()"
        " AND pg_has_role(datdba, 'USAGE')"
    )
    return sql.Identifier(found[0]) if found else None


def _column(query: str, *arguments: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return [str(value) for (value,) in cursor.fetchall()]
