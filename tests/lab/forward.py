"""A port of ours that leads to one that a host of the lab can reach."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.host import Host
from tests.lab.spaces import NETWORK, within

_BLOCK = 1 << 16


@contextmanager
def forwarded(host: Host, address: str, port: int) -> Iterator[int]:
    """Connections to the port of 127.0.0.1 that it yields go on from `host` to `address`."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        accepting = threading.Thread(
            target=_accept, args=(listener, host, address, port), daemon=True
        )
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket, host: Host, address: str, port: int) -> None:
    while True:
        try:
            here, _ = listener.accept()
        except OSError:
            return  # it was closed
        try:
            there = within(host.init, lambda: socket.socket(socket.AF_INET), NETWORK)
            there.settimeout(10)
            there.connect((address, port))
            there.settimeout(None)
        except OSError:
            here.close()
            continue
        for pair in ((here, there), (there, here)):
            threading.Thread(target=_pipe, args=pair, daemon=True).start()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_BLOCK):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()
