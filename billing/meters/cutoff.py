"""Which usage an invoice knew: all up to a number, and nothing beyond it."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from compliance import locks

# Who adds usage shares it, before the usage is numbered and until it is committed.
_LOCK = "billing_usagehour"


@contextmanager
def taken() -> Iterator[int]:
    """The highest number of any usage. While this is open none is added, so what is read has
    exactly what is numbered up to it. Keep it short, and only read: at its end all is rolled back
    to where it began, which is what lets the lock go before the transaction around it ends."""
    with transaction.atomic():
        locks.hold(_LOCK)
        with connection.cursor() as cursor:
            cursor.execute("SELECT last_value FROM billing_usageevent_number")
            row = cursor.fetchone()
            assert row is not None
        yield int(row[0])
        transaction.set_rollback(True)
