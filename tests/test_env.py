"""How settings are spelled, and what the database connections that they describe withstand."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from pytest_socket import SocketConnectBlockedError

from controlplane import env


def test_a_secret_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("STOA_X_FILE", str(tmp_path / "secret"))
    assert env.text("STOA_X") == "from a file"
    monkeypatch.setenv("STOA_X", "said outright")
    assert env.text("STOA_X") == "said outright"


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda: env.text("STOA_X"), ""),
        (lambda: env.integer("STOA_X", 1), "two"),
        (lambda: env.seconds("STOA_X", 1), "soon"),
        (lambda: env.flag("STOA_X", default=True), "perhaps"),
    ],
)
def test_what_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[], object], value: str
) -> None:
    monkeypatch.setenv("STOA_X", value)
    with pytest.raises(ImproperlyConfigured, match="STOA_X"):
        read()


def test_a_database_is_an_url() -> None:
    found = env.database("postgresql://ada:p%40ss@db.example:6432/stoa?sslmode=require")
    assert (found["USER"], found["PASSWORD"], found["HOST"]) == ("ada", "p@ss", "db.example")
    assert (found["PORT"], found["NAME"]) == ("6432", "stoa")
    assert found["OPTIONS"] == {"sslmode": "require"}
    assert env.database("postgresql:///stoa?host=/run/postgresql")["HOST"] == "/run/postgresql"
    with pytest.raises(ImproperlyConfigured, match="mysql"):
        env.database("mysql://db/stoa")


def test_no_test_leaves_this_machine() -> None:
    with pytest.warns(UserWarning), pytest.raises(SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 443), timeout=1)


def _backend() -> int:
    """The server's process behind the connection, which goes back to its pool."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    connection.close()
    return int(pid)


@pytest.mark.django_db(transaction=True)
def test_connections_that_died_in_the_pool_fail_no_request() -> None:
    """As when PostgreSQL restarts: every idle connection is dead, and nobody has noticed."""
    before = _backend()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (before,))
    assert _backend() != before


def test_a_command_without_settings_says_which_is_missing_in_one_line() -> None:
    stoa = Path(sys.executable).with_name("stoa")
    done = subprocess.run(
        [stoa, "evidence", "status"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("stoa: set STOA_SECRET_KEY or STOA_SECRET_KEY_FILE")
    assert len(done.stderr.splitlines()) == 1
