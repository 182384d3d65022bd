"""PostgreSQL's advisory locks, by name: what goes on one at a time, over all processes.

Triggers share the same names in SQL (`pg_advisory_xact_lock_shared(hashtextextended(name, 0))`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


def hold(name: str) -> None:
    """Waits for the lock and keeps it until the caller's transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


def hold_shared(name: str) -> None:
    """As `hold`, beside others that hold it so: whoever holds it alone waits for all of them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", [name])


@contextmanager
def try_hold(name: str) -> Iterator[bool]:
    """Whether the lock was free. It is held until the block is left, over any transactions in it,
    and ends with the connection of a holder that dies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
        (held,) = cursor.fetchone() or (False,)
    try:
        yield held
    finally:
        if held:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
