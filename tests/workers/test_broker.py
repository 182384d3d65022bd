"""Celery as it really is: a real worker on a real broker, and what happens when it dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from celery import Celery
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from billing import services as billing
from billing.models import Invoice, TopUpDecision
from billing.payments import receipts
from billing.pricing import prices
from compliance import audit
from controlplane.endpoints import services
from controlplane.endpoints.models import Endpoint, Replica
from tests.billing import invoices
from tests.endpoints.world import ACTOR, World
from tests.workers.conftest import ROOT, Worker
from workers import hints, tasks
from workers.celery import ANSWER_TIMEOUT_S, app, transport_options


def wait_for(what: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Ask PostgreSQL until it is so; it is another process that makes it so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.05)")


@pytest.fixture
def world(transactional_db: None) -> World:
    """One that other processes see, with the real time."""
    world = World.build()
    world.now = timezone.now()
    world.listen()
    return world


def placed(endpoint: Endpoint) -> bool:
    return Replica.objects.filter(endpoint=endpoint, state="placed").count() == 1


def test_a_hint_reaches_a_worker(world: World, worker: Worker) -> None:
    """No beat here: nothing but the hint can have done it."""
    world.node()
    endpoint = world.endpoint()
    worker()
    wait_for(lambda: placed(endpoint))
    started = time.monotonic()
    services.stop(actor=ACTOR, endpoint=endpoint, now=timezone.now())
    wait_for(lambda: not placed(endpoint))
    assert time.monotonic() - started < 2.0


def test_top_ups_are_decided_by_the_worker_and_by_the_command(
    transactional_db: None, worker: Worker
) -> None:
    """The task over the broker, and `stoa billing advances` as a process of its own."""
    now = timezone.now()
    prices.publish_defaults(actor=audit.SYSTEM, now=now)
    account, entity = billing.open_account(name="Ada", now=now), invoices.entity()
    invoices.customer(account, entity)

    def top_up(key: str) -> str:
        paid = receipts.receive(
            key=key, entity_id=entity.id, account_id=account.id, amount=11_900, currency="EUR",
            method="transfer", received_at=now, now=now, actor=audit.SYSTEM,
        )  # fmt: skip
        return paid.id

    def treated(payment_id: str) -> bool:
        rows = TopUpDecision.objects.filter(grant__payment_id=payment_id)
        return rows.filter(treatment="advance_invoice").exists()

    first = top_up("first")
    worker()
    tasks.tend_top_ups.delay()
    wait_for(lambda: treated(first), timeout_s=120)
    second = top_up("second")
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    said = [
        subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "billing", "advances", *more],
            env=os.environ | {"DATABASE_URL": urlunsplit(url)},
            check=True, capture_output=True, text=True,
        ).stdout
        for more in (["--show"], [], ["--show"])
    ]  # fmt: skip
    assert [line.split() for line in said] == [[], ["1", "advance_invoice"], []]
    assert treated(second)
    made = Invoice.objects.order_by("number")
    assert [(one.label[-6:], one.state) for one in made] == [("000001", "paid"), ("000002", "paid")]


def test_the_sweep_repairs_what_a_killed_worker_left(world: World, worker: Worker) -> None:
    """Killed with a task in hand; its hint is lost, and so are all later ones."""
    world.node()
    with transaction.atomic():
        endpoint = world.endpoint()
    first = worker()
    # The worker waits for the endpoint's row in the middle of its task, and dies there.
    with transaction.atomic():
        list(Endpoint.objects.select_for_update().filter(id=endpoint.id))
        wait_for(lambda: waiting_for_a_lock() > 0)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not Replica.objects.filter(endpoint=endpoint).exists()
    app.control.purge()
    worker(beat=True, STOA_SWEEP_EVERY_S="0.2")
    wait_for(lambda: placed(endpoint))
    assert Replica.objects.filter(endpoint=endpoint).count() == 1


def waiting_for_a_lock() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # kept for a whole transaction else
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def reconcile(endpoint_id: str) -> None:
    raise AssertionError("nobody runs this")


@pytest.mark.parametrize("closed", [True, False])
def test_a_broker_that_is_away_holds_nobody_up(
    nowhere: str, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verb is done and its hint lost; only the first of many waits for the time-out."""
    lost = Celery("stoa")
    url = "redis://127.0.0.1:1/0" if closed else nowhere
    lost.conf.update(app.conf.table(), broker_url=url)
    monkeypatch.setattr(tasks, "reconcile", lost.task(reconcile))
    monkeypatch.setattr(hints, "_silent_until", 0.0)
    started = time.monotonic()
    for _ in range(50):
        hints.on_changed("ep_whatever")
    assert time.monotonic() - started < ANSWER_TIMEOUT_S + 2.0


def test_the_broker_carries_ids_alone(world: World) -> None:
    """Whoever reads the broker learns which endpoint changed, and nothing of anybody's."""
    app.control.purge()
    world.node()
    endpoint = world.endpoint(name="a-telling-name", model="acme/secret-model")
    with app.connection_for_read() as broker:
        channel: Any = broker.default_channel
        message = channel.basic_get(settings.QUEUE, no_ack=True)
    assert message is not None
    arguments, keywords, _ = json.loads(message.body)
    assert (arguments, keywords) == ([endpoint.id], {})
    told = json.dumps([message.body, message.headers, message.properties], default=str)
    for words in ("a-telling-name", "secret-model", world.project.id, "acme", ACTOR.id):
        assert words not in told


def test_each_kind_of_broker_gets_its_own_options() -> None:
    assert transport_options("redis://h/0")["unacked_restore_throttle"] == 1
    assert "unacked_restore_throttle" not in transport_options("amqp://h//")
