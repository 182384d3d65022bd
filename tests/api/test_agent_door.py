"""The agents' door over HTTP: what joins, what waits, what is refused and in which words."""

import asyncio
import json
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from django.conf import settings
from django.db import OperationalError, connection, connections
from django.utils import timezone

from compliance import audit
from compliance.models import AuditEvent
from controlplane import asgi
from controlplane.api import listener, watch
from controlplane.api.agent_handler import MAX_BODY_BYTES
from controlplane.endpoints import hearing, reports
from controlplane.endpoints.models import Replica
from controlplane.fleet import notify, services, wire
from controlplane.fleet.models import Node, Pool
from tests.api.door import Door, on_thread, play
from tests.fleet.machine import Machine, enrolled, inventory, report

pytestmark = pytest.mark.django_db(transaction=True)

REPORT = "/agent/v1/report"


@pytest.fixture
def pool(db: None) -> Pool:
    now = timezone.now()
    region = services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=now
    )
    return services.create_pool(region=region, name="h200", actor=audit.SYSTEM, now=now)


@pytest.fixture
def joined(pool: Pool) -> tuple[Node, Machine]:
    return enrolled(pool, "gpu-1", now=timezone.now())


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The response is a problem document of this status and code; returns it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"]
    return problem


def _token(pool: Pool, now: datetime) -> str:
    return services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)[1]


def _joining(secret: str, machine: Machine, name: str = "gpu-1") -> wire.EnrollRequest:
    return wire.EnrollRequest(token=secret, name=name, csr_pem=machine.csr, agent_version="0.1.0")


# --- The ordinary life ------------------------------------------------------------------


def test_join_look_report_and_renew(pool: Pool) -> None:
    secret = _token(pool, timezone.now())
    machine = Machine()

    async def scene(door: Door) -> None:
        response = await door.call("POST", "/agent/v1/enroll", _joining(secret, machine))
        assert response.status_code == 200, response.text
        assert response.headers["cache-control"] == "no-store"
        credential = msgspec.json.decode(response.content, type=wire.Credential)
        machine.certificate_pem = credential.certificate_pem

        response = await door.call("GET", "/agent/v1/desired?have=0&wait=20", machine=machine)
        wish = msgspec.json.decode(response.content, type=wire.Desired)
        assert (wish.version, wish.replicas) == (1, [])
        assert wish.lease_s == settings.NODE_LEASE_S

        device = wire.DeviceInfo(index=0, kind="cpu", name="EPYC", memory_bytes=1 << 30)
        first = report(seq=1, inventory=inventory(device))
        response = await door.call("POST", REPORT, first, machine=machine)
        reply = msgspec.json.decode(response.content, type=wire.ReportReply)
        assert (reply.lease_s, reply.renew) == (settings.NODE_LEASE_S, False)

        chunk = wire.LogChunk(replica_id="rep_unknown", first_number=1, lines=["hello"])
        response = await door.call("POST", "/agent/v1/logs", chunk, machine=machine)
        assert (response.status_code, response.content) == (204, b"")

        request = wire.RenewRequest(csr_pem=machine.csr)
        response = await door.call("POST", "/agent/v1/renew", request, machine=machine)
        renewed = Machine(machine.key)
        renewed.certificate_pem = msgspec.json.decode(
            response.content, type=wire.Credential
        ).certificate_pem
        for sender in (machine, renewed):  # the overlap, then the new one
            response = await door.call("POST", REPORT, report(seq=2), machine=sender)
            assert response.status_code == 200
        response = await door.call("POST", REPORT, report(seq=3), machine=machine)
        refused(response, 401, "credential_superseded")

    play(scene)
    node = Node.objects.get()
    assert node.reachable(timezone.now())
    assert node.devices.get().kind == "cpu"
    enrolment = AuditEvent.objects.get(action="node.enroll")
    assert json.loads(bytes(enrolment.body))["request"]["route"] == "agent/v1/enroll"


def test_renewal_is_asked_for_at_half_life(pool: Pool) -> None:
    _, machine = enrolled(pool, "gpu-1", now=timezone.now() - timedelta(hours=13))

    async def scene(door: Door) -> None:
        response = await door.call("POST", REPORT, report(), machine=machine)
        assert msgspec.json.decode(response.content, type=wire.ReportReply).renew

    play(scene)


