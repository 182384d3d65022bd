"""A node leaves for good, with real agents over HTTP, real engine processes and a real database.

Its agent is killed in the middle; another node dies and never answers again.
"""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import decommission_record, decommissioning
from controlplane.endpoints import services as endpoints
from controlplane.endpoints.models import DeviceClaim, Replica, ServingInterval
from controlplane.fleet import joining, records, replacing, services
from controlplane.fleet.models import Decommission, Node, Pool, Region
from controlplane.tenancy.models import Project
from tests.agent.fake_nvml import FakeGpus
from tests.agent.node import TestNode, kill
from tests.batches.live import Django
from tests.endpoints.world import organization
from workers import keeping, provisioning
from workers.agent import processes
from workers.local.embedded import free_port

pytestmark = pytest.mark.django_db(transaction=True)
OPS = audit.Actor("user", "usr_ops", "session")


@pytest.fixture
def address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, transactional_db: None
) -> Iterator[str]:
    """The agents' door, with agents that report often."""
    monkeypatch.setenv("STOA_NODE_REPORT_EVERY_S", "0.3")
    monkeypatch.setenv("STOA_DRAIN_S", "2")
    django, port = Django(tmp_path, 1), free_port()
    django.start("door", "controlplane", "agents_door", "--port", str(port))
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        django.stop()


class Host:
    def __init__(self, address: str, pool: Pool, name: str, **extra: str) -> None:
        self.address, self.pool = address, pool
        self.machine = TestNode(address)
        _, token = services.issue_enrollment_token(pool=pool, actor=OPS, now=timezone.now())
        self.extra = {
            "STOA_AGENT_TOKEN": token,
            "STOA_AGENT_NAME": name,
            "STOA_CONTROLPLANE_PIN": joining.pin(pool.region),
            **extra,
        }
        self.agent = self.machine.agent(**self.extra)
        until(lambda: Node.objects.filter(name=name, lease_until__gt=timezone.now()).exists())
        self.node = Node.objects.get(name=name)

    def again(self) -> None:
        self.agent = self.machine.agent(**self.extra)

    def ready(self) -> bool:
        mine = Replica.objects.filter(node=self.node, state="ready")
        return mine.exists()

    def left(self) -> bool:
        return not Replica.objects.filter(node=self.node).exclude(state="stopped").exists()


