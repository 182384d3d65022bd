"""Runners of batches, one after the other, each killed at another place; the last one lives on.

    python -m tests.batches.mortal reading.step:2 lines.claim+ …

A place is a function and how many calls of it a runner outlives: `+` after the call that does
something, else before it. Each is reached for certain, whatever is slow: a runner that is to take
an answered line over begins once the books have the answer, and one that is not to finish lines
finds no gateway. Django is loaded once, and each runner is a fork.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
FENCED = 70  # a machine so slow that a runner gave its leases up
TAKES_OVER = "lines._finishes"
NO_GATEWAY = (TAKES_OVER, "lines.put_back")  # so that lines are left, and one is put back
WAIT_S = 120.0


def main() -> None:
    django.setup()
    from controlplane.batches import copying, lines, reading, services, writing
    from workers.batching import sending

    modules = {
        "copying": copying,
        "lines": lines,
        "reading": reading,
        "sending": sending,
        "services": services,
        "writing": writing,
    }
    reading._STRETCH, writing._LINES = 2_000, 16
    for place in sys.argv[1:]:
        name, _, count = place.removesuffix("+").partition(":")
        module, _, function = name.partition(".")
        after = place.endswith("+")
        while _life(modules[module], function, int(count or 1), after=after):
            pass
        print(f"killed at {place}", flush=True)
    call_command("run_batches")


def _answered() -> None:
    """A dead runner's line was answered whole, and the books know."""
    from billing.models import UsageInbox
    from controlplane.batches.models import Line

    deadline = time.monotonic() + WAIT_S
    while True:
        ids = [line.request_id for line in Line.objects.filter(state="running")]
        if UsageInbox.objects.filter(request_id__in=ids, finish="complete").exists():
            return
        assert time.monotonic() < deadline, f"no answer to any of {ids} is in the books"
        time.sleep(0.05)


def _life(module: Any, function: str, count: int, *, after: bool) -> bool:
    """One runner's. True where it was fenced off instead of being killed."""
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        name = f"{module.__name__.rpartition('.')[2]}.{function}"
        if name == TAKES_OVER:
            _answered()
        if name in NO_GATEWAY:
            nobody = socket.socket()  # bound, and not listening: who connects is refused
            nobody.bind(("127.0.0.1", 0))
            settings.BATCH_GATEWAY_URL = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        setattr(module, function, _deadly(getattr(module, function), count, after=after))
        call_command("run_batches")
        os._exit(1)
    _, status = os.waitpid(child, 0)
    fenced = os.WIFEXITED(status) and os.WEXITSTATUS(status) == FENCED
    assert fenced or os.WTERMSIG(status) == signal.SIGKILL, status
    return fenced


def _deadly(real: Callable[..., Any], count: int, *, after: bool) -> Callable[..., Any]:
    from workers.batching import sending

    calls = 0

    def call(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if not after and calls >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **given)
        refused = isinstance(found, sending.Reply) and found.status != 200
        if after and not refused and (found or found is None):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return call


if __name__ == "__main__":
    main()