def test_late_and_repeated_reports_are_answered_and_not_applied(
    joined: tuple[Node, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, machine = joined
    applied: list[tuple[str, int]] = []

    def act(_: Iterable[Replica], message: wire.Report, now: datetime) -> reports.Serving:
        node.refresh_from_db()
        assert (node.boot_id, node.report_seq) == (message.boot_id, message.seq)
        applied.append((message.boot_id, message.seq))
        return reports.Serving()

    monkeypatch.setattr(reports, "act", act)
    start = timezone.now()

    async def scene(door: Door) -> None:
        for boot, seq, age_s in (
            ("one", 1, 30),
            ("one", 3, 28),
            ("one", 2, 29),  # overtaken
            ("one", 3, 28),  # sent twice
            ("two", 1, 20),  # the agent started again
            ("one", 4, 27),  # its predecessor's last words
            ("two", 2, 10),
        ):
            at = start - timedelta(seconds=age_s)
            response = await door.call("POST", REPORT, report(boot, seq), machine=machine, at=at)
            assert response.status_code == 200, response.text

    play(scene)
    assert applied == [("one", 1), ("one", 3), ("two", 1), ("two", 2)]


# --- Waiting ----------------------------------------------------------------------------


async def _asleep(node_id: str, count: int = 1) -> None:
    """Until `count` polls wait for news of the node."""
    current = listener.current()
    await current.connected.wait()
    while len(current._waiters.get(node_id, ())) < count:
        await asyncio.sleep(0.01)


def test_a_poll_waits_for_its_node_alone(
    joined: tuple[Node, Machine], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_AGAIN_S", 60.0)  # only news can wake it
    node, machine = joined
    other, _ = enrolled(pool, "gpu-2", now=timezone.now())

    async def scene(door: Door) -> None:
        poll = asyncio.create_task(
            door.call("GET", "/agent/v1/desired?have=1&wait=25", machine=machine)
        )
        await _asleep(node.id)
        await on_thread(lambda: services.touch(other))
        done, _ = await asyncio.wait([poll], timeout=0.3)
        assert not done
        await on_thread(lambda: services.touch(node))
        async with asyncio.timeout(5):
            response = await poll
        assert response.json()["version"] == 2

    play(scene)


def test_a_poll_that_hears_nothing_looks_for_itself(
    joined: tuple[Node, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_AGAIN_S", 0.05)
    node, machine = joined

    async def scene(door: Door) -> None:
        poll = asyncio.create_task(
            door.call("GET", "/agent/v1/desired?have=1&wait=25", machine=machine)
        )
        await _asleep(node.id)
        silent = Node.objects.filter(pk=node.pk)
        await on_thread(lambda: silent.update(desired_version=7))
        async with asyncio.timeout(5):
            assert (await poll).json()["version"] == 7

    play(scene)


def test_a_poll_answers_in_time_and_after_a_restore(joined: tuple[Node, Machine]) -> None:
    _, machine = joined

    async def scene(door: Door) -> None:
        for query in ("have=1&wait=0", "have=1", "have=1&wait=0.05", "have=9000&wait=25"):
            response = await door.call("GET", f"/agent/v1/desired?{query}", machine=machine)
            assert response.json()["version"] == 1

    play(scene)


def test_a_node_removed_while_it_waits_is_told_so(joined: tuple[Node, Machine]) -> None:
    node, machine = joined

    async def scene(door: Door) -> None:
        poll = asyncio.create_task(
            door.call("GET", "/agent/v1/desired?have=1&wait=25", machine=machine)
        )
        await _asleep(node.id)
        now = timezone.now()
        await on_thread(lambda: services.remove_node(node=node, actor=audit.SYSTEM, now=now))
        refused(await poll, 410, "node_removed")
        for method, where in (("POST", REPORT), ("GET", "/agent/v1/desired?have=1")):
            response = await door.call(method, where, report(), machine=machine)
            refused(response, 410, "node_removed")

    play(scene)


def test_an_agent_that_hangs_up_waits_no_longer(joined: tuple[Node, Machine]) -> None:
    node, machine = joined
    target = "/agent/v1/desired?have=1&wait=25"
    where, query = target.split("?")
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": where,
        "raw_path": where.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.encode(), value.encode())
            for name, value in machine.headers("GET", target, now=timezone.now()).items()
        ],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }

    async def scene(_: Door) -> None:
        heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        heard.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        served = asyncio.create_task(asgi.application(scope, heard.get, send))
        await _asleep(node.id)
        heard.put_nowait({"type": "http.disconnect"})
        await served
        assert not listener.current()._waiters
        assert said == []

    play(scene)


def test_a_thousand_waiting_polls_hold_neither_connection_nor_thread(
    joined: tuple[Node, Machine], pool: Pool
) -> None:
    """Besides the one connection that listens; they look together, and all of them come back."""
    _, machine = joined
    others = [enrolled(pool, f"gpu-{n}", now=timezone.now())[1] for n in range(2, 12)]
    machines = [machine, *others] * 91
    connections["default"].close()  # this thread's own
    of_threads: Any = connections["default"].pool  # type: ignore[attr-defined]
    path = "/agent/v1/desired?have=1&wait=25"

    async def scene(door: Door) -> None:
        before = of_threads.get_stats()
        uses = before.get("requests_num", 0)
        polls = [asyncio.create_task(door.call("GET", path, machine=one)) for one in machines]
        await listener.current().connected.wait()
        while sum(map(len, listener.current()._waiters.values())) < len(polls):
            await asyncio.sleep(0.01)
        while (stats := of_threads.get_stats())["requests_num"] - uses < len(polls):
            await asyncio.sleep(0.01)  # each looks once
        while (stats := of_threads.get_stats())["pool_available"] < stats["pool_size"]:
            await asyncio.sleep(0.01)  # the last of them still look
        assert not any(poll.done() for poll in polls)
        assert threading.active_count() < 50  # the shared pool's, at rest
        assert stats["pool_size"] <= max(of_threads.max_size, before["pool_size"])
        assert await on_thread(_listening) == 1
        looks = stats["requests_num"]
        await on_thread(lambda: Node.objects.update(desired_version=2))
        await on_thread(lambda: notify.changed(*Node.objects.values_list("id", flat=True)))
        for response in await asyncio.gather(*polls):
            assert response.json()["version"] == 2
        # Each got its list by a use of a connection; that there is one they learned together.
        assert of_threads.get_stats()["requests_num"] - looks < 1.5 * len(polls)

    assert len(machines) > 1000
    play(scene)


def _listening() -> int:
    """Connections to this database beside those of threads."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'stoa-listener' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


# --- What is refused --------------------------------------------------------------------


def test_tokens_that_do_not_admit(pool: Pool) -> None:
    now = timezone.now()
    good = _token(pool, now)
    expired = _token(pool, now - timedelta(hours=2))

    async def scene(door: Door) -> None:
        async def join(secret: str, **changes: str) -> httpx.Response:
            message = _joining(secret, Machine())
            for name, value in changes.items():
                setattr(message, name, value)
            return await door.call("POST", "/agent/v1/enroll", message)

        refused(await join("stoa-enroll-nothing"), 401, "enrollment_token_invalid")
        problem = refused(await join(expired), 401, "enrollment_token_expired")
        assert "ask for a new one" in problem["detail"]
        refused(await join(good, name="gpu\x07"), 400, "invalid_name")
        refused(await join(good, csr_pem="nonsense"), 400, "certificate_request_invalid")
        assert (await join(good)).status_code == 200
        refused(await join(good), 401, "enrollment_token_used")

    play(scene)
    assert Node.objects.count() == 1
    denied = AuditEvent.objects.filter(outcome="denied").order_by("id")
    assert [event.action for event in denied] == ["node.refuse", "node.refuse"]


def test_credentials_that_do_not_admit(pool: Pool) -> None:
    now = timezone.now()
    _, yesterdays = enrolled(pool, "old", now=now - timedelta(hours=25))
    _, machine = enrolled(pool, "gpu-1", now=now)
    paris = services.create_region(
        code="eu-fr-1", country="FR", name="Paris", actor=audit.SYSTEM, now=now
    )
    foreign = services.create_pool(region=paris, name="h200", actor=audit.SYSTEM, now=now)
    _, parisian = enrolled(foreign, "gpu-fr", now=now)
    imposter = Machine(machine.key)
    imposter.certificate_pem = parisian.certificate_pem

    async def scene(door: Door) -> None:
        problem = refused(
            await door.call("POST", REPORT, report(), machine=yesterdays),
            401,
            "credential_expired",
        )
        assert "enrolment token" in problem["detail"]
        refused(await door.call("POST", REPORT, report()), 401, "credential_missing")
        refused(
            await door.call("POST", REPORT, report(), machine=imposter), 401, "credential_invalid"
        )
        late = now - timedelta(seconds=wire.CLOCK_SKEW_S + 5)
        refused(
            await door.call("POST", REPORT, report(), machine=machine, at=late), 401, "clock_skew"
        )
        headers = machine.headers("POST", REPORT, msgspec.json.encode(report(seq=1)), now=now)
        for method, where, body in (
            ("POST", REPORT, msgspec.json.encode(report(seq=2))),
            ("POST", REPORT + "?x=1", msgspec.json.encode(report(seq=1))),
            ("POST", "/agent/v1/logs", msgspec.json.encode(report(seq=1))),
        ):
            response = await door.http.request(method, where, content=body, headers=headers)
            refused(response, 401, "credential_invalid")

    play(scene)
    assert not Node.objects.exclude(heartbeat_at=None).exists()


def test_bodies_that_are_no_reports(joined: tuple[Node, Machine]) -> None:
    _, machine = joined
    good: dict[str, Any] = msgspec.to_builtins(report())
    bodies = (
        b"",
        b"not json",
        b"[]",
        b"\xff\xfe",
        b'{"boot_id": "one"}',
        b'{"boot_id": "\\ud800"}',
        msgspec.json.encode({**good, "seq": "1"}),
        msgspec.json.encode({**good, "replicas": [{"replica_id": 1}]}),
        b'{"replicas":' + b"[" * 100_000,
    )

    async def scene(door: Door) -> None:
        for body in bodies:
            response = await door.call("POST", REPORT, body, machine=machine)
            refused(response, 400, "invalid_message")
        response = await door.call("POST", "/agent/v1/enroll", b"{}")
        refused(response, 400, "invalid_message")

    play(scene)
    assert Node.objects.get().heartbeat_at is None


def test_what_a_newer_agent_adds_is_ignored_and_answers_name_their_version(
    joined: tuple[Node, Machine],
) -> None:
    _, machine = joined
    news = msgspec.json.encode({**msgspec.to_builtins(report()), "of_the_next_release": [1]})

    async def scene(door: Door) -> None:
        response = await door.call("POST", REPORT, news, machine=machine)
        assert response.status_code == 200
        assert response.headers[wire.VERSION_HEADER] == str(wire.VERSION)

    play(scene)
    assert Node.objects.get().heartbeat_at is not None


def test_reports_that_cannot_be_kept(joined: tuple[Node, Machine]) -> None:
    _, machine = joined
    device = wire.DeviceInfo(index=0, kind="cpu", name="EPYC\0", memory_bytes=1 << 30)

    async def scene(door: Door) -> None:
        for message in (
            report(seq=1 << 63),
            report(boot_id="x" * 65),
            report(inventory=inventory(device)),
        ):
            response = await door.call("POST", REPORT, message, machine=machine)
            refused(response, 400, "report_invalid")

    play(scene)
    assert Node.objects.get().heartbeat_at is None


def test_without_a_database_the_agent_is_told_to_come_back(
    joined: tuple[Node, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, machine = joined

    def hear(*_: object, **__: object) -> None:
        raise OperationalError("the server closed the connection unexpectedly")

    monkeypatch.setattr(hearing, "hear", hear)

    async def scene(door: Door) -> None:
        refused(await door.call("POST", REPORT, report(), machine=machine), 503, "unavailable")

    play(scene)


def test_size_method_and_query(joined: tuple[Node, Machine]) -> None:
    _, machine = joined

    async def scene(door: Door) -> None:
        too_large = b" " * (MAX_BODY_BYTES + 1)
        for where in (REPORT, "/agent/v1/enroll"):
            response = await door.call("POST", where, too_large, machine=machine)
            refused(response, 413, "too_large")
        full = msgspec.json.encode(report()).ljust(MAX_BODY_BYTES)
        assert (await door.call("POST", REPORT, full, machine=machine)).status_code == 200
        response = await door.call("GET", REPORT, machine=machine)
        refused(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
        for query in ("have=x", "have=-1", "wait=nan", "wait=inf", "wait=soon", "have=1.5"):
            response = await door.call("GET", f"/agent/v1/desired?{query}", machine=machine)
            refused(response, 400, "invalid_query")

    play(scene)
