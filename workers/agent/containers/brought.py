"""Which images an agent has brought from registries, so that it can remove them at its end.

The operator's own (`localhost/…`) are not among them.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from workers.agent import files
from workers.agent.containers import driver
from workers.agent.containers.driver import ContainerError, Driver

FOLDER = "images"


def note(directory: Path, reference: str) -> None:
    """Before it is pulled: what is brought and not noted would stay."""
    name = hashlib.sha256(reference.encode()).hexdigest()[:32]
    path = directory / FOLDER / name
    if not path.exists():
        files.write(path, reference.encode())


def noted(directory: Path) -> list[str]:
    found = sorted(path for path in (directory / FOLDER).glob("[!.]*"))
    return [path.read_text() for path in found]


def remove(directory: Path, setting: str, make: Callable[[str], Driver] = Driver) -> str:
    """Remove them all; empty when none is left, else why not."""
    references = noted(directory)
    if not references:
        return ""
    address = driver.find(setting)
    if not address:
        return "no podman or Docker socket is here"
    engine = make(address)
    try:
        for reference in references:
            engine.remove_image(reference)
    except ContainerError as error:
        return str(error)[:300]
    finally:
        engine.close()
    return ""
