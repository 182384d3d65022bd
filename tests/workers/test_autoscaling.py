"""From a crowd at the gateway to replicas on several nodes.

PostgreSQL, gateway, listener and Celery are real; engines are fake, and a thread plays the agents.
"""

import asyncio
import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections
from django.utils import timezone

from compliance import grants
from controlplane.api import listener
from controlplane.endpoints import assignments, services
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import ACTOR, World, said
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import Beat, House
from tests.gateway.test_process import CHAT, KEY, Process
from tests.gateway.wire import Connection
from tests.workers.conftest import Worker
from tests.workers.test_broker import wait_for

SLOTS = 4  # of an engine: its max_num_seqs
PANIC_S = 2.0


class Agents:
    """Every node's: engines run as they are wished for, and are reported."""

    def __init__(self, world: World, beat: Beat, folder: Path) -> None:
        self._world, self._beat, self._folder = world, beat, folder
        self.engines: dict[str, FakeEngine] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Agents":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for engine in self.engines.values():
            self._beat.run(engine.stop())

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self._world.now = timezone.now()
            for node in Node.objects.all():
                self._work(node)
        connections.close_all()

    def _work(self, node: Node) -> None:
        """What came to be wished for since the list was read, the report does not know."""
        wished = assignments.desired(node, self._world.now)
        wishes = wished.replicas or []
        endpoints = dict(
            Replica.objects.filter(id__in=[one.replica_id for one in wishes]).values_list(
                "id", "endpoint_id"
            )
        )
        reports = [self._serve(one, endpoints[one.replica_id]) for one in wishes]
        self._world.report(node, *reports, version=wished.version)

    def _serve(self, wish: wire.DesiredReplica, endpoint_id: str) -> wire.ReplicaReport:
        id = wish.replica_id
        if not wish.run:
            return said(id, wire.Phase.STOPPED)
        if id not in self.engines:
            engine = FakeEngine(self._folder / f"e{len(self.engines)}", endpoint_id)
            self._beat.run(engine.start())
            self.engines[id] = engine
        can = wire.EngineReport(version="1", max_num_seqs=SLOTS, kv_cache_tokens=1_000_000)
        return said(id, wire.Phase.READY, address=self.engines[id].address, engine=can)


@pytest.fixture
def world(transactional_db: None) -> World:
    world = World.build()
    world.now = timezone.now()
    world.listen()
    return world


@pytest.fixture
def beat() -> Iterator[Beat]:
    beat = Beat()
    yield beat
    beat.stop()


@pytest.fixture
def agents(world: World, beat: Beat) -> Iterator[Agents]:
    with (
        tempfile.TemporaryDirectory(prefix="gw-") as folder,
        Agents(world, beat, Path(folder)) as agents,
    ):
        yield agents


@pytest.fixture
def gateway(world: World, tmp_path: Path) -> Iterator[Process]:
    grants.apply("stoa_app", "stoa_gateway")
    House(world.project, world.pool).key(KEY)
    process = Process(
        tmp_path, int(connection.settings_dict["PORT"]), STOA_GATEWAY_ACTIVITY_EVERY_S="5"
    )
    process.start()
    yield process
    process.end(signal.SIGKILL)


@pytest.fixture
def hearing(beat: Beat, world: World) -> Iterator[None]:
    """What the web process does: it hears gateways and passes hints on."""

    async def hear() -> asyncio.Task[None]:
        async with listener.waiting(["nothing"]):
            await listener.current().connected.wait()
        task = listener.current()._task
        assert task is not None
        return task

    task = beat.run(hear())
    yield

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    beat.run(stop())


def chat(gateway: Process, how: str) -> int:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "tiny", "messages": messages, "user": how, "stream": True}
    with Connection(gateway.port) as client:
        client.post(CHAT, body, key=KEY)
        return client.response().status


def ready(endpoint: Endpoint) -> int:
    return Replica.objects.filter(endpoint=endpoint, state="ready").count()


def lag_s(what: Callable[[], object], done: Callable[[], bool]) -> float:
    """How long this machine takes for one hint, now."""
    began = time.monotonic()
    what()
    wait_for(done)
    return time.monotonic() - began


def test_a_crowd_is_met_within_two_seconds_over_several_nodes(
    world: World, worker: Worker, agents: Agents, gateway: Process, hearing: None
) -> None:
    for number in range(3):
        world.node(f"n{number}", devices=1)
    worker(beat=True)
    spare = world.endpoint(name="spare")
    endpoint = world.endpoint(name="tiny", min_replicas=0, max_replicas=3)
    wait_for(lambda: ready(spare) == 1, 60)
    lag = lag_s(
        lambda: services.delete(actor=ACTOR, endpoint=spare, now=timezone.now()),
        lambda: ready(spare) == 0,
    )
    wait_for(lambda: not Replica.objects.filter(endpoint=spare, released_at=None).exists())
    # From zero: one request is enough, and it is answered.
    assert chat(gateway, "tokens=1") == 200
    assert ready(endpoint) == 1
    # Three replicas' worth of a crowd, that stays until they are there.
    began = timezone.now()
    with ThreadPoolExecutor(12) as crowd:
        answers = [crowd.submit(chat, gateway, "tokens=80;delay=0.1") for _ in range(12)]
        wait_for(lambda: ready(endpoint) == 3, 60)
        assert {answer.result() for answer in answers} == {200}
    made = Replica.objects.filter(endpoint=endpoint).order_by("id")
    assert made[1].created_at - began < timedelta(seconds=PANIC_S + lag)
    assert len({replica.node_id for replica in made}) == 3
    assert made[1].transitions.earliest("id").reason == "scale_up"
    # The crowd was spread: no engine had more at once than it takes.
    assert [engine.most_at_once > 0 for engine in agents.engines.values()][1:] == [True] * 3
    assert max(engine.most_at_once for engine in agents.engines.values()) <= SLOTS
