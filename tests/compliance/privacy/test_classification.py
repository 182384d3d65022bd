"""Each column of each table is classified, by the database's own catalogue."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Model

from compliance.privacy import registry, schedule
from compliance.privacy.registry import NONE, Table, levels


def columns_here() -> dict[str, set[str]]:
    """Every table of ours (a partition is its parent's) with its columns."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, array_agg(a.attname::text) FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
            " AND NOT c.relispartition GROUP BY 1"
        )
        return {name: set(columns) for name, columns in cursor.fetchall()}


def unclassified(here: Mapping[str, set[str]]) -> list[str]:
    known = {one.name: one for one in registry.everything()}
    return sorted(
        f"{name}.{column}"
        for name, columns in here.items()
        for column in columns
        if name not in known or column not in known[name].columns
    )


@contextmanager
def without(table: Table, column: str) -> Iterator[None]:
    model = next(model for model, one in registry.tables.items() if one is table)
    rest = {name: level for name, level in table.columns.items() if name != column}
    registry.tables[model] = Table(**{**vars(table), "columns": rest})
    try:
        yield
    finally:
        registry.tables[model] = table


@pytest.mark.django_db
def test_every_column_is_classified_and_each_rule_and_category_exists() -> None:
    here = columns_here()
    assert unclassified(here) == [], "classify them in their room's privacy.py"
    gone = {
        f"{one.name}.{name}"
        for one in registry.everything()
        for name in set(one.columns) - here.get(one.name, set())
    }
    assert not gone, "classified, and no longer there"
    assert {one.retention for one in registry.everything()} <= schedule.PUBLISHED.keys()


@pytest.mark.django_db
def test_a_new_column_is_named() -> None:
    here = columns_here() | {"a_new_table": {"email"}}
    here["tenancy_user"].add("birthday")
    assert unclassified(here) == ["a_new_table.email", "tenancy_user.birthday"]


def test_a_field_without_a_level_is_named() -> None:
    user = next(one for one in registry.everything() if one.name == "tenancy_user")
    fields = {str(field.column) for field in model_of("tenancy_user")._meta.concrete_fields}
    with without(user, "email"):
        assert unclassified({"tenancy_user": fields}) == ["tenancy_user.email"]
    assert unclassified({"tenancy_user": fields}) == []


def test_texts_and_documents_say_of_whom_they_tell() -> None:
    """A free text in a tenant's table is never of nobody, unless it is one of a closed set."""
    wrong = [
        f"{table.name}.{field.column}"
        for model, table in registry.tables.items()
        for field in model._meta.concrete_fields
        if field.column in ("email", "note", "reason", "name", "filename", "contact", "party")
        and table.columns[field.column] is NONE
        and table.category in ("people", "accounts", "access", "content", "payments")
        and table.name not in OF_CODES
    ]
    assert wrong == []


# Their `reason` or `name` is a code, or the operator's own bank account's.
OF_CODES = {"billing_bankstatement", "billing_givenback", "billing_stripepayment"}


def test_a_table_needs_a_known_role_basis_and_category() -> None:
    with pytest.raises(ValueError, match="'boss' is none of"):
        registry.table(
            "x",
            category="people",
            role="boss",
            purpose="",
            basis="none",
            retention="account",
            columns={},
        )
    with pytest.raises(ValueError, match="has two levels"):
        levels(none="id", personal="name id")


def model_of(table: str) -> type[Model]:
    return next(model for model in apps.get_models() if model._meta.db_table == table)
