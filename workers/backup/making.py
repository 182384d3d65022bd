"""Make one backup. The order is the point: journal, spools, then the database's snapshot."""

import os
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

from compliance import ids
from workers.backup import database, envelope, facts, manifest, secrets, shelf, signers, spools
from workers.backup.config import Config
from workers.backup.manifest import File, Manifest

DATABASE, SPOOLS, UPLOADS = "database.age", "spools.age", "uploads.age"

T = TypeVar("T")
Clock = Callable[[], datetime]


class BackupError(Exception):
    """It cannot be made, read or restored; the message is for a person."""


@dataclass(frozen=True)
class Step:
    """How far it is: `part` is what is under way, `done_bytes` of it."""

    part: str
    done_bytes: int = 0
    total_bytes: int = 0  # 0: nobody knows


Told = Callable[[Step], None]


def silent(step: Step) -> None:
    """Nobody listens."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def make(
    config: Config,
    *,
    master_key: str,
    uploads: Path | None = None,
    told: Told = silent,
    clock: Clock = utc_now,
) -> Manifest:
    """A backup that stands on its shelf when this returns; nothing there when it raises.

    Raises BackupError, shelf.Busy, OSError and what the parts raise. To be entered alone.
    """
    if config.folder is None:
        raise BackupError("set STOA_BACKUP_DIR: there is nowhere to put a backup")
    id = ids.new("bak")
    with shelf.draft(config.folder, id) as folder:
        began_at = clock()
        told(Step("spools"))
        copied, written = _tar(
            lambda pipe: spools.copy(config.gateways, pipe), folder / SPOOLS, config.recipients
        )
        files = [_file(SPOOLS, written)]
        told(Step("database"))
        with (
            facts.snapshot(config.database_url) as snapshot,
            database.dumped(config.database_url, snapshot.name, snapshot.server_major) as stream,
        ):
            source = _Watched(stream, "database", told)
            written = envelope.encrypt(source, folder / DATABASE, config.recipients)
        files.append(_file(DATABASE, written))
        if uploads is not None:
            told(Step("uploads"))
            _, written = _tar(
                lambda pipe: _add_folder(uploads, pipe), folder / UPLOADS, config.recipients
            )
            files.append(_file(UPLOADS, written))
        told(Step("keys"))
        keys = _keys(config, id)
        made = Manifest(
            id=id,
            began_at=manifest.stamp(began_at),
            snapshot_at=manifest.stamp(snapshot.at),
            completed_at=manifest.stamp(clock()),
            stoa=version("stoa"),
            files=files,
            keys=keys,
            recipients=list(config.recipients),
            facts=snapshot.facts,
            spools=copied,
        )
        manifest.write(folder, made, master_key)
    return made


def _keys(config: Config, id: str) -> File | None:
    if config.keys_folder is None:
        return None
    config.keys_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = shelf.keys_file(config.keys_folder, id)
    signer = signers.copied(config.signer) if config.signer else None
    kek = config.kek.read_text() if config.kek else ""
    data = secrets.collected(id, signer=signer, kek=kek)
    written = envelope.encrypt(BytesIO(data), path, config.keys_recipients)
    shelf.sync(config.keys_folder)
    return _file(path.name, written)


def _file(name: str, written: envelope.Written) -> File:
    return File(name, written.size, written.sha256, written.plain_bytes)


def _tar(
    write: Callable[[IO[bytes]], T], target: Path, recipients: tuple[str, ...]
) -> tuple[T, envelope.Written]:
    """Encrypts what `write` writes, as it comes. Raises what it raises."""
    reading, writing = os.pipe()
    answer: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(writing, "wb") as pipe:
                answer.append(write(pipe))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=target.name)
    with os.fdopen(reading, "rb") as pipe:
        thread.start()
        try:
            written = envelope.encrypt(pipe, target, recipients)
        finally:
            pipe.close()  # who writes still hears that nobody reads
            thread.join()
    if failure:
        raise failure[0]
    return answer[0], written


def _add_folder(folder: Path, pipe: IO[bytes]) -> None:
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        if folder.is_dir():
            archive.add(folder, arcname=".", recursive=True)


class _Watched:
    def __init__(self, source: IO[bytes], part: str, told: Told) -> None:
        self._source, self._part, self._told = source, part, told
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._done += len(data)
        self._told(Step(self._part, self._done))
        return data
