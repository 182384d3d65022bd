"""Containers on a real podman: their life, their walls, their door, and kill -9 between any two."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from controlplane.fleet import wire
from tests.agent.fake_runner import get, wait_until
from tests.agent.images import MIB, Site, custom
from tests.agent.podman import PROBE, Podman
from workers.agent import kin, leaving, logs, processes
from workers.agent.containers import isolation
from workers.agent.containers.driver import Driver
from workers.agent.containers.isolation import Box, Mount, WallsMissing
from workers.agent.runner import CannotStart

pytestmark = pytest.mark.xdist_group("podman")


@pytest.fixture
def site(podman: Podman) -> Iterator[Site]:
    found = Site(podman)
    try:
        yield found
    finally:
        found.close()


# --- a life ------------------------------------------------------------------------------------


def test_an_image_of_ones_own(site: Site) -> None:
    """Its command, port, path, variables and secrets; its log; its end by itself and by order."""
    site.door.given = wire.Secrets(env={"TOKEN": "it's $ecret\nwith a line", "OTHER": "two"})
    image = {"port": 8123, "command": [*site.program, "8123"], "env": {"COLOUR": "blue"}}
    wish, running = site.start(
        image={**image, "openai": False, "readiness_path": "/healthz"}, egress=["example.org:443"]
    )
    wait_until(lambda: site.runner.listening(running), 60)
    assert site.runner.probe(running, wish) is None
    found = get(running.socket, "/environment").json()
    assert found["TOKEN"] == "it's $ecret\nwith a line" and found["OTHER"] == "two"
    assert found["COLOUR"] == "blue" and found["HOME"] == "/stoa/home"
    assert found["HF_HUB_OFFLINE"] == "1"  # as every engine
    kept = json.dumps(site.podman.client.api.inspect_container(running.container))
    assert "COLOUR" in kept and "$ecret" not in kept
    on_disk = subprocess.run(
        ["grep", "-rlaF", "it's $ecret", site.podman.root, site.root], capture_output=True
    )
    assert on_disk.stdout == b""
    wait_until(lambda: "serving on 8123" in " ".join(logs.tail(running.log)))
    assert "stoa" in logs.tail(running.log)[0]

    ours = {one for one in kin.everybody() if one.uid == running.uid}
    assert ours
    site.runner.stop(running, 5.0)
    assert not site.runner.alive(running)
    assert not Path(running.directory).exists() and not Path(running.home).exists()
    assert site.driver.list(site.mark) == []
    assert not ours & set(kin.everybody())  # its user id may be another engine's by now
    site.runner.stop(running, 5.0)  # safe to repeat


def test_one_that_speaks_openai_is_proved_by_an_inference(site: Site) -> None:
    wish, running = site.start()
    wait_until(lambda: site.runner.listening(running), 60)
    assert site.runner.probe(running, wish) is None
    # What a container says reaches its log a moment later.
    wait_until(lambda: "POST /v1/completions" in Path(running.log).read_text())


def test_how_it_ended(site: Site) -> None:
    running = site.serve()
    with pytest.raises(httpx.HTTPError):
        get(running.socket, "/crash")
    wait_until(lambda: not site.runner.alive(running), 30)
    reason = site.runner.exit_reason(running)
    assert "ended with status 7" in reason
    assert "it cannot go on" in logs.tail(running.log)  # its last words are not lost

    hungry = site.serve(image={"memory_bytes": 96 * MIB})
    with pytest.raises(httpx.HTTPError):
        get(hungry.socket, "/fill")
    wait_until(lambda: not site.runner.alive(hungry), 30)
    assert "used more memory than it may" in site.runner.exit_reason(hungry)

    _, absent = site.start(image={"command": ["/no/such/program"]})
    wait_until(lambda: not site.runner.alive(absent), 30)
    assert "could not be started" in site.runner.exit_reason(absent)
    assert "/no/such/program" in site.runner.exit_reason(absent)


def test_what_cannot_be_started(site: Site) -> None:
    with pytest.raises(CannotStart, match="no image localhost/missing:1") as caught:
        site.start(image={"reference": "localhost/missing:1"})
    assert caught.value.reason == "image_not_found"
    with pytest.raises(CannotStart, match="port 3128 is that of the way out"):
        site.start(image={"port": 3128})
    site.door.given = wire.Secrets(env={"not a name": "x"})
    with pytest.raises(CannotStart, match="cannot be the name of a variable"):
        site.start()
    assert site.driver.list(site.mark) == []


def test_who_is_answered_is_waited_for(site: Site) -> None:
    running = site.serve()
    wait_until(lambda: site.runner.busy(running) is False)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(get(running.socket, "/slow?15").text))
    thread.start()
    wait_until(lambda: site.runner.busy(running) is True)
    leaving.close(running)
    assert site.runner.busy(running) is True  # and nobody new comes in
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
        late.connect(running.socket)
    thread.join()
    assert "data: 14" in said[0]
    wait_until(lambda: site.runner.busy(running) is False)


# --- walls -------------------------------------------------------------------------------------


def test_walls_from_inside(site: Site) -> None:
    running = site.serve(image={"pids": 64})
    status = get(running.socket, "/status").json()
    assert status["Uid"].split() == [str(running.uid)] * 4 and running.uid != 0
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    refused = site.inside(running, "write:/etc/x", "write:/app/x", "write:/stoa/x", "write:/x")
    assert [one["reached"] for one in refused] == [False] * 4, refused
    written = site.inside(running, "write:/stoa/home/x", "write:/tmp/x")
    assert [one["reached"] for one in written] == [True] * 2, written
    limits = site.podman.client.api.inspect_container(running.container)["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] == 256 * MIB and limits["PidsLimit"] == 64
    assert limits["NetworkMode"] == "none" and not limits["Privileged"]


def test_what_it_cannot_reach(site: Site) -> None:
    """The list of docs/containers.md, each with the proof that it is there to be reached."""
    neighbour = site.serve(organization="org_2")
    running = site.serve(organization="org_1")
    secret = site.settings.directory / "node.key"
    secret.write_text("the agent's own")
    with _listener() as port:
        database, broker = _server("DATABASE_URL"), _server("BROKER_URL")
        others = next(one for one in kin.everybody() if one.uid == neighbour.uid)
        targets = {
            "the database": f"tcp:127.0.0.1:{database}",
            "the broker": f"tcp:127.0.0.1:{broker}",
            "a port of the host": f"tcp:127.0.0.1:{port}",
            "the agent's credential": f"file:{secret}",
            "the agent's directory": f"folder:{site.settings.directory}",
            "another tenant's socket": f"unix:{neighbour.socket}",
            "its own door": f"unix:{running.socket}",
            "the engine of containers": f"unix:{site.podman.socket}",
            "another tenant's home": f"folder:{neighbour.home}",
            "another tenant's process": f"signal:{others.pid}",
        }
        host = _from_host(*targets.values())
        assert [one["reached"] for one in host] == [True] * len(targets), host
        inside = site.inside(running, *targets.values())
        assert [one["reached"] for one in inside] == [False] * len(targets), inside
    # Its own port is another's too, in a network of their own; nothing leads out of it.
    outside = ["tcp:192.0.2.1:80", "tcp:169.254.169.254:80", "tcp:10.0.0.1:443", "tcp:1.1.1.1:53"]
    assert not any(one["reached"] for one in site.inside(running, *outside))
    assert "unreachable" in site.inside(running, outside[0])[0]["said"].lower()
    with open(f"/proc/{_init(site, running)}/net/dev") as file:
        assert [line.split(":")[0].strip() for line in file.readlines()[2:]] == ["lo"]


def test_the_way_out(site: Site) -> None:
    """Nothing, but for what its wish names; which may change while it runs."""
    with _website() as place:
        wish, running = site.start(egress_networks=["127.0.0.0/8"])
        wait_until(lambda: site.runner.listening(running), 60)
        url = f"/fetch?http://{place}/"
        refused = _ask(running.socket, url)
        assert refused["status"] == 403, refused
        site.runner.allow(running, msgspec.structs.replace(wish, egress=[place]))
        found = _ask(running.socket, url)
        assert (found["status"], found["body"]) == (200, "the outside")
        assert site.inside(running, f"tcp:{place}")[0]["reached"] is False  # by no other way
        wait_until(lambda: len(site.runner.reached(running)) == 2, 30)
        told = {one.outcome: one for one in site.runner.reached(running)}
        assert told["reached"].destination == told["not_allowed"].destination == place


def test_a_container_without_its_walls_ends(site: Site) -> None:
    """Looked at from outside, whatever the engine of containers said."""
    made = site.podman.client.containers.create(PROBE, network_mode="none", user="200900:200900")
    try:
        made.start()
        made.reload()
        with pytest.raises(WallsMissing) as caught:
            isolation.check(made.attrs["State"]["Pid"], 200_900)
        told = str(caught.value)
        assert "may gain privileges" in told and "its root is writable" in told
        assert "capabilities" in told
        with pytest.raises(WallsMissing, match="user id 200900 and not 200901"):
            isolation.check(made.attrs["State"]["Pid"], 200_901)
    finally:
        made.remove(force=True)


def test_only_its_own_devices(podman: Podman, site: Site) -> None:
    """By the Container Device Interface, with a harmless device in the place of a GPU."""
    folder, name = Path("/etc/cdi"), f"one{os.getpid()}"
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    node = {"path": "/dev/stoa-one", "hostPath": "/dev/full", "type": "c", "permissions": "rw"}
    device = {"name": name, "containerEdits": {"deviceNodes": [node], "env": ["STOA_CDI=yes"]}}
    told = {"cdiVersion": "0.5.0", "kind": "stoa.test/dev", "devices": [device]}
    file = folder / f"stoa-test-{os.getpid()}.json"
    file.write_text(json.dumps(told))
    box = Box(
        name=f"stoa-cdi-{os.getpid()}",
        image=PROBE,
        uid=200_901,
        memory_bytes=128 * MIB,
        pids=64,
        labels={},
        mounts=[Mount(site.root, isolation.HOME)],
        devices=[f"stoa.test/dev={name}"],
    )
    driver = Driver(podman.address)
    podman.halt()  # it reads what devices there are as it starts
    podman.start()
    try:
        id = driver.create(box)
        driver.start(id)
        pid = driver.pid(id)
        wait_until(lambda: _stands(pid, 200_901))  # the same walls by this way
        assert isolation.lacking(pid, ["/dev/stoa-one"]) == []
        assert isolation.lacking(pid, ["/dev/stoa-two"]) == ["/dev/stoa-two"]
        nodes = {
            one.name
            for one in Path(f"/proc/{pid}/root/dev").iterdir()
            if one.is_char_device() and not one.is_symlink()
        }
        usual = {"null", "zero", "full", "random", "urandom", "tty", "console"}
        assert nodes - usual == {"stoa-one"}
        # Its first program begins a moment after its walls stand.
        wait_until(lambda: b"STOA_CDI=yes" in Path(f"/proc/{pid}/environ").read_bytes())
        limits = podman.client.api.inspect_container(id)["HostConfig"]
        assert limits["Memory"] == 128 * MIB and limits["PidsLimit"] == 64
    finally:
        driver.remove(box.name)
        driver.close()
        file.unlink()
        if made:
            folder.rmdir()


# --- kill -9 -----------------------------------------------------------------------------------


def test_the_next_agent_adopts_what_runs(site: Site) -> None:
    """No word of the first agent's memory is needed, and an open answer goes on."""
    running = site.serve()
    next_agent = site.fresh()
    assert processes.reap(site.settings.directory, {running.pid}) == []
    next_agent.tidy({running.replica_id})
    assert next_agent.alive(running) and next_agent.listening(running)
    next_agent.stop(running, 5.0)
    assert site.driver.list(site.mark) == []


