"""Keys at a running gateway: edits bite within a second, and a rotation fails no request."""

import itertools
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billing.models import UsageInbox
from compliance import audit
from controlplane.tenancy import limits, services
from controlplane.tenancy.models import ApiKey
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.house import NOW, House, Road, eventually
from tests.gateway.test_process import CHAT, KEY, Process, engine, gateway
from tests.gateway.wire import Connection, Response

__all__ = ["engine", "gateway"]  # fixtures

LONG = "tokens=40;delay=0.1"
BODY: dict[str, Any] = {"model": "tiny", "messages": []}
WHO = audit.SYSTEM


def ask(gateway: Process, secret: str = KEY) -> Response:
    with Connection(gateway.port) as client:
        client.post(CHAT, BODY, key=secret)
        return client.response()


def becomes(gateway: Process, status: int, secret: str = KEY) -> float:
    """Seconds until the key gets this answer."""
    began = time.monotonic()
    eventually(lambda: ask(gateway, secret).status == status)
    return time.monotonic() - began


def served(statuses: list[list[int]], more: int) -> None:
    """Waits until so many more requests are answered."""
    before = sum(map(len, statuses))
    eventually(lambda: sum(map(len, statuses)) >= before + more)


@pytest.mark.parametrize(
    ("edit", "status"),
    [
        (lambda key: services.revoke_key(actor=WHO, key=key, now=NOW), 401),
        (lambda key: limits.update_key(actor=WHO, key=key, now=NOW, allowed_models=["x"]), 404),
        (lambda key: limits.update_key(actor=WHO, key=key, now=NOW, networks=["10.9.0.0/16"]), 403),
        (lambda key: services.rotate_key(actor=WHO, key=key, now=NOW, overlap_s=0), 401),
    ],
)
@pytest.mark.trap("stale-keys")
def test_an_edit_bites_within_a_second(
    gateway: Process, edit: Callable[[ApiKey], object], status: int
) -> None:
    assert ask(gateway).status == 200
    edit(ApiKey.objects.get())
    assert becomes(gateway, status) < 1.0


@pytest.mark.trap("stale-keys")
def test_a_request_under_way_brings_no_revoked_key_back(
    house: House, engine: FakeEngine, road: Road, tmp_path: Path
) -> None:
    """On two gateways, each with an answer under way: it ends as it began, and the key is dead."""
    gateways = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        gateways.append(Process(tmp_path / str(number), road.port, STOA_GATEWAY_ID=f"gw-{number}"))
    try:
        with ExitStack() as stack:
            streams = []
            for each in gateways:
                each.start()
            for each in gateways:
                streams.append(stack.enter_context(Connection(each.port)))
                streams[-1].post(CHAT, {**BODY, "user": LONG, "stream": True}, key=KEY)
                streams[-1].read_until(b"data: ")
            services.revoke_key(actor=WHO, key=ApiKey.objects.get(), now=NOW)
            began = time.monotonic()
            for each in gateways:
                becomes(each, 401)
            assert time.monotonic() - began < 1.0
            assert all(seen.generated < 40 for seen in engine.seen[:2])  # they are under way
            for each, stream in zip(gateways, streams, strict=True):
                stream.read_until(b"data: [DONE]")
                assert ask(each).status == 401
        # It is booked under the key all the same, and that tells nobody of the key anew.
        eventually(
            lambda: UsageInbox.objects.filter(finish="complete", output_tokens=40).count() == 2
        )
        house.key("sk-stoa-another0-" + "k" * 43)  # a change of the directory
        for each in gateways:
            becomes(each, 200, "sk-stoa-another0-" + "k" * 43)
            assert ask(each).status == 401
    finally:
        for each in gateways:
            if each.process is not None:
                each.end(signal.SIGKILL)


def test_a_key_that_rotates_under_load_fails_no_request(
    gateway: Process, house: House, engine: FakeEngine
) -> None:
    key = ApiKey.objects.get()
    current, done = [KEY], threading.Event()
    statuses: list[list[int]] = [[] for _ in range(4)]

    def load(mine: list[int]) -> None:
        with Connection(gateway.port) as client:
            while not done.is_set():
                client.post(CHAT, BODY, key=current[0])
                mine.append(client.response().status)

    clients = [threading.Thread(target=load, args=(mine,)) for mine in statuses]
    secrets = [KEY]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            _, secret = services.rotate_key(actor=WHO, key=key, now=datetime.now(UTC), overlap_s=60)
            becomes(gateway, 200, secret)
            current[0] = secret
            secrets.append(secret)
            served(statuses, 20)
    finally:
        done.set()
        for client in clients:
            client.join()
    assert set(itertools.chain(*statuses)) == {200}
    # Each shows when it was used last; the newest is used still.
    eventually(lambda: all(secret.last_used_at for secret in key.secrets.all()))
    newest, *older = key.secrets.all()
    assert newest.expires_at is None
    assert all(secret.expires_at for secret in older)
    services.revoke_key(actor=WHO, key=key, now=NOW)
    for secret in secrets:
        becomes(gateway, 401, secret)
