"""Files that must survive a crash and that nobody else may read."""

import contextlib
import os
import resource
from pathlib import Path


def private_folder(path: Path) -> None:
    """Make `path`, or take it over, as a folder of mode 0700. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def forbid_dumps() -> None:
    """No core of this process and its children: prompts are in their memory."""
    # 1 and not 0: with zero the kernel still pipes a dump to a crash handler, if there is one.
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))


def sync_folder(path: Path) -> None:
    """Make the names in `path` durable, not only what the files hold."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace(path: Path, *parts: bytes) -> None:
    """Put `parts` in `path` (0600) so that a crash leaves the old content or the new, whole."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb", closefd=False) as writer:
            for part in parts:
                writer.write(part)
        os.fsync(file)
    finally:
        os.close(file)
    draft.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder of plain files, its lock last: until then nobody else may want it."""
    for file in sorted(path.iterdir(), key=lambda file: file.name == "lock"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()
