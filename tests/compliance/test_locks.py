"""Locks by name, between real connections."""

from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection, transaction

from compliance import locks

_TRY = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"


@pytest.fixture
def other(transactional_db: None) -> Iterator[psycopg.Connection]:
    """Somebody else's connection, without transactions of its own."""
    with psycopg.connect(**connection.get_connection_params()) as one:
        one.autocommit = True
        yield one


def free(other: psycopg.Connection, name: str) -> bool:
    row = other.execute(_TRY, [name]).fetchone()
    assert row is not None
    return bool(row[0])


def test_a_lock_is_held_until_the_transaction_ends(other: psycopg.Connection) -> None:
    with transaction.atomic():
        locks.hold("a")
        locks.hold("a")  # one's own is no obstacle
        assert not free(other, "a") and free(other, "b")
    assert free(other, "a")


def test_a_lock_that_is_tried_is_held_over_transactions(other: psycopg.Connection) -> None:
    with pytest.raises(ZeroDivisionError), locks.try_hold("a") as held:
        assert held
        with transaction.atomic():
            locks.hold("b")
        assert not free(other, "a") and free(other, "b")
        raise ZeroDivisionError
    assert free(other, "a")


def test_who_comes_second_is_told_and_takes_nothing_away(other: psycopg.Connection) -> None:
    other.execute("SELECT pg_advisory_lock(hashtextextended('a', 0))")
    with locks.try_hold("a") as held:
        assert not held
    with psycopg.connect(**connection.get_connection_params()) as third:
        assert not free(third, "a")
        other.close()  # a holder that died: free once PostgreSQL has seen it
        third.execute("SELECT pg_advisory_xact_lock(hashtextextended('a', 0))")
    with locks.try_hold("a") as held:
        assert held
