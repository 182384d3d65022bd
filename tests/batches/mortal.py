"""Runners of batches, one after the other, each killed at another place; the last one lives on.

    python -m tests.batches.mortal reading.step:2 lines.claim+ …

A place is a function and how many calls of it a runner outlives: `+` after the call that does
something, else before it. Django is loaded once, and each runner is a fork.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import django
from django.core.management import call_command

DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
FENCED = 70  # a machine so slow that a runner gave its leases up


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
        while _life(modules[module], function, int(count or 1), after=place.endswith("+")):
            pass
        print(f"killed at {place}", flush=True)
    call_command("run_batches")


def _life(module: Any, function: str, count: int, *, after: bool) -> bool:
    """One runner's. True where it was fenced off instead of being killed."""
    child = os.fork()
    if not child:
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        setattr(module, function, _deadly(getattr(module, function), count, after=after))
        call_command("run_batches")
        os._exit(1)
    _, status = os.waitpid(child, 0)
    fenced = os.WIFEXITED(status) and os.WEXITSTATUS(status) == FENCED
    assert fenced or os.WTERMSIG(status) == signal.SIGKILL, status
    return fenced


def _deadly(real: Callable[..., Any], count: int, *, after: bool) -> Callable[..., Any]:
    calls = 0

    def call(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if not after and calls >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*args, **given)
        if after and (found or found is None):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return call


if __name__ == "__main__":
    main()
