"""An engine that nobody knew: one class, and the agent starts, proves, drains and ends it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from controlplane.endpoints import engine_args
from controlplane.endpoints.errors import Invalid
from controlplane.fleet import engines as kinds
from controlplane.fleet import wire
from controlplane.fleet.engines.base import Ask, Can, Engine, Figures, Shape, Value, Way
from controlplane.fleet.engines.base import Place as Inside
from controlplane.fleet.engines.rules import Whole, checked
from tests.agent.fake_runner import wait_until
from tests.agent.node import spec
from workers.agent import engines, leaving, walls
from workers.agent.engines import Place
from workers.agent.environment import Environment

# It answers on a unix socket, and says in /status how many it has to answer.
PROGRAM = """
import http.server, json, os, socketserver, sys
from pathlib import Path

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    taken = 0
    def do_GET(self):
        told = {"taken": Handler.taken, "settings": SETTINGS, "quiet": os.environ["TOY_QUIET"]}
        self.say(told if self.path == "/status" else {})
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Handler.taken += 1
        self.say({"choices": [{"text": "a"}]})
        Handler.taken -= 1
    def say(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "somebody"
    def log_message(self, *args):
        pass

SETTINGS = json.loads(Path(sys.argv[2]).read_text())
Server(sys.argv[1], Handler).serve_forever(poll_interval=0.05)
"""


class Toy(Engine):
    name = "toy"
    ways = frozenset({Way.PROCESS})
    can = Can()
    metrics_path = "/status"

    def environment_for(self, device_kind: str) -> str:
        return "toy"

    def arguments(self, spec: wire.ReplicaSpec, place: Inside) -> list[str]:
        return [str(place.socket), str(place.home / "toy.json")]

    def variables(self, spec: wire.ReplicaSpec, place: Inside) -> dict[str, str]:
        return {"TOY_QUIET": "1"}

    def files(self, spec: wire.ReplicaSpec, place: Inside) -> dict[Path, str]:
        size = spec.engine_args.get("size", 1)
        return {place.home / "toy.json": f'{{"size": {size}}}'}

    def health_path(self, spec: wire.ReplicaSpec) -> str:
        return "/alive"

    def busy(self, ask: Ask, connected: Callable[[], int | None]) -> bool | None:
        found = self.figures(ask(self.metrics_path)[1]).running
        return None if found is None else found > 0

    def figures(self, body: bytes) -> Figures:
        return Figures(running=int(body.partition(b'"taken": ')[2][:1]))

    def check(self, args: Mapping[str, object], shape: Shape) -> dict[str, Value]:
        return checked(args, {"size": Whole(1, 9)}, {})


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path, for unix sockets; with the toy's program where its model lies."""
    root = Path(tempfile.mkdtemp(prefix="stoa-t-", dir="/tmp"))
    root.chmod(0o755)
    (root / "model").mkdir()
    program = root / "model" / "toy.py"
    program.write_text(PROGRAM)
    for path in (root / "model", program):
        path.chmod(0o755)
    toy = Toy()
    monkeypatch.setattr(Toy, "entry", (str(program),))
    monkeypatch.setitem(kinds.ENGINES, "toy", toy)
    yield root
    shutil.rmtree(root)


def test_its_class_is_all_that_is_new(root: Path) -> None:
    python = Path(sys.executable)
    environment = Environment("toy", python, python.parents[1])
    wish = spec(str(root / "model"), engine="toy", engine_args={"size": 7})
    place = Place(
        environment=environment,
        run_directory=root / "run",
        cache=root / "cache",
        log=root / "logs" / "toy.log",
        model=root / "model",
        survey=walls.survey([environment.root, environment.base, root / "model"]),
    )
    running = engines.start(wish, place)
    try:
        wait_until(lambda: engines.listening(running) or not engines.alive(running), 60)
        assert engines.alive(running), engines.exit_reason(running)
        assert running.health == "/alive"
        assert engines.probe(running, wish) is None
        status, said = engines.call(running.socket, "/status", None, "", 10)
        assert (status, said) == (200, b'{"taken": 0, "settings": {"size": 7}, "quiet": "1"}')
        assert leaving.busy(running) is False
        leaving.close(running)
        assert not engines.listening(running)
        assert leaving.busy(running) is False  # the agent still reaches it
    finally:
        engines.stop(running, 2.0)
    assert not engines.alive(running)
    assert not os.path.exists(running.directory)


def test_the_control_plane_asks_it_too(root: Path) -> None:
    assert engine_args.validate({"size": 3}, 1, engine="toy") == {"size": 3}
    with pytest.raises(Invalid, match="expected 1 to 9") as error:
        engine_args.validate({"size": 10}, 1, engine="toy")
    assert error.value.field == "engine_args.size"
