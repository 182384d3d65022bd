"""When the next backup is due, and who makes it: a process of its own, started by a worker.

A task of Celery has a minute; a backup takes what it takes. So the beat's task only looks, and
starts `stoa backup create`, which is alone by its lock, outlives the worker, and prunes.
"""

import logging
import os
import subprocess
import sys
from datetime import datetime, timedelta

from workers.backup import shelf
from workers.backup.config import Config

log = logging.getLogger(__name__)


def due(config: Config, now: datetime) -> bool:
    """Raises OSError."""
    if config.folder is None:
        return False
    newest = shelf.newest(config.folder) if config.folder.is_dir() else None
    if newest is None or newest.snapshot_at is None:
        return True
    return now - newest.snapshot_at >= timedelta(hours=config.every_h)


def begin(config: Config, now: datetime) -> "subprocess.Popen[bytes] | None":
    """Starts a backup if one is due and none is under way. Raises OSError."""
    if config.folder is None or not due(config, now):
        return None
    try:
        with shelf.alone(config.folder):
            pass
    except shelf.Busy:
        return None
    output = config.folder / "last.log"
    with open(output, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        return subprocess.Popen(
            [sys.executable, "-m", "workers.backup", "create", "--json"],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
