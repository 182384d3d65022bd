"""Servers for the tests: one real PostgreSQL and one real Valkey a run.

Loaded as a plugin (`-p tests.environment`) because the settings need their addresses before
pytest-django reads them. The controller of a parallel run starts them, and migrates one database
while its workers collect; they inherit the addresses and copy that database.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workers.local.embedded import Postgres, Valkey, free_port

MASTER_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="  # 32 bytes; tests only
# Nothing here outlives the machine: no commit and no flush of tables waits for its disk.
DISPOSABLE = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB"}


def _start() -> None:
    root = Path(tempfile.mkdtemp(prefix="stoa-tests-"))
    postgres = Postgres(root / "pg", free_port(), root / "pg.log", options=DISPOSABLE)
    valkey = Valkey(root / "valkey", free_port(), root / "valkey.log")

    def stop() -> None:
        valkey.stop()
        postgres.stop()
        shutil.rmtree(root, ignore_errors=True)

    atexit.register(stop)
    postgres.start()
    valkey.start()
    (root / "var" / "static").mkdir(parents=True)  # WhiteNoise warns where it is missing
    os.environ.update(
        STOA_TEST_SERVERS=str(root),
        # The superuser: tests make databases, and take the lesser roles with SET ROLE.
        DATABASE_URL=postgres.url("postgres"),
        BROKER_URL=valkey.url,
        STOA_SECRET_KEY="tests",
        STOA_KEY_PEPPER="tests",
        STOA_MASTER_KEY=MASTER_KEY,
        STOA_KMS_PASSPHRASE="tests",
        STOA_VAR_DIR=str(root / "var"),
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        maker = subprocess.Popen([sys.executable, "-m", "tests.template"], cwd=config.rootpath)
        atexit.register(maker.wait)  # before the servers stop
        atexit.register(maker.kill)


# Where compiled files are not to be kept, each of hundreds of processes would compile anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "STOA_TEST_SERVERS" not in os.environ:
    _start()
# Parallel workers share the broker, not their hints; and the machine, not their engines: an agent
# ends whatever runs under a user id of its range that nobody claims.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["STOA_QUEUE"] = f"tests-{_WORKER}"
_NUMBER = int(_WORKER.removeprefix("gw")) + 1 if _WORKER.startswith("gw") else 0
os.environ["STOA_AGENT_FIRST_UID"] = str(200_000 + _NUMBER * 500_000)
