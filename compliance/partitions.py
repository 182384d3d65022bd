"""Monthly partitions of append-only tables, made by a function that the tables' owner lends.

The running role may not make tables. `stoa_ensure_partition` (migration 0002) runs with its
owner's rights, and also gives each partition the TRUNCATE trigger that PostgreSQL does not clone.
"""

from datetime import UTC, date, datetime

from django.db import connection, transaction

# Months that are committed, per database: saves a look at the catalogue for each insert.
_known: set[tuple[str, str, date]] = set()


def ensure(table: str, now: datetime, months_ahead: int = 2) -> None:
    """Make the partitions of `table` for the month of `now` and the following ones."""
    month = _month(now)
    with connection.cursor() as cursor:
        for _ in range(months_ahead + 1):
            cursor.execute("SELECT stoa_ensure_partition(%s::regclass, %s)", [table, month])
            month = _following(month)


def ensure_all(now: datetime, months_ahead: int = 2) -> list[str]:
    """`ensure` for every partitioned table of the house; returns their names."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid"
            " WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        tables = [str(name) for (name,) in cursor.fetchall()]
    for table in tables:
        ensure(table, now, months_ahead)
    return tables


def provide(table: str, at: datetime) -> None:
    """Before an insert at `at`: make its partition if upkeep has not (a long sleep, a new year)."""
    key = (str(connection.settings_dict["NAME"]), table, _month(at))
    if key not in _known:
        ensure(table, at, months_ahead=0)
        # Only once committed: what is made in a transaction goes with it.
        transaction.on_commit(lambda: _known.add(key))


def _month(at: datetime) -> date:
    return at.astimezone(UTC).date().replace(day=1)


def _following(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)
