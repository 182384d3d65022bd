"""The database that the workers of a parallel run copy: migrated once instead of by each of them.

python -m tests.template
"""

import os
import sys
import time
from pathlib import Path

NAME = "stoa_template"
LONGEST_S = 300.0


def _file() -> Path:
    return Path(os.environ["STOA_TEST_SERVERS"]) / "template"


def wait() -> str:
    """Its name, once it is there; none where it could not be made, or nobody makes it."""
    deadline = time.monotonic() + LONGEST_S
    while not _file().exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _file().read_text() if _file().exists() else ""


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "platform"), str(root)]
    os.environ["DJANGO_SETTINGS_MODULE"] = "controlplane.settings"
    made = ""
    try:
        import django

        django.setup()
        from django.db import connection

        connection.settings_dict["OPTIONS"].pop("pool")  # which would stay connected
        connection.settings_dict["TEST"]["NAME"] = NAME
        connection.creation.create_test_db(verbosity=0, autoclobber=True)
        connection.close()  # nobody may be connected to what is copied
        made = NAME
    finally:
        done = _file().with_suffix(".new")
        done.write_text(made)
        done.replace(_file())


if __name__ == "__main__":
    main()
