"""What every room's tests share: emptying tables that refuse to be emptied."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.backends.postgresql.operations import DatabaseOperations

_GUARDED = (
    "SELECT c.oid::regclass::text, t.tgname, c.relispartition FROM pg_trigger t"
    " JOIN pg_class c ON c.oid = t.tgrelid"
    " WHERE NOT t.tgisinternal AND t.tgtype & 32 > 0 ORDER BY 1"
)


@contextmanager
def _truncation_allowed() -> Iterator[list[str]]:
    """Switches TRUNCATE triggers off, as only a superuser may; yields what they guard."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_GUARDED)
        guarded = cursor.fetchall()
        for table, trigger, _ in guarded:
            cursor.execute(f'ALTER TABLE {table} DISABLE TRIGGER "{trigger}"')
        yield [table for table, _, partition in guarded if not partition]
        for table, trigger, _ in guarded:
            cursor.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{trigger}"')


@pytest.fixture(autouse=True, scope="session")
def flush_append_only_tables() -> Iterator[None]:
    """Tests with real transactions end with a flush: let it empty the append-only tables too."""
    flush = DatabaseOperations.execute_sql_flush

    def flush_all(self: DatabaseOperations, sql_list: list[str]) -> Any:
        with _truncation_allowed() as tables:
            return flush(self, [*sql_list, f"TRUNCATE {', '.join(tables)} CASCADE;"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "execute_sql_flush", flush_all)
        yield
