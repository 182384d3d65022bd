"""Turns the control plane's one signal into a task. A hint may be lost: the sweep repairs."""

import logging
import time
from typing import Any

from kombu.exceptions import OperationalError

from workers import tasks

log = logging.getLogger(__name__)

# After a failure nobody else waits for the broker for a while.
PAUSE_S = 5.0
_silent_until = 0.0


def on_changed(endpoint_id: str, **_: Any) -> None:
    """Never raises and never waits long: the wish is written, and that is what counts."""
    global _silent_until
    if time.monotonic() < _silent_until:
        return
    try:
        tasks.reconcile.delay(endpoint_id)
    except (OperationalError, OSError) as error:
        _silent_until = time.monotonic() + PAUSE_S
        log.warning("no hint for %s, the sweep will find it: %s", endpoint_id, error)
