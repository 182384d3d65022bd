"""pg_dump and pg_restore: a consistent snapshot of one database, out and in, as a stream.

The programs come from the wheel that holds our PostgreSQL, else from PATH; they must not be older
than the server. Passwords go by the environment: a command line can be read by everybody.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

from psycopg import conninfo

from workers.local import embedded

COMPRESSION = "gzip:3"
_VERSION = re.compile(r"(\d+)\.")


class DatabaseError(Exception):
    """A program of PostgreSQL failed or is missing; the message is for a person."""


def program(name: str, server_major: int) -> str:
    """Its path. Raises DatabaseError where there is none that is new enough."""
    found = []
    with suppress(embedded.ServerError):
        found.append(str(embedded.binary(name)))
    if other := shutil.which(name):
        found.append(other)
    for path in found:
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        version = _VERSION.search(said)
        if version and int(version[1]) >= server_major:
            return path
    raise DatabaseError(f"no {name} of PostgreSQL {server_major} or newer: install its client")


@contextmanager
def dumped(url: str, snapshot: str, server_major: int) -> Iterator[IO[bytes]]:
    """What pg_dump writes, in its custom format. Raises DatabaseError on leaving if it failed:
    what was read until then is of no worth."""
    command = [program("pg_dump", server_major), "--format=custom", f"--snapshot={snapshot}"]
    command += [f"--compress={COMPRESSION}", "--no-owner", "--no-acl", "--no-comments"]
    with _run(command, url, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.stdout


def restore(url: str, feed: Callable[[IO[bytes]], None], server_major: int) -> None:
    """Into an empty database, all of it or nothing, as the role of `url`, which will own it.

    `feed` writes the dump into what it is given. Raises DatabaseError, and what `feed` raises.
    """
    command = [program("pg_restore", server_major), "--single-transaction", "--exit-on-error"]
    command += ["--no-owner", "--no-acl", "--no-comments", f"--dbname={_without_password(url)}"]
    with _run(command, url, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            feed(process.stdin)
        except BrokenPipeError:
            pass  # it has ended; its own words say why
        finally:
            process.stdin.close()


@contextmanager
def _run(
    command: list[str], url: str, *, stdin: int | None = None, stdout: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    dump = stdout is not None
    process = subprocess.Popen(
        [*embedded.dies_with_us("KILL"), *command, *([_database(url)] if dump else [])],
        env=_environment(url),
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    words: list[bytes] = []
    assert process.stderr is not None
    listener = threading.Thread(target=lambda: words.extend(process.stderr or ()), daemon=True)
    listener.start()
    try:
        yield process
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        listener.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    if status:
        said = b"".join(words).decode(errors="replace").strip()
        name = os.path.basename(command[0])
        raise DatabaseError(f"{name} failed ({status}): {said[-1500:]}")


def _database(url: str) -> str:
    return f"--dbname={_without_password(url)}"


def _without_password(url: str) -> str:
    known = conninfo.conninfo_to_dict(url)
    known.pop("password", None)
    return conninfo.make_conninfo("", **known)


def _environment(url: str) -> dict[str, str]:
    passed = ("PATH", "HOME", "LANG", "PGSSLROOTCERT", "PGSSLMODE", "PGPASSFILE")
    env = {name: os.environ[name] for name in passed if name in os.environ}
    password = conninfo.conninfo_to_dict(url).get("password")
    return env | ({"PGPASSWORD": str(password)} if password else {})
