"""A PostgreSQL as `make up` starts it, in a folder of its own, with the house's tables."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.local import processes
from workers.local.embedded import Postgres, free_port
from workers.local.installation import PORTS, Installation


@contextmanager
def standing() -> Iterator[Postgres]:
    """This process's environment is the house's: Django may be set up then."""
    with tempfile.TemporaryDirectory(prefix="stoa-books-") as folder:
        os.environ.update({name: str(free_port()) for name in PORTS}, STOA_VAR_DIR=folder)
        installation = Installation.from_environment()
        postgres = installation.postgres
        assert postgres is not None, "DATABASE_URL names a database: this one makes its own"
        (Path(folder) / "static").mkdir(parents=True)
        try:
            postgres.start()
            subprocess.run(
                processes.manage("prepare"),
                env=installation.django_environment("stoa_owner"),
                input="{}",
                stdout=subprocess.DEVNULL,
                text=True,
                check=True,
            )
            os.environ.update(installation.django_environment())
            yield postgres
        finally:
            postgres.stop()
