"""Turns the control plane's one signal into a task. A hint may be lost: the sweep repairs."""

import logging
from typing import Any

from kombu.exceptions import OperationalError

from workers import tasks

log = logging.getLogger(__name__)


def on_changed(endpoint_id: str, **_: Any) -> None:
    """Never raises and never waits long: the wish is written, and that is what counts."""
    try:
        tasks.reconcile.delay(endpoint_id)
    except (OperationalError, OSError) as error:
        log.warning("no hint for %s, the sweep will find it: %s", endpoint_id, error)
