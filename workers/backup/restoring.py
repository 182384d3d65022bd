"""Put a backup back: onto a clean folder with a PostgreSQL of its own, or into an empty database.

A restored folder gets its name last, after everything was put back, checked and reopened. So an
interrupted restore leaves a folder that nothing starts from, and is begun again.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psycopg
import pyrage

from workers.backup import database, envelope, facts, manifest, secrets, shelf, signers, spools
from workers.backup.making import DATABASE, SPOOLS, UPLOADS, BackupError, Step, Told, silent
from workers.backup.manifest import Manifest
from workers.backup.secrets import Keys
from workers.local import embedded

PART = ".restoring"
MARK = "stoa_restoring"  # a table of a database whose restore is not over
ROOT = Path(__file__).resolve().parents[2]
Identities = list[pyrage.x25519.Identity]


@dataclass
class Report:
    """What a restore measured. Durations in seconds by phase, in order."""

    backup: str
    recovery_point: str  # the snapshot's moment: what was committed until then is back
    lost_s: float  # from there to the beginning of the restore
    phases_s: dict[str, float] = field(default_factory=dict)
    reopened: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    rows: int = 0

    @property
    def took_s(self) -> float:
        return round(sum(self.phases_s.values()), 3)

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"took_s": self.took_s}


@dataclass(frozen=True)
class Source:
    """A backup, what opens it, and the secrets that its database is sealed under."""

    entry: shelf.Entry
    identity: Identities
    secrets: dict[str, str]
    journal: Path | None
    signer: dict[str, Any] | None = None  # its state, where the keys file has one
    kek: str = ""  # the file of the key-encryption key, likewise

    @property
    def manifest(self) -> Manifest:
        assert self.entry.manifest is not None
        return self.entry.manifest


def source(
    folder: Path,
    id: str,
    *,
    identity: Path,
    secrets: dict[str, str],
    journal: Path | None,
    signer: str = "",
    signer_state: dict[str, Any] | None = None,
    kek: str = "",
) -> Source:
    """Its manifest was signed by `signer`, else by the installation of these secrets.

    Raises ManifestError, EnvelopeError, OSError.
    """
    signed_by = signer or manifest.signer(secrets["STOA_MASTER_KEY"])
    entry = shelf.find(folder, id, signed_by)
    return Source(entry, envelope.identities(identity), secrets, journal, signer_state, kek)


def keys_of(path: Path, identity: Path) -> Keys:
    """What is in a keys file. Raises EnvelopeError, KeysError."""
    return secrets.read(envelope.opened(path, envelope.identities(identity)))


def onto_folder(
    source: Source, var: Path, *, now: datetime, told: Told = silent, port: int = 0
) -> Report:
    """A whole embedded installation in `var`, which is not there yet or is empty.

    Raises BackupError and what the parts raise; then `var` is as it was.
    """
    if var.exists() and any(var.iterdir()):
        raise BackupError(f"{var} is not empty: a backup is restored onto a clean folder")
    with _draft(var) as draft:
        watch = _Watch(source, now, told)
        with watch.phase("check"):
            _check(source, told)
        with watch.phase("keys"):
            secrets.install(draft / "secrets", source.secrets, source.kek)
            if source.signer:
                signers.put_back(draft / "signer", source.signer)
        server = embedded.Postgres(
            draft / "pg", port or embedded.free_port(), draft / "log" / "postgres.log"
        )
        try:
            with watch.phase("start"):
                server.start()
            _fill(source, server.url("stoa_owner"), watch)
            with watch.phase("spools"):
                _put_spools_back(source, draft)
                _put_uploads_back(source, draft / "uploads")
            with watch.phase("reopen"):
                watch.report.reopened = _reopen(source, server.url("stoa_owner"), draft)
        finally:
            server.stop()
        with watch.phase("close"):
            os.sync()
            if var.exists():
                var.rmdir()
            draft.rename(var)
    return watch.report


def verified(source: Source, *, now: datetime, told: Told = silent) -> Report:
    """Everything read, decrypted, and loaded into a scratch database that is then thrown away.

    Needs no secret of the installation: nothing is reopened. Raises as `onto_folder` does.
    """
    with tempfile.TemporaryDirectory(prefix="stoa-backup-") as folder:
        scratch = Path(folder)
        watch = _Watch(source, now, told)
        with watch.phase("check"):
            _check(source, told)
        server = embedded.Postgres(scratch / "pg", embedded.free_port(), scratch / "postgres.log")
        try:
            with watch.phase("start"):
                server.start()
            _fill(source, server.url("stoa_owner"), watch)
            with watch.phase("spools"):
                _put_spools_back(source, scratch)
                _put_uploads_back(source, scratch / "uploads")
        finally:
            server.stop()
    return watch.report


def drilled(source: Source, *, now: datetime, told: Told = silent) -> Report:
    """A whole restore, reopening included, onto a scratch folder that is then thrown away."""
    with tempfile.TemporaryDirectory(prefix="stoa-drill-") as folder:
        return onto_folder(source, Path(folder) / "var", now=now, told=told)


def into_database(
    source: Source, url: str, var: Path, *, now: datetime, told: Told = silent
) -> Report:
    """Into an empty database of somebody else's server, as the owner of its tables to be.

    Spools, uploads, the signer's files and the key-encryption key's go below `var`, as an embedded
    installation has them.
    """
    watch = _Watch(source, now, told)
    with watch.phase("check"):
        _check(source, told)
        _mark(url)
    _fill(source, url, watch)
    with watch.phase("spools"):
        _put_spools_back(source, var)
        _put_uploads_back(source, var / "uploads")
    if source.signer:
        signers.put_back(var / "signer", source.signer)
    if source.kek and not (var / "secrets" / secrets.KEK).exists():
        secrets.install(var / "secrets", {}, source.kek)
    with watch.phase("reopen"):
        watch.report.reopened = _reopen(source, url, var)
    return watch.report


class _Watch:
    def __init__(self, source: Source, now: datetime, told: Told) -> None:
        made = source.manifest
        point = datetime.fromisoformat(made.snapshot_at)
        self.report = Report(
            backup=made.id,
            recovery_point=made.snapshot_at,
            lost_s=round((now - point).total_seconds(), 3),
            bytes=source.entry.size,
            rows=sum(made.facts["rows"].values()),
        )
        self.told = told

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.told(Step(name))
        began = time.monotonic()
        yield
        self.report.phases_s[name] = round(time.monotonic() - began, 3)


@contextmanager
def _draft(var: Path) -> Iterator[Path]:
    var.parent.mkdir(parents=True, exist_ok=True)
    draft = var.with_name(var.name + PART)
    with var.with_name(f".{var.name}{PART}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another restore onto {var} is under way") from None
        _clear(draft)
        draft.mkdir(mode=0o700)
        try:
            yield draft
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def _clear(draft: Path) -> None:
    """What a killed restore left; under another name, as its PostgreSQL may be ending still."""
    if draft.exists():
        draft.rename(draft.with_name(f"{draft.name}.{time.time_ns()}"))
    for left in draft.parent.glob(f"{draft.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _check(source: Source, told: Told) -> None:
    done, total = 0, source.entry.size

    def heard(count: int) -> None:
        nonlocal done
        done += count
        told(Step("check", done, total))

    manifest.check(source.entry.folder, source.manifest, heard)
    # Whether it can be opened at all is known at once, before a server is started.
    envelope.decrypt(source.entry.folder / SPOOLS, _Nowhere(), source.identity)


def _mark(url: str) -> None:
    """An empty database, or what an interrupted restore left: the mark alone, which reopening
    takes away. Until then `stoa doctor` tells, and no running role was granted anything."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'gateway')"
            f" AND tablename <> '{MARK}'"
        ).fetchone()
        if found != (0,):
            raise BackupError("the database is not empty: a backup is restored into a clean one")
        connection.execute(f"CREATE TABLE IF NOT EXISTS {MARK} ()")


