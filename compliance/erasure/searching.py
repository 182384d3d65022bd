"""Looking through the whole database for values that should be nowhere."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from django.db import connection
from psycopg import sql

_TABLES = (
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    " AND relkind IN ('r', 'p') AND NOT relispartition"
    " AND has_table_privilege(oid, 'SELECT') ORDER BY 1"
)
_COLUMNS = (
    "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    " AND NOT attisdropped ORDER BY attnum"
)


@dataclass(frozen=True)
class Hit:
    column: str  # table.column
    rows: int


def search(values: Collection[str]) -> tuple[list[Hit], int]:
    """Where any of the values stands, in any case of letters, in text, JSON, arrays or bytes; and
    how many tables were looked through. Each table is read once, whole."""
    hits: list[Hit] = []
    tables = _names(_TABLES)
    patterns = list(_patterns(values))
    for table in tables if patterns else ():
        if _count(table, None, patterns):
            for column in _names(_COLUMNS, f'public."{table}"'):
                if rows := _count(table, column, patterns):
                    hits.append(Hit(f"{table}.{column}", rows))
    return hits, len(tables)


def _patterns(values: Iterable[str]) -> Iterable[str]:
    """For ILIKE on a row as JSON, where quotes are escaped and bytes are hexadecimal."""
    for value in values:
        for text in (value, value.encode().hex()):
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            for special in ("\\", "%", "_"):
                escaped = escaped.replace(special, f"\\{special}")
            yield f"%{escaped}%"


def _count(table: str, column: str | None, patterns: list[str]) -> int:
    what = sql.SQL("row_to_json(t)") if column is None else _column(column)
    statement = sql.SQL("SELECT count(*) FROM {} t WHERE {}::text ILIKE ANY(%s)")
    with connection.cursor() as cursor:
        cursor.execute(statement.format(sql.Identifier("public", table), what), [patterns])
        (found,) = cursor.fetchone()
    return int(found)


def _column(name: str) -> sql.Composed:
    return sql.SQL("to_json(t.{})").format(sql.Identifier(name))


def _names(query: str, *arguments: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query, list(arguments))
        return [str(name) for (name,) in cursor.fetchall()]