def until(true: Callable[[], object], within_s: float = 300.0, *, tends: bool = True) -> None:
    """Let the workers do what they do every few seconds, until `true()` is; without `tends` none
    of them sees to who leaves."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {_where()}"
        now: datetime = timezone.now()
        provisioning.sweep(now=now)
        if tends:
            keeping.tend(now)
        time.sleep(0.1)


def _where() -> object:
    replicas = Replica.objects.values_list("node__name", "state", "reason", "detail")
    return list(replicas), list(Decommission.objects.values_list("node__name", "state"))


@pytest.fixture
def hosts(address: str) -> Iterator[list[Host]]:
    project = organization()
    now = timezone.now()
    region = services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=OPS, now=now
    )
    pool = services.create_pool(
        region=region, name="p", organization=project.organization, actor=OPS, now=now
    )
    made: list[Host] = []
    try:
        made.append(Host(address, pool, "first"))
        spec = endpoints.EndpointSpec(name="chat", model="org/model", device_kind="cpu")
        endpoints.create(actor=OPS, project=project, spec=spec, now=now)
        until(made[0].ready)
        made.append(Host(address, pool, "second"))
        yield made
    finally:
        for host in made:
            host.machine.close()
        connection.close()


def verified(row: Decommission) -> dict[str, object]:
    row.refresh_from_db()
    key = Region.objects.get().record_public_key
    return records.verify(decommission_record.document(row), key)


def state(row: Decommission) -> str:
    row.refresh_from_db()
    return row.state


def test_one_erases_itself_one_never_answers_again_and_one_gets_another_gpu(
    hosts: list[Host], tmp_path: Path
) -> None:
    first, second = hosts
    weights = first.machine.root / "cache/weights/blobs/public"
    weights.mkdir(parents=True)
    (weights / "aa").write_bytes(b"a tenant's weights")
    row = decommissioning.begin(node=first.node, reason="old", actor=OPS, now=timezone.now())

    # Make before break, then the agent dies just as it is to erase: it has not heard of it yet.
    until(lambda: first.left() and second.ready(), tends=False)
    first.agent.send_signal(signal.SIGSTOP)
    until(lambda: state(row) == "erasing")
    kill(first.agent)
    first.again()
    until(lambda: state(row) == "done")
    assert first.agent.wait(60) == 4, first.machine.said()
    record = verified(row)
    assert record["confirmed"] is True and record["credential_erased_at"]
    items = {item["what"]: item for item in record["erased"]}  # type: ignore[attr-defined]
    assert items["weights"]["bytes"] >= len(b"a tenant's weights") and items["logs"]["files"]
    assert items["credential"]["done"]
    assert not weights.exists() and not (first.machine.directory / "identity.json").exists()
    assert not processes.marked(first.machine.directory)
    assert Node.objects.get(pk=first.node.pk).removed_at is not None
    gone = ServingInterval.objects.filter(replica__node=first.node)
    assert gone.exists() and not gone.filter(ended_at=None).exists()

    # The power of the other is cut: it is taken out without its word.
    kill(second.agent)
    processes.reap(second.machine.directory, set())
    other = decommissioning.begin(
        node=second.node, reason="burnt", unconfirmed=True, actor=OPS, now=timezone.now()
    )
    until(lambda: state(other) == "done")
    record = verified(other)
    assert (record["confirmed"], record["erased"]) == (False, None)
    assert not ServingInterval.objects.filter(ended_at=None).exists()
    assert (second.machine.directory / "identity.json").exists()
    second.again()
    assert second.agent.wait(60) == 4, second.machine.said()  # it came back: it is nobody

    gpus = FakeGpus(tmp_path)
    third = Host(first.address, first.pool, "third", STOA_AGENT_DEVICES="", **gpus.environment)
    hosts.append(third)
    replace_a_gpu(third, gpus)


def replace_a_gpu(host: Host, gpus: FakeGpus) -> None:
    """Its work moves to the other of the same node, and what comes in its place serves."""
    wanted("fast")
    until(host.ready)
    old = Replica.objects.get(node=host.node, state="ready")
    device = old.claims.get().device
    serial = f"16520240000{device.index}"
    row = replacing.begin(device=device, reason="rows", actor=OPS, now=timezone.now())
    until(lambda: state(row) == "awaiting")
    moved = Replica.objects.get(node=host.node, state="ready")
    other = moved.claims.get().device
    assert (old.pk, device.serial) == (row.moved[0], serial) and other.index != device.index
    assert not ServingInterval.objects.filter(replica=old, ended_at=None).exists()
    assert host.machine.engines(old.pk) == []
    (engine,) = host.machine.engines(moved.pk)

    wanted("more")  # it waits, though the old GPU is free and well
    until(lambda: Replica.objects.filter(endpoint__name="more", reason="no_capacity").exists())
    assert device.healthy and not DeviceClaim.objects.filter(device=device).exists()

    kill(host.agent)
    gpus.card(device.index, uuid="GPU-new", serial="1659999")
    host.again()
    until(lambda: state(row) == "done")
    record = verified(row)
    assert (record["kind"], record["moved_replicas"]) == ("device", [old.pk])
    assert record["device"]["serial"] == serial  # type: ignore[index]
    assert record["successor"]["serial"] == "1659999"  # type: ignore[index]
    until(lambda: Replica.objects.filter(endpoint__name="more", state="ready").exists())
    (claim,) = DeviceClaim.objects.filter(replica__endpoint__name="more")
    assert (claim.device.uuid, claim.device.serial) == ("GPU-new", "1659999")
    # What the other serves was not disturbed.
    assert Replica.objects.get(pk=moved.pk).state == "ready"
    assert host.machine.engines(moved.pk) == [engine]


def wanted(name: str) -> None:
    spec = endpoints.EndpointSpec(name=name, model="org/model", device_kind="nvidia-h200")
    project = Project.objects.get()
    endpoints.create(actor=OPS, project=project, spec=spec, now=timezone.now())
