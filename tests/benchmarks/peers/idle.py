"""Many streams that stay open and say nothing: what each costs in memory."""

import select
import socket
import time
from dataclasses import dataclass, field

AT_ONCE = 100  # streams being opened at the same time
_PATIENCE_S = 10.0


class TooSlow(Exception):
    """Not all streams were open in time; the message says how many were."""


@dataclass
class Streams:
    """Open streams; close them to end them."""

    open: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        for stream in self.open:
            stream.close()
        self.open.clear()


def hold(port: int, request: bytes, count: int, within_s: float) -> Streams:
    """Raises TooSlow, or OSError."""
    poll, streams = select.epoll(), Streams()
    deadline = time.monotonic() + within_s
    opening: dict[int, tuple[socket.socket, bytes]] = {}
    try:
        while len(streams.open) < count:
            while len(opening) < AT_ONCE and len(opening) + len(streams.open) < count:
                stream = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
                stream.sendall(request)
                opening[stream.fileno()] = (stream, b"")
                poll.register(stream.fileno(), select.EPOLLIN)
            for fd, _ in poll.poll(1.0):
                stream, heard = opening[fd]
                data = stream.recv(65536)
                heard += data
                if not data or not heard.startswith(b"HTTP/1.1 200"[: len(heard)]):
                    raise TooSlow(f"stream {len(streams.open)} was answered {heard[:200]!r}")
                opening[fd] = (stream, heard)
                if b"data:" in heard:
                    poll.unregister(fd)
                    del opening[fd]
                    streams.open.append(stream)
            if time.monotonic() > deadline:
                raise TooSlow(f"{len(streams.open)} of {count} streams open in {within_s:.0f} s")
    except BaseException:
        streams.close()
        raise
    finally:
        for stream, _ in opening.values():
            stream.close()
        poll.close()
    return streams