def _fill(source: Source, url: str, watch: _Watch) -> None:
    """The dump into the database, and proof that what came out is what went in."""
    folder, made = source.entry.folder, source.manifest
    with watch.phase("database"):
        total = next(file.plain_bytes for file in made.files if file.name == DATABASE)
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version_num')::int / 10000"
            ).fetchone()
            assert row is not None

        def feed(pipe: IO[bytes]) -> None:
            sink = _Watched(pipe, total, watch.told)
            envelope.decrypt(folder / DATABASE, sink, source.identity)

        database.restore(url, feed, int(row[0]))
    with watch.phase("verify"), psycopg.connect(url) as connection:
        if wrong := facts.problems(connection, made.facts):
            raise BackupError(f"what was restored is not what was dumped: {'; '.join(wrong[:5])}")


def _put_spools_back(source: Source, var: Path) -> None:
    copied = source.manifest.spools
    folders = tuple(
        var / ("gateway" if number == 0 else f"gateway-{number}") for number in range(len(copied))
    )
    _untar(source, SPOOLS, lambda pipe: spools.put_back(pipe, folders))


def _put_uploads_back(source: Source, folder: Path) -> None:
    if any(file.name == UPLOADS for file in source.manifest.files):

        def extract(pipe: IO[bytes]) -> None:
            with tarfile.open(fileobj=pipe, mode="r|") as archive:
                archive.extractall(folder, filter="data")

        folder.mkdir(parents=True, mode=0o700)
        _untar(source, UPLOADS, extract)


def _untar(source: Source, name: str, read: Any) -> None:
    """Hands what is in an encrypted file to `read`, as it comes."""
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(reading, "rb") as pipe:
                read(pipe)
                while pipe.read(1 << 16):  # what tar leaves after its end
                    pass
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    try:
        with os.fdopen(writing, "wb") as pipe:
            envelope.decrypt(source.entry.folder / name, pipe, source.identity)
    except BrokenPipeError:
        pass
    finally:
        thread.join()
    if failure:
        raise failure[0]


def _reopen(source: Source, url: str, var: Path) -> dict[str, Any]:
    """In a process of its own: it has the settings of what is restored, and we have none."""
    made = source.manifest
    command = [sys.executable, "-m", "workers.backup", "reopen", "--json", "--backup", made.id]
    command += ["--recovery-point", made.snapshot_at]
    command += ["--journal", str(source.journal)] if source.journal else ["--without-journal"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("STOA_")}
    env |= source.secrets | {
        "DATABASE_URL": url,
        "STOA_VAR_DIR": str(var),
        "STOA_DATABASE_POOL": "2",
    }
    env |= {"BROKER_URL": os.environ.get("BROKER_URL") or "memory://"}
    env |= {
        name: os.environ[name]
        for name in ("STOA_APP_ROLE", "STOA_GATEWAY_ROLE")
        if name in os.environ
    }
    done = subprocess.run(
        [*embedded.dies_with_us("KILL"), *command],
        env=env,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise BackupError(f"reopening failed: {done.stderr.strip()[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None:
        pass


class _Watched:
    def __init__(self, target: IO[bytes], total: int, told: Told) -> None:
        self._target, self._total, self._told = target, total, told
        self._done = 0

    def write(self, data: bytes) -> int:
        self._done += len(data)
        self._told(Step("database", self._done, self._total))
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()
