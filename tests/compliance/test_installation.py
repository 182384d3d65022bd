"""The roles as an installation has them: the owner migrates and grants, the app only runs.

The other tests run as a superuser, who owns everything and may do everything.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from workers.local.embedded import Postgres

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A database of the run's server that belongs to stoa_owner."""
    servers = Path(os.environ["STOA_TEST_SERVERS"])
    admin = os.environ["DATABASE_URL"]
    name = f"owned_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    port = int(psycopg.conninfo.conninfo_to_dict(admin)["port"] or 0)
    postgres = Postgres(servers / "pg", port, servers)
    postgres.database = name
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER stoa_owner")
    with psycopg.connect(admin, dbname=name, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    yield postgres
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def manage(postgres: Postgres, role: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "manage.py"), *words, "--skip-checks"],
        env={**os.environ, "DATABASE_URL": postgres.url(role)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_owner_migrates_and_grants_and_the_app_runs(database: Postgres) -> None:
    for words in (["migrate", "--verbosity=0"], ["grant_roles"], ["grant_roles"]):
        done = manage(database, "stoa_owner", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words
    with psycopg.connect(database.url("stoa_owner")) as owner, owner.transaction():
        for partition in ("", "_2030_01"):
            owner.execute("SELECT stoa_ensure_partition('compliance_auditevent', '2030-01-01')")
            with pytest.raises(psycopg.errors.RestrictViolation), owner.transaction():
                owner.execute(f"TRUNCATE compliance_auditevent{partition}")
    with psycopg.connect(database.url("stoa_app")) as app:
        app.execute("SELECT stoa_ensure_partition('compliance_auditevent', '2031-01-01')")
        found = app.execute(
            "SELECT relowner::regrole::text FROM pg_class"
            " WHERE relname = 'compliance_auditevent_2031_01'"
        ).fetchone()
    assert found == ("stoa_owner",)
    assert manage(database, "stoa_app", "migrate", "--check").returncode == 0
    with psycopg.connect(database.url("stoa_gateway")) as gateway:
        gateway.execute("SELECT * FROM gateway.keys")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            gateway.execute("SELECT * FROM tenancy_apikey")
