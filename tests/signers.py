"""A real signer for tests that need signatures: its own server and files, in this process."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.test import override_settings

from workers.signer.server import Server
from workers.signer.settings import Settings


@contextmanager
def running(directory: Path | None = None) -> Iterator[Path]:
    """Serves, and has the settings name it; the folder with its files, kept if it was given."""
    with tempfile.TemporaryDirectory(prefix="stoa-signer-") as fresh:
        home = directory or Path(fresh)
        socket = Path(fresh) / "socket"  # short: a socket's name has 107 bytes
        with Server(
            Settings(socket, home, settings.LOG_ORIGIN, frozenset([os.geteuid()]))
        ) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                with override_settings(SIGNER_SOCKET=str(socket)):
                    yield home
            finally:
                server.shutdown()
                thread.join()
