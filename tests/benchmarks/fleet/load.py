"""What the database had to do: of this process statement by statement, of all together by its own
statistics."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from django.db import connection

_TOTAL = """
SELECT COALESCE(sum(calls), 0)::float8, COALESCE(sum(rows), 0)::float8,
       COALESCE(sum(total_exec_time), 0)::float8
FROM pg_stat_statements WHERE query !~* '^(begin|commit|rollback|savepoint|release)'
"""
_DEAREST = """
SELECT round(total_exec_time)::int, calls::int, rows::int,
       left(regexp_replace(query, '\\s+', ' ', 'g'), 110)
FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT %s
"""


@dataclass
class Load:
    """Statements, the rows they touched, and milliseconds: in PostgreSQL, or of waiting for it."""

    statements: float = 0.0
    rows: float = 0.0
    ms: float = 0.0

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.statements - other.statements, self.rows - other.rows, self.ms - other.ms)


@contextmanager
def counted() -> Iterator[Load]:
    """What Django's connection of this thread asks for meanwhile."""
    load = Load()

    def count(execute: Callable[..., Any], sql: str, params: Any, many: bool, ctx: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(sql, params, many, ctx)
        finally:
            load.ms += 1000 * (time.perf_counter() - began)
            load.statements += 1
            load.rows += max(0, ctx["cursor"].rowcount)

    with connection.execute_wrapper(count):
        yield load


class Server:
    """PostgreSQL's statistics, read as its superuser."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def total(self) -> Load:
        row = self._connection.execute(_TOTAL).fetchone()
        assert row is not None
        return Load(*row)

    def dearest(self, count: int = 8) -> list[tuple[int, int, int, str]]:
        """Milliseconds, calls, rows and the words of those that took longest."""
        return self._connection.execute(_DEAREST, [count]).fetchall()

    def reset(self) -> None:
        self._connection.execute("SELECT pg_stat_statements_reset()")

    def close(self) -> None:
        self._connection.close()
