"""`stoa-signer`: signs the heads of logs and the manifests of bundles until it is told to stop."""

import logging
import signal
import sys
import threading

from workers.signer.memory import FilesError
from workers.signer.server import Server
from workers.signer.settings import SettingError, Settings


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        server = Server(Settings.from_environment())
    except (SettingError, FilesError, OSError) as error:
        sys.exit(f"stoa-signer: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        # From another thread: `shutdown` waits for the loop that the handler interrupts.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
