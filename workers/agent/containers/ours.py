"""The containers of one agent, for whoever compares what runs with what should (reaper)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from workers.agent import processes
from workers.agent.containers import driver
from workers.agent.containers.driver import ContainerError, Driver, Found


class OurContainers:
    """Blocking. `address` is what the settings say; nothing there has no containers."""

    def __init__(self, directory: Path, address: str) -> None:
        self._mark, self._setting = processes.mark(directory), address
        self._driver: Driver | None = None

    def list(self) -> list[Found]:
        """Raises OSError."""
        found = self._engine()
        if found is None:
            return []
        with _told():
            return found.list(self._mark)

    def remove(self, id: str) -> None:
        """Raises OSError."""
        found = self._engine()
        if found is not None:
            with _told():
                found.remove(id)

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None

    def _engine(self) -> Driver | None:
        if self._driver is None and (address := driver.find(self._setting)):
            with _told():
                self._driver = Driver(address)
        return self._driver


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ContainerError as error:
        raise OSError(str(error)) from error
