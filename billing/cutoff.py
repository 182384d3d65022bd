"""Which usage an invoice knew: all up to a number, and nothing beyond it."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

# Who adds usage shares it, before the usage is numbered and until it is committed.
LOCK = "hashtextextended('billing_usagehour', 0)"


@contextmanager
def taken() -> Iterator[int]:
    """The highest number of any usage. While this is open none is added, so what is read has
    exactly what is numbered up to it. Keep it short."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_lock({LOCK})")
        try:
            cursor.execute("SELECT last_value FROM billing_usageevent_number")
            row = cursor.fetchone()
            assert row is not None
            yield int(row[0])
        finally:
            cursor.execute(f"SELECT pg_advisory_unlock({LOCK})")
