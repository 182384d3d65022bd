"""The benchmarks' own arithmetic: a figure is worth what its parsers are."""

import os
import socket
import threading
import time

import pytest

from tests.benchmarks.peers import openloop, wrk
from tests.benchmarks.peers.arithmetic import Findings, number, slope, table
from tests.benchmarks.peers.processes import cpu_s, family, rss_bytes
from tests.benchmarks.peers.upstream import IDLE, MODEL, question
from tests.benchmarks.peers.wrk import MARK, Request

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_ratio_is_taken_round_by_round() -> None:
    found = Findings()
    for ours, theirs in ((10.0, 5.0), (90.0, 30.0), (12.0, 6.0)):
        found.add("cpu", "ours", ours)
        found.add("cpu", "nginx", theirs)
    assert found.ratio("cpu", "ours", "nginx") == 2.0
    assert found.median("cpu", "ours") == 12.0
    assert found.median("cpu", "litellm") is None
    assert found.ratio("cpu", "ours", "litellm") is None


def test_a_slope_is_that_of_the_line() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert slope([(1.0, 5.0)]) == slope([(1.0, 5.0), (1.0, 9.0)]) == 0.0


def test_a_table_is_flush() -> None:
    said = table(["", "us"], [["nginx", number(18.24)], ["ours", number(1234.0)]])
    assert said.splitlines() == ["          us", "-----  -----", "nginx   18.2", "ours   1,234"]
    assert [number(value) for value in (None, 0.123, -2.5)] == ["-", "0.12", "-2.50"]


def test_cpu_and_memory_are_read_past_any_name() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 " + f"{ticks} {2 * ticks} 5 5 20 0 1 0 9"
    assert cpu_s(stat) == 3.0
    assert rss_bytes("100 25 10 1 0 1 0") == 25 * os.sysconf("SC_PAGE_SIZE")
    assert os.getpid() in family([os.getppid()])


def test_wrk_says_what_was_answered() -> None:
    result = wrk.parse(
        'Running 2s test\n  10 requests in 2s\n{"requests":10,"us":2000000,"errors":1}\n'
    )
    assert (result.requests, result.errors, result.per_s) == (10, 1, 5.0)


def test_a_request_is_the_same_from_wrk_and_from_us() -> None:
    request = Request(question("hello"), {"Authorization": f"Bearer {MARK}"})
    head, _, body = request.raw().partition(b"\r\n\r\n")
    assert body.decode() == request.body and MODEL in request.body and IDLE not in request.body
    assert f"Content-Length: {len(body)}".encode() in head
    script = request.script()
    assert "[==[Authorization]==]" in script and request.body in script
    assert "function request" not in script


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (ANSWER, True),
        (ANSWER[:-1], False),
        (b"HTTP/1.1 200 OK\r\nContent-Len", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_known_to_be_whole(answer: bytes, whole: bool) -> None:
    assert openloop.complete(answer) is whole


class Slow(threading.Thread):
    """A server of one connection that takes the first request's time for all that follow."""

    def __init__(self, stall_s: float) -> None:
        super().__init__(daemon=True)
        self.stall_s = stall_s
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(65536)
            time.sleep(self.stall_s)
            connection.sendall(ANSWER)
            while connection.recv(65536):
                connection.sendall(ANSWER)


def test_a_stall_is_paid_by_all_who_came_in_the_meantime() -> None:
    server = Slow(stall_s=0.3)
    server.start()
    request = Request("{}").raw()
    found = openloop.run(server.port, request, 100, 0.4, connections=1, seed=4)
    server.join(5)
    server.listener.close()
    assert found.errors == 0
    # Who was due 0.1 s after the start waited for most of the stall.
    assert max(found.seconds) > 0.1 and len(found.seconds) > 15
