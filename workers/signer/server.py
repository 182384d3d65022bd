"""The socket: one thread for each connection, one question at a time, peers by their user id."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import socketserver
import stat
import struct
import threading
from pathlib import Path
from typing import BinaryIO, cast

from workers.signer.answering import Signer
from workers.signer.memory import FilesError, open_files
from workers.signer.settings import Settings

log = logging.getLogger(__name__)

MAX_LINE = 1 << 16
IDLE_S = 60.0
_PEER = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)


class _Handler(socketserver.StreamRequestHandler):
    timeout = IDLE_S
    server: "Server"

    def handle(self) -> None:
        uid = _peer(cast(socket.socket, self.request))
        if uid not in self.server.peers:
            log.warning("user %d may not ask", uid)
            self._say({"refused": "peer"})
            return
        # A timeout, a reset, an end: whoever asked is gone, and nothing is left to do.
        with contextlib.suppress(OSError):
            while line := cast(BinaryIO, self.rfile).readline(MAX_LINE + 1):
                if len(line) > MAX_LINE or not line.endswith(b"\n"):
                    self._say({"refused": "malformed"})
                    return
                self._say(self.server.answer(line))

    def _say(self, answer: dict[str, object]) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingUnixStreamServer):
    """Raises FilesError where its files are not right, or another signer has them."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, settings: Settings) -> None:
        settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._alone = _lock(settings.directory)
        key, self._memory = open_files(settings.directory)
        self._signer = Signer(settings.name, key, self._memory, settings.directory)
        self._turn = threading.Lock()
        self.peers = settings.peers
        self._path = settings.socket
        _make_room(settings.socket)
        super().__init__(str(settings.socket), _Handler)
        log.info("%s on %s", self._signer.vkey({})["vkey"], settings.socket)

    def server_bind(self) -> None:
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)
        if self.peers - {os.geteuid(), 0}:
            # Others may connect, and are asked for their user id.
            os.chmod(self._path, 0o666)

    def answer(self, line: bytes) -> dict[str, object]:
        with self._turn:
            return self._signer.answer(line)

    def server_close(self) -> None:
        super().server_close()
        with self._turn:
            self._path.unlink(missing_ok=True)
            self._memory.close()
        os.close(self._alone)


def _peer(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(raw)[1])


def _lock(directory: Path) -> int:
    """Held for as long as the process lives: two signers of one memory could fork a log."""
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise FilesError(f"another signer uses {directory}") from None
    return handle


def _make_room(path: Path) -> None:
    """Takes away the socket that a killed signer left; the lock says that it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FilesError(f"{path} is there and no socket")
        path.unlink()