def test_a_container_that_was_made_and_not_started_ends(site: Site) -> None:
    """The agent died before the door began."""
    made = site.podman.client.containers.create(PROBE, labels={"stoa.agent": site.mark})
    assert [one.pid for one in site.driver.list(site.mark)] == [0]
    site.podman.client.containers.create(PROBE, labels={"stoa.agent": "another's"})
    site.fresh().tidy(set())
    assert site.driver.list(site.mark) == []
    assert len(site.driver.list("another's")) == 1
    site.driver.remove(site.driver.list("another's")[0].id)
    site.driver.remove(str(made.id))  # safe to repeat


def test_a_container_that_nobody_wrote_down_ends(site: Site) -> None:
    """The agent died after the container and its door began, and before its record said so."""
    running = site.serve()
    next_agent = site.fresh()
    reaped = processes.reap(site.settings.directory, set())
    assert [one.process.pid for one in reaped] == [running.pid]
    assert len(site.driver.list(site.mark)) == 1  # without a door
    next_agent.tidy({running.replica_id})  # which is wanted still, and will be started anew
    assert site.driver.list(site.mark) == []


def test_a_dead_door_is_a_dead_replica(site: Site) -> None:
    running = site.serve()
    os.kill(running.pid, 9)
    wait_until(lambda: not site.runner.alive(running))
    assert "beside the container is gone" in site.runner.exit_reason(running)
    site.runner.stop(running, 0.0)
    assert site.driver.list(site.mark) == []


