"""The lab itself: what is apart, what is joined, what is lost, what is seen, and what is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.stoa import until
from tests.lab.host import Host, LabError
from tests.lab.lab import SWITCH, Lab, lab
from tests.lab.marks import needs_lab
from workers.agent import kin

pytestmark = [needs_lab, pytest.mark.xdist_group("lab")]

PORT = 4000
ECHO = f"""
import socket
with socket.create_server(("", {PORT})) as server:
    print("listens", flush=True)
    while True:
        taken, _ = server.accept()
        with taken:
            taken.sendall(taken.recv(100))
"""


def ask(where: str, port: int = PORT, within_s: float = 2.0) -> str:
    """A program that gets an answer from the echo, or says what kept it."""
    return f"""
import socket
try:
    with socket.create_connection(({where!r}, {port}), timeout={within_s}) as line:
        line.sendall(b"heard")
        print(line.recv(100).decode())
except OSError as error:
    print(type(error).__name__, error)
"""


def python(host: Host, program: str) -> str:
    return host.run([sys.executable, "-c", program]).strip()


@pytest.fixture
def net() -> Iterator[Lab]:
    with lab() as net:
        yield net


def echo(host: Host) -> subprocess.Popen[bytes]:
    """A server on that host, which listens when this returns."""
    program = host.start([sys.executable, "-c", ECHO], output=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"listens\n"
    return program


def test_hosts_have_nothing_in_common_but_the_network(net: Lab) -> None:
    a, b = net.host("a", own=("/run", "/tmp")), net.host("b", own=("/run", "/tmp"))
    assert a.run(["hostname"]) == "a\n"
    assert a.run(["sh", "-c", "echo mine > /tmp/note; cat /tmp/note"]) == "mine\n"
    assert a.file("/tmp/note").read_text() == "mine\n"
    with pytest.raises(LabError, match="No such file"):
        b.run(["cat", "/tmp/note"])
    assert not Path("/tmp/note").exists()
    server = echo(b)
    assert int(a.run(["sh", "-c", "ls /proc | grep -c '^[0-9]'"])) < 8  # nobody else's
    assert python(a, ask("b")) == "heard"  # by its name
    assert python(a, ask("127.0.0.1")).startswith("ConnectionRefusedError")
    b.kill()
    assert not b.up
    assert server.returncode == -signal.SIGKILL


def test_what_is_cut_is_silent_and_comes_back(net: Lab) -> None:
    a, b, c = (net.host(name) for name in "abc")
    echo(b)
    net.cut(b)
    assert python(a, ask("b")).startswith(("TimeoutError", "OSError"))
    net.heal(b)
    until(lambda: python(a, ask("b")) == "heard", what="it is back")
    net.cut(a, b)
    assert python(a, ask("b")).startswith(("TimeoutError", "OSError"))
    assert python(c, ask("b")) == "heard"
    net.heal(a, b)
    until(lambda: python(a, ask("b")) == "heard", what="it is back")


def test_everything_that_goes_out_is_recorded(net: Lab) -> None:
    """Also to where nothing is, of any program, while the cable is cut, and names asked for."""
    a, b = net.host("a"), net.host("b")
    echo(b)
    assert python(a, ask("b")) == "heard"
    assert python(a, ask("192.0.2.7", 443)).startswith("OSError")  # refused by the switch
    assert python(a, ask("fd00::7", 443)).startswith("OSError")
    python(a, "import socket\nsocket.socket(2, 2).sendto(b'x', ('192.0.2.8', 123))")
    assert python(a, ask("telemetry.example")).startswith("gaierror")
    net.cut(a)
    python(a, ask("b", within_s=0.2))

    def seen() -> set[tuple[str, str, int, str]]:
        return {(one.protocol, one.address, one.port, one.name) for one in net.recorder.sent(a)}

    expected = {
        ("tcp", b.address, PORT, ""),
        ("tcp", "192.0.2.7", 443, ""),
        ("tcp", "fd00::7", 443, ""),
        ("udp", "192.0.2.8", 123, ""),
        ("dns", SWITCH, 53, "telemetry.example"),
    }
    deadline = time.monotonic() + 20
    while not expected <= seen():
        assert time.monotonic() < deadline, seen()
    assert seen() == expected
    assert [one for one in net.recorder.sent(b) if one.protocol != "tcp"] == []
    assert sum(one.address == b.address for one in net.recorder.sent(a)) == 2  # the cut one too


def test_who_sent_it_is_found_while_it_is_there(net: Lab) -> None:
    a = net.host("a")
    holds = (
        "import signal, socket\nwith socket.socket(2, 2) as s:\n s.sendto(b'', ('192.0.2.8', 123))"
    )
    a.start([sys.executable, "-c", holds + "\n signal.pause()"])
    deadline = time.monotonic() + 20
    while not net.recorder.sent(a):
        assert time.monotonic() < deadline
    (one,) = net.recorder.sent(a)
    assert "sendto" in one.program, one


OWNER = """
import sys, time
from tests.lab.lab import lab
with lab() as net:
    host = net.host("a")
    sleeper = host.start(["sleep", "1000"])
    print(net.folder, host.init, sleeper.pid, flush=True)
    time.sleep(1000)
"""


def test_nothing_is_left_of_a_lab_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        owner.kill()
    deadline = time.monotonic() + 20
    while any(kin.read(int(pid)) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with lab():  # this one removes what is left on the disk, if no other has
        assert not Path(os.fsdecode(folder)).exists()
