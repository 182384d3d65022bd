"""More clients than there is room for: the idle make room, who is served stays."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.limits import Limits
from tests.gateway.rig import KEY, Rig
from tests.gateway.test_abuse import GET, HEAD, chat
from tests.gateway.wire import Connection

ROOM = 20


@pytest.fixture
def narrow() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        rig = Rig(Path(folder), Limits(connections=ROOM))
        rig.key()
        rig.endpoint("tiny", [rig.engine("ep_tiny")])
        yield rig
        rig.stop()


def gone(connection: Connection) -> bool:
    try:
        connection.send(GET)
        return connection.response().status != 200
    except (ConnectionError, EOFError):
        return True


def test_the_longest_idle_make_room(narrow: Rig) -> None:
    with ExitStack() as stack:

        def come(raw: bytes = b"") -> Connection:
            connection = stack.enter_context(narrow.connect())
            connection.send(raw)
            return connection

        busy = [come(chat("tokens=30;delay=0.05", stream=True)) for _ in range(5)]
        for connection in busy:
            connection.head()
        sending = come(HEAD + b"content-length: 62\r\n\r\n{")
        narrow.until(lambda: any(each.asking for each in narrow.server.context.clients))
        idle = []
        for at in range(ROOM - len(busy) - 1):
            if at == 7:
                time.sleep(0.02)  # the clock that tells them apart has milliseconds
            idle.append(come(GET))
            assert idle[-1].response().status == 200
        for _ in range(3):
            assert come(GET).response().status == 200
        for connection in idle[7:]:
            connection.send(GET)
            assert connection.response().status == 200
        assert sum(map(gone, idle[:7])) >= 3
        for connection in busy:
            connection.read_until(b"[DONE]")
        sending.send(b'"model":"tiny","messages":[{"role":"user","content":"open"}]}')
        assert sending.response().status == 200


def test_who_only_begins_to_ask_goes_before_who_is_served(narrow: Rig) -> None:
    with ExitStack() as stack:
        begun = [stack.enter_context(narrow.connect()) for _ in range(ROOM)]
        for connection in begun:
            connection.send(b"GET / HT")
        narrow.until(lambda: sum(each.asking for each in narrow.server.context.clients) == ROOM)
        assert narrow.get("/v1/models").status == 200
        assert 0 < sum(each.asking for each in narrow.server.context.clients) < ROOM


def test_where_all_are_served_nobody_comes_in(narrow: Rig) -> None:
    with ExitStack() as stack:
        busy = [stack.enter_context(narrow.connect()) for _ in range(ROOM)]
        for connection in busy:
            connection.send(chat("tokens=500;delay=0.05", stream=True))
            connection.head()
        with narrow.connect() as late, pytest.raises((ConnectionError, EOFError)):
            late.get("/v1/models", key=KEY)
            late.response()
        assert narrow.server.context.metrics.turned_away == 1
        busy[0].close()
        narrow.until(lambda: len(narrow.server.context.clients) < ROOM)
        assert narrow.get("/v1/models").status == 200


@pytest.mark.parametrize(("hard", "found"), [(2500, 1000), (700, 100)])
def test_the_room_is_what_the_system_gives(hard: int, found: int) -> None:
    program = (
        "import resource\nfrom gateway import crowd\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))\n"
        "print(crowd.room(20_000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    room, soft = map(int, done.stdout.split())
    assert (room, soft) == (found, hard)