def test_without_the_service_it_serves_on_and_can_be_ended(site: Site) -> None:
    running = site.serve()
    ours = {one for one in kin.everybody() if one.uid == running.uid}
    site.podman.halt()
    try:
        assert site.runner.listening(running)
        site.runner.stop(running, 1.0)
        assert not site.runner.alive(running)
        assert ours and not ours & set(kin.everybody())
    finally:
        site.podman.start()
    site.fresh().tidy(set())
    assert site.driver.list(site.mark) == []


def test_what_the_node_says_of_itself(site: Site) -> None:
    assert site.runner.survey().containers.startswith("podman ")
    assert "(runc)" in site.runner.survey().containers
    other = site.fresh(containers="unix:///nowhere/at/all.sock")
    assert other.survey().containers == ""
    with pytest.raises(CannotStart, match="this node runs no images"):
        other.fetch(custom(), lambda text, done=0, total=0: None, lambda: False)


# --- helpers -----------------------------------------------------------------------------------


def _stands(pid: int, uid: int) -> bool:
    try:
        isolation.check(pid, uid)
        return True
    except WallsMissing:
        return False


def _init(site: Site, running: Any) -> int:
    return site.driver.pid(running.container)


def _from_host(*targets: str) -> list[dict[str, Any]]:
    """The same program, on the host."""
    program = Path(__file__).with_name("image_program.py")
    done = subprocess.run(
        [sys.executable, "-I", str(program), "reach", *targets], capture_output=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _server(name: str) -> int:
    """The port of a server of the tests."""
    return int(os.environ[name].rpartition("@")[2].partition(":")[2].partition("/")[0])


def _ask(path: str, target: str) -> dict[str, Any]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=90) as client:
        return dict(client.get(f"http://engine{target}").json())


class _Outside(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "11")
        self.end_headers()
        self.wfile.write(b"the outside")

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def _website() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Outside) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class _listener:
    def __enter__(self) -> int:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._socket.close()
