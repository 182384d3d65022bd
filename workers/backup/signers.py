"""The signer's key and memory: copied while it serves, and put back with each of its logs closed.

A copy may be older than what was signed since. So no head of a log that it knows is signed again:
`stoa evidence succeed` has a successor go on, under the same key (docs/evidence.md). A signer whose
disk is still there knows more than any copy: it is left as it is.
"""

import base64
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.signer.memory import KEY, MEMORY, Head, Memory


class SignerError(Exception):
    """The signer's files cannot be copied or put back; the message says why."""


def copied(folder: Path) -> dict[str, Any]:
    """For the keys file. Raises SignerError: a signer that cannot be read is not left out."""
    try:
        key = (folder / KEY).read_text()
        with closing(sqlite3.connect(f"file:{folder / MEMORY}?mode=ro", uri=True)) as memory:
            rows = memory.execute("SELECT origin, size, root, note, closed FROM head").fetchall()
    except (OSError, sqlite3.Error) as error:
        raise SignerError(f"STOA_BACKUP_SIGNER={folder}: {error}") from error
    names = ("origin", "size", "root", "note", "closed")
    heads = [dict(zip(names, (*row[:2], _text(row[2]), *row[3:]), strict=True)) for row in rows]
    return {"key": key, "heads": sorted(heads, key=lambda head: str(head["origin"]))}


def put_back(folder: Path, state: dict[str, Any]) -> int:
    """Into a folder that has neither key nor memory; how many logs are closed in it.

    The memory is written before the key, so that a key never stands without it.
    """
    if (folder / KEY).exists() or (folder / MEMORY).exists():
        raise SignerError(f"{folder} has a signer of its own, which knows more: leave it as it is")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(folder / MEMORY, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(Memory(folder)) as memory:
        for head in state["heads"]:
            memory.keep(head["origin"], replace(_head(head), closed=True))
    with os.fdopen(os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(state["key"])
        file.flush()
        os.fsync(file.fileno())
    return len(state["heads"])


def _text(root: bytes) -> str:
    return base64.b64encode(root).decode()


def _head(said: dict[str, Any]) -> Head:
    return Head(said["size"], base64.b64decode(said["root"]), said["note"], bool(said["closed"]))
