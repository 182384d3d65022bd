"""Rows by PostgreSQL's COPY: many at once, and binary, so that nothing is quoted and parsed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connection
from psycopg import sql


def copy(table: str, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> None:
    """Add rows to a table, in the caller's transaction if there is one.

    `columns`: names with PostgreSQL's names of their types, in the order of each row's values.
    """
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(statement) as stream,
    ):
        stream.set_types(list(columns.values()))
        for row in rows:
            stream.write_row(row)
