"""Requests at a given rate whatever the answers do: one thread, one epoll, few microseconds each.

A request's latency counts from the moment it was due, so that a server that stalls pays for
everybody who would have come in the meantime. Arrivals are a Poisson process: users do not queue.
"""

import ctypes
import gc
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_LIBC = ctypes.CDLL(None, use_errno=True)
_WARM_S = 0.5  # the first answers of fresh connections count for nothing
_PATIENCE_S = 10.0
HEAD_END = b"\r\n\r\n"


class _Timer:
    """A timer with a file descriptor; epoll's own timeout knows only milliseconds."""

    def __init__(self) -> None:
        self.fd = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, in_s: float) -> None:
        nanoseconds = max(1, int(in_s * 1e9))
        times = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, 1_000_000_000))
        _LIBC.timerfd_settime(self.fd, 0, times, None)

    def close(self) -> None:
        os.close(self.fd)


def complete(answer: bytes) -> bool:
    """Whether a whole HTTP answer is there."""
    head, ended, body = answer.partition(HEAD_END)
    if not ended:
        return False
    lower = head.lower()
    _, found, rest = lower.partition(b"content-length:")
    if found:
        return len(body) >= int(rest.partition(b"\r\n")[0])
    return b"chunked" in lower and body.endswith(b"0\r\n\r\n")


@dataclass
class Latencies:
    asked_per_s: float
    seconds: list[float] = field(default_factory=list)
    answers: int = 0  # good ones, those of the warming up too
    errors: int = 0

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        if not ordered:
            return float("nan")
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e3


class _Connection:
    __slots__ = ("answer", "due", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.answer = b""
        self.due = 0.0


def run(
    port: int,
    request: bytes,
    per_s: float,
    seconds: float,
    *,
    connections: int = 128,
    seed: int = 1,
) -> Latencies:
    """Raises OSError when nobody listens."""
    poll, timer = select.epoll(), _Timer()
    poll.register(timer.fd, select.EPOLLIN)
    run = _Run(port, poll, timer, request, Latencies(per_s))
    try:
        for _ in range(connections):
            run.add()
        with _no_collection():
            _drive(run, per_s, seconds, random.Random(seed))
    finally:
        for line in run.lines.values():
            line.socket.close()
        poll.close()
        timer.close()
    return run.found


@dataclass
class _Run:
    port: int
    poll: select.epoll
    timer: _Timer
    request: bytes
    found: Latencies
    lines: dict[int, _Connection] = field(default_factory=dict)
    idle: list[_Connection] = field(default_factory=list)
    running: dict[int, _Connection] = field(default_factory=dict)
    waiting: deque[float] = field(default_factory=deque)
    counts_from: float = 0.0

    def ask(self, due: float) -> None:
        if not self.idle:
            self.waiting.append(due)
            return
        line = self.idle.pop()
        line.due = due
        line.socket.send(self.request)
        self.running[line.socket.fileno()] = line

    def heard(self, fd: int) -> None:
        line = self.lines[fd]
        try:
            data = line.socket.recv(65536)
        except ConnectionError:
            data = b""
        line.answer = line.answer + data if line.answer else data
        if data and not complete(line.answer):
            return
        now, due, asked = time.monotonic(), line.due, self.running.pop(fd, None) is not None
        good = line.answer.startswith(b"HTTP/1.1 200") and bool(data)
        line.answer = b""
        if data:
            self.idle.append(line)
        else:
            self._replace(line)
        if self.waiting:
            self.ask(self.waiting.popleft())
        if good:
            self.found.answers += 1
            if due >= self.counts_from:
                self.found.seconds.append(now - due)
        elif asked:
            self.found.errors += 1

    def _replace(self, line: _Connection) -> None:
        """It was closed, as servers do with what is idle."""
        del self.lines[line.socket.fileno()]
        if line in self.idle:
            self.idle.remove(line)
        line.socket.close()
        self.add()

    def add(self) -> None:
        line = _Connection(self.port)
        self.lines[line.socket.fileno()] = line
        self.poll.register(line.socket.fileno(), select.EPOLLIN)
        self.idle.insert(0, line)


def _drive(run: _Run, per_s: float, seconds: float, chance: random.Random) -> None:
    began = time.monotonic()
    run.counts_from = began + min(_WARM_S, seconds / 4)
    end, due = began + seconds, began
    while due < end or run.running:
        now = time.monotonic()
        while due <= now and due < end:
            run.ask(due)
            due += chance.expovariate(per_s)
        if now > end + _PATIENCE_S:
            break
        run.timer.set(due - now if due < end else _PATIENCE_S)
        for fd, _ in run.poll.poll(_PATIENCE_S):
            if fd != run.timer.fd:
                run.heard(fd)
    run.found.errors += len(run.running) + len(run.waiting)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A collector's pause would be measured as the server's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
