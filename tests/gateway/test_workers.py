"""A master and its workers: they share a port, die alone, and are replaced without a pause."""

import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from billing.models import UsageInbox
from tests.gateway import certificates
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import Road, eventually
from tests.gateway.test_process import CHAT, KEY, Process, chat, engine
from tests.gateway.wire import Connection
from workers.local.embedded import free_port

__all__ = ["engine"]  # a fixture

CLIENTS = 6


class Gateway(Process):
    """Two workers, a metrics listener, and a file of settings that a reload reads."""

    def __init__(self, folder: Path, database_port: int, **settings: str) -> None:
        self.metrics_port = free_port()
        self.settings = folder / "settings"
        self.settings.touch()
        super().__init__(
            folder,
            database_port,
            STOA_GATEWAY_METRICS_PORT=str(self.metrics_port),
            STOA_GATEWAY_SETTINGS=str(self.settings),
            **{"STOA_GATEWAY_WORKERS": "2", **settings},
        )

    @property
    def master(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text().split()
        return {int(pid) for pid in children}

    def figures(self) -> dict[str, float]:
        with Connection(self.metrics_port) as client:
            client.get("/metrics", key=None)
            lines = client.response().body.decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def ready(self, workers: int) -> bool:
        try:
            return self.figures()["stoa_gateway_workers"] == workers
        except (OSError, EOFError, KeyError):
            return False

    def reload(self, workers: int = 2) -> set[int]:
        """Returns when others serve; who served before (and may drain still)."""
        before, said = self.workers(), self.log.count("draining")
        os.kill(self.master, signal.SIGHUP)
        eventually(lambda: self.log.count("draining") == said + workers)
        return before


@pytest.fixture
def gateway(engine: FakeEngine, road: Road, tmp_path: Path) -> Iterator[Gateway]:
    process = Gateway(tmp_path, road.port)
    process.start()
    eventually(lambda: process.ready(2))
    yield process
    if process.process is not None:
        process.end(signal.SIGKILL)


def served(gateway: Gateway) -> float:
    figures = gateway.figures().items()
    name, labels = "stoa_gateway_requests_total{", ('operation="chat.completions"', 'status="200"')
    return sum(
        value
        for series, value in figures
        if series.startswith(name) and all(label in series for label in labels)
    )


def connections(pid: int) -> int:
    """How many TCP connections a process holds."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    mine = {link[8:-1] for link in links if link.startswith("socket:")}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and row[9] in mine for row in rows)


def test_workers_share_the_clients_and_everything_is_booked_once(gateway: Gateway) -> None:
    before = {pid: connections(pid) for pid in gateway.workers()}
    body = {"model": "tiny", "messages": []}
    with ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(Connection(gateway.port))
            client.post(CHAT, body, key=KEY)
            assert client.response().status == 200
        assert all(connections(pid) > before[pid] for pid in gateway.workers())
    assert served(gateway) == 40
    assert gateway.end(signal.SIGTERM) == 0
    assert UsageInbox.objects.count() == 40
    assert list((gateway.folder / "spool").iterdir()) == []


def test_a_killed_worker_is_replaced_and_the_other_serves_on(gateway: Gateway) -> None:
    victim, other = sorted(gateway.workers())
    body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=40;delay=0.05"}
    with ExitStack() as stack:
        clients = [stack.enter_context(Connection(gateway.port)) for _ in range(20)]
        for client in clients:
            client.post(CHAT, body, key=KEY, headers={"connection": "close"})
            client.read_until(b"data: ")
        os.kill(victim, signal.SIGKILL)
        ends = [client.rest() for client in clients]
    complete = sum(end.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for end in ends)
    assert 0 < complete < 20
    eventually(lambda: gateway.ready(2))
    assert victim not in gateway.workers() and other in gateway.workers()
    for _ in range(10):
        chat(gateway)
    figures = gateway.figures()
    assert figures["stoa_gateway_worker_ends_total"] == 1
    assert gateway.end(signal.SIGTERM) == 0
    finishes = list(UsageInbox.objects.values_list("finish", flat=True))
    assert len(finishes) == 30
    assert finishes.count("gateway_gone") == 20 - complete


def test_workers_end_with_their_master(gateway: Gateway) -> None:
    workers = gateway.workers()
    assert len(workers) == 2
    os.kill(gateway.master, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


class Crowd:
    """Clients without a pause; every second one keeps its connection while it is let."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.served = 0
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._running = [self._pool.submit(self._ask_on, bool(n % 2)) for n in range(CLIENTS)]

    def stop(self) -> int:
        """What was asked and answered; raises what went wrong for one of them."""
        self._over.set()
        answered = sum(each.result(30) for each in self._running)
        self._pool.shutdown()
        return answered

    def has_served(self, requests: int) -> bool:
        return self.served >= requests

    def _ask_on(self, keep: bool) -> int:
        answered = 0
        while not self._over.is_set():
            with Connection(self.port) as client:
                again = True
                while again and not self._over.wait(0.002):
                    client.post(CHAT, {"model": "tiny", "messages": []}, key=KEY)
                    response = client.response()
                    assert response.status == 200
                    answered += 1
                    self.served += 1
                    again = keep and response.headers.get("connection") != "close"
        return answered


def test_a_reload_fails_nobody(gateway: Gateway) -> None:
    crowd, master = Crowd(gateway.port), gateway.master
    with Connection(gateway.port) as stream:
        body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=60;delay=0.05"}
        stream.post(CHAT, body, key=KEY)
        stream.read_until(b"data: ")
        for _ in range(2):
            before = gateway.reload()
            mark = crowd.served
            eventually(partial(crowd.has_served, mark + 50))
            assert gateway.master == master and len(gateway.workers() - before) == 2
        assert stream.rest().endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    answered = crowd.stop() + 1
    eventually(lambda: len(gateway.workers()) == 2)
    assert served(gateway) == answered  # those that drained are counted on
    assert gateway.figures()["stoa_gateway_worker_ends_total"] == 0
    assert gateway.end(signal.SIGTERM) == 0
    assert UsageInbox.objects.count() == answered
    assert "directory cannot be saved" not in gateway.log


def test_a_reload_takes_new_settings_and_more_workers(gateway: Gateway) -> None:
    gateway.settings.write_text("# fewer bytes\nSTOA_GATEWAY_BODY_LIMIT_BYTES=200\n")
    gateway.reload()
    long = json.dumps({"model": "tiny", "messages": [{"content": "x" * 200}]}).encode()
    with Connection(gateway.port) as client:
        client.post(CHAT, long, key=KEY)
        assert client.response().status == 413
    gateway.settings.write_text("STOA_GATEWAY_WORKERS=3\n")
    gateway.reload()
    eventually(lambda: gateway.ready(3) and len(gateway.workers()) == 3)
    gateway.settings.write_text("STOA_GATEWAY_WORKERS=1\n")  # it serves all three sockets
    gateway.reload(3)
    eventually(lambda: gateway.ready(1) and len(gateway.workers()) == 1)
    for _ in range(12):
        chat(gateway)
    with Connection(gateway.port) as client:
        client.post(CHAT, long, key=KEY)
        assert client.response().status == 200


def test_a_reload_that_cannot_start_changes_nothing(gateway: Gateway) -> None:
    before = gateway.workers()
    gateway.settings.write_text("STOA_GATEWAY_WORKERS=none\n")
    os.kill(gateway.master, signal.SIGHUP)
    eventually(lambda: "cannot start; the old ones serve on" in gateway.log)
    assert "STOA_GATEWAY_WORKERS='none'" in gateway.log
    assert gateway.workers() == before
    chat(gateway)


def test_a_reload_takes_a_new_certificate(engine: FakeEngine, road: Road, tmp_path: Path) -> None:
    files = certificates.write(tmp_path, "first")
    first = certificates.client(files)
    gateway = Gateway(
        tmp_path,
        road.port,
        STOA_GATEWAY_TLS_CERTIFICATE=str(files["tls_certificate"]),
        STOA_GATEWAY_TLS_KEY=str(files["tls_key"]),
    )
    gateway.start()
    try:
        eventually(lambda: gateway.ready(2))
        assert certificates.shown(gateway.port) == "first"
        with Connection(gateway.port, first) as stream:
            body = {"model": "tiny", "messages": [], "stream": True, "user": "tokens=40;delay=0.05"}
            stream.post(CHAT, body, key=KEY)
            stream.read_until(b"data: ")
            files["tls_key"].write_text("no key")
            os.kill(gateway.master, signal.SIGHUP)
            eventually(lambda: "cannot start; the old ones serve on" in gateway.log)
            certificates.write(tmp_path, "second")
            gateway.reload()
            assert certificates.shown(gateway.port) == "second"
            stream.read_until(b"[DONE]")
        with Connection(gateway.port, certificates.client(files)) as client:
            client.post(CHAT, {"model": "tiny", "messages": []}, key=KEY)
            assert client.response().status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            Connection(gateway.port, first)
    finally:
        gateway.end(signal.SIGKILL)


def test_two_gateways_do_not_share_a_port_by_mistake(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Process(tmp_path / "second", 1, STOA_GATEWAY_PORT=str(gateway.port))
    with pytest.raises(AssertionError, match="Address already in use"):
        second.start()
