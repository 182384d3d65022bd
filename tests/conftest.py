"""What every room's tests share: passwords that cost nothing, tables that are soon empty again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import pytest
from django.conf import settings
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.db import connection, transaction
from django.test import TransactionTestCase

from compliance.keys.passphrase import FileKms
from tests import template
from tests.compliance.kms_places import own_file

# How quickly examples are drawn says something of the machine's other work, and nothing of ours.
hypothesis.settings.register_profile(
    "stoa", suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("stoa")

_TABLES = (
    "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
    " AND relnamespace = 'public'::regnamespace AND NOT relname = ANY(%s)"
)
# What says which tables there are stays, as `migrate` left it.
_KEPT = ["django_migrations", "django_content_type", "auth_permission"]
_GUARDS = (
    "SELECT tgrelid::regclass::text, tgname FROM pg_trigger"
    " WHERE NOT tgisinternal AND tgenabled = 'A' AND tgtype & 8 > 0"
)


def empty_tables() -> None:
    """Deletes what is in any table, past foreign keys and append-only triggers (a superuser may).

    Django's own flush truncates every table, each with its indices as new files: ten times the
    work where a test has left a few rows in a few of them.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_TABLES, [_KEPT])
        tables = [table for (table,) in cursor.fetchall()]
        looks = (f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in tables)
        cursor.execute(" UNION ALL ".join(looks))
        filled = [table for (table,) in cursor.fetchall()]
        cursor.execute(_GUARDS)
        guards = cursor.fetchall()
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table, trigger in guards:
            cursor.execute(f'ALTER TABLE {table} DISABLE TRIGGER "{trigger}"')
        for table in filled:
            cursor.execute(f"DELETE FROM {table}")
        for table, trigger in guards:
            cursor.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{trigger}"')


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    request: pytest.FixtureRequest, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """A worker's database is a copy of the one that is migrated (tests.template)."""
    if hasattr(request.config, "workerinput"):
        connection.settings_dict["TEST"]["TEMPLATE"] = template.wait() or None


@pytest.fixture(autouse=True, scope="session")
def cheap_passwords() -> Iterator[None]:
    """Argon2 still, but not a quarter of a CPU second for each person that a test makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Argon2PasswordHasher, "time_cost", 1)
        patch.setattr(Argon2PasswordHasher, "memory_cost", 8)  # KiB, the least there is
        patch.setattr(Argon2PasswordHasher, "parallelism", 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def kek_file() -> None:
    """The key that wraps data keys, by a passphrase that costs nothing to try."""
    path = Path(settings.KMS_FILE)
    FileKms(path, settings.KMS_PASSPHRASE, cost=1 << 8).create(datetime.now(UTC))


@pytest.fixture
def own_kms(tmp_path: Path) -> Iterator[FileKms]:
    """A key-encryption key for this test alone, which may rotate and retire it."""
    with own_file(tmp_path, datetime(2026, 3, 1, tzinfo=UTC)) as driver:
        yield driver


@pytest.fixture(autouse=True, scope="session")
def empty_after_transactions() -> Iterator[None]:
    """Tests with real transactions leave empty tables behind, append-only ones too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda test: empty_tables())
        yield
