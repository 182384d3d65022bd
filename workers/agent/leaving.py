"""An engine that is to stop or to sleep: what it has to answer still, and that nobody new comes."""

import contextlib
from pathlib import Path

from controlplane.fleet import engines as kinds
from workers.agent.engines import Running, call

CLOSED = "e.sock"  # its socket's name then, no longer than the one before: for the agent alone
TIMEOUT_S = 5.0
_CONNECTED = "03"  # a state of /proc/net/unix


def busy(running: Running) -> bool | None:
    """Whether it has requests to answer; None: it does not say."""
    path = running.socket if Path(running.socket).exists() else str(_closed(running))
    return kinds.of(running.engine).busy(
        lambda target: call(path, target, None, "", TIMEOUT_S), lambda: connected(running)
    )


def connected(running: Running) -> int | None:
    """Connections that are open to its socket, idle ones too; None: nobody can say."""
    try:
        lines = Path(f"/proc/{running.pid}/net/unix").read_text().splitlines()
    except OSError:
        return None
    # A socket that was accepted bears the name that its listener was bound to, whatever it is now.
    found = [line.split() for line in lines if line.endswith(f" {running.socket}")]
    return sum(fields[5] == _CONNECTED for fields in found)


def close(running: Running) -> None:
    """Let nobody connect any more; what is open goes on. Safe to repeat.

    An engine that shuts down still accepts, and answers with nothing; who finds no socket goes
    elsewhere.
    """
    with contextlib.suppress(FileNotFoundError):
        Path(running.socket).rename(_closed(running))


def _closed(running: Running) -> Path:
    return Path(running.socket).with_name(CLOSED)
