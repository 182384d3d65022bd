"""Becoming an engine: what happens between a request to start one and its own code.

Standard library alone. The request is a dictionary that came as JSON:

    argv       what follows the engine's program, such as `vllm serve`
    entry      a plain start's program: what follows `python -I`
    env        the whole environment, not an addition
    log        a file that stdout and stderr are appended to
    directory  where the engine lives: its working directory
    isolation  see isolation.Isolation
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from . import isolation

# Marks where a start begins in a log that several may share.
STARTS = "the engine starts"


def prepare(request: dict[str, Any]) -> None:
    """Session, log, environment and walls, in this order; then the process is an engine's.

    Raises OSError, already written to the engine's log.
    """
    if os.getsid(0) != os.getpid():
        os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Opened before the uid is dropped: an engine writes its log and cannot read or replace it.
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for handle in (log, nothing):
        if handle > 2:
            os.close(handle)
    say(STARTS)
    # When memory runs out an engine goes, and neither the agent nor its standby.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    os.environ.clear()
    os.environ.update(request["env"])
    try:
        isolation.enclose(isolation.Isolation.decode(request["isolation"]))
        os.chdir(request["directory"])
    except OSError as error:
        say(f"the engine's walls could not be raised: {error}")
        raise


def say(text: str) -> None:
    """A line of ours in the engine's log."""
    print(f"stoa {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
