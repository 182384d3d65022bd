"""An account with prices, and a way to speak to the database past all manners."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from billing import services
from billing.models import Account
from billing.pricing import prices
from compliance import audit
from tests.billing.events import MONTH

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def sql(db: None) -> Sql:
    """Runs one statement in a savepoint of its own, deferred checks included."""

    def run(statement: str, *arguments: str | int | None) -> list[tuple[Any, ...]]:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            rows = cursor.fetchall() if cursor.description else []
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            return rows

    return run


@pytest.fixture
def account(db: None) -> Account:
    return services.open_account(name="Ada's agents", now=MONTH)


@pytest.fixture
def price_list(db: None) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=MONTH)
