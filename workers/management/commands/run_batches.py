"""`run_batches`: sends the lines of batches to a gateway, until it is told to stop."""

import logging
import os
import secrets
import signal
import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from workers.batching.runner import Runner


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        runner = Runner(
            f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}",
            gateway_url=settings.BATCH_GATEWAY_URL,
            concurrency=settings.BATCH_CONCURRENCY,
            lease_s=settings.BATCH_LEASE_S,
            region=settings.BATCH_REGION,
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each line
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        runner.run()
        os._exit(0)  # threads that still wait for an answer are left: their lines are taken over
