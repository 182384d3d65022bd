"""Tombstones outside of the database: what a restore from an older backup must end again.

A file for each month, a line for each, canonical JSON; each line's MAC covers the line before it,
so that none can be changed or taken out of the middle unseen. (That its newest lines are missing
shows only beside the database.) Lines that a crash cut off are written again.
"""

import fcntl
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import rfc8785
from django.conf import settings
from django.db import transaction

from compliance import audit
from compliance.models import Tombstone

AT_ONCE = 1_000


class JournalBroken(Exception):
    """A line was changed, or one is missing; the message says where."""


def ship(folder: Path, now: datetime) -> int:
    """Carry over what is not there yet; how many. Safe side by side. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # empty, it says that nothing ended
    shipped = 0
    while True:
        with transaction.atomic():
            waiting = Tombstone.objects.select_for_update(skip_locked=True)
            rows = list(waiting.filter(journaled_at=None).order_by("id")[:AT_ONCE])
            if not rows:
                return shipped
            append(folder, rows, now)
            ids = [row.id for row in rows]
            Tombstone.objects.filter(id__in=ids).update(journaled_at=now)
        shipped += len(rows)


def append(folder: Path, rows: list[Tombstone], now: datetime) -> None:
    """On the disk when it returns."""
    path = folder / f"{now:%Y-%m}.jsonl"
    with _locked(path) as file:
        mac, end = "", 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            mac, end = str(json.loads(line)["mac"]), end + len(line)
        file.truncate(end)
        file.seek(end)
        for row in rows:
            said = {
                "id": row.id,
                "event": row.event_id,
                "action": row.action,
                "target": [row.target_type, row.target_id],
                "facts": row.facts,
                "at": audit.stamp(row.at),
            }
            mac = _mac(path.name, mac, said)
            file.write(rfc8785.dumps({**said, "mac": mac}) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path) -> Iterator[Tombstone]:
    """All that stands there, oldest month first. Raises JournalBroken, OSError."""
    for path in sorted(folder.glob("*.jsonl")):
        mac = ""
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # it was cut off, and written again elsewhere, or is in the database
                try:
                    said: dict[str, Any] = json.loads(line)
                    told = str(said.pop("mac"))
                except (ValueError, KeyError, AttributeError):
                    raise JournalBroken(f"{path.name}, line {number}: it is no entry") from None
                mac = _mac(path.name, mac, said)
                if not hmac.compare_digest(mac, told):
                    message = f"{path.name}, line {number}: it, or one before it, was changed"
                    raise JournalBroken(message)
                yield Tombstone(
                    id=said["id"],
                    event_id=said["event"],
                    action=said["action"],
                    target_type=said["target"][0],
                    target_id=said["target"][1],
                    facts=said["facts"],
                    at=datetime.fromisoformat(said["at"]),
                )


def missing(folder: Path) -> list[Tombstone]:
    """Those that the database does not know: it is older than they are."""
    known = set(Tombstone.objects.values_list("id", flat=True))
    found = {row.id: row for row in read(folder) if row.id not in known}
    return list(found.values())


def _mac(name: str, before: str, said: dict[str, Any]) -> str:
    key = hmac.digest(settings.MASTER_KEY.encode(), b"stoa tombstones 1", "sha256")
    return hmac.digest(key, f"{name}\n{before}\n".encode() + rfc8785.dumps(said), "sha256").hex()


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
