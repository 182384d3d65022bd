"""An engine that is to stop or to sleep: what it has to answer still, and that nobody new comes."""

import contextlib
import http.client
import json
import re
from pathlib import Path

from workers.agent.engines import Running, call

CLOSED = "e.sock"  # its socket's name then, no longer than the one before: for the agent alone
TIMEOUT_S = 5.0
_REQUESTS = re.compile(rb"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", re.MULTILINE)


def busy(running: Running) -> bool | None:
    """Whether it has requests to answer; None: it does not say.

    Its server counts those that it has taken and not wholly answered, its core those it computes.
    """
    path = running.socket if Path(running.socket).exists() else str(_closed(running))
    with contextlib.suppress(OSError, http.client.HTTPException):
        _, answer = call(path, "/load", None, "", TIMEOUT_S)
        with contextlib.suppress(ValueError, TypeError, KeyError):  # another engine's
            if json.loads(answer)["server_load"] > 0:
                return True
        status, answer = call(path, "/metrics", None, "", TIMEOUT_S)
        if status == 200:
            return any(float(count) > 0 for count in _REQUESTS.findall(answer))
    return None


def close(running: Running) -> None:
    """Let nobody connect any more; what is open goes on. Safe to repeat.

    An engine that shuts down still accepts, and answers with nothing; who finds no socket goes
    elsewhere.
    """
    with contextlib.suppress(FileNotFoundError):
        Path(running.socket).rename(_closed(running))


def _closed(running: Running) -> Path:
    return Path(running.socket).with_name(CLOSED)
