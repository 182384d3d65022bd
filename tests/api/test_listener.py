"""News from PostgreSQL reaches who waits for it, also after the connection was cut."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import pytest
from django.db import close_old_connections, connection

from controlplane.api import listener
from controlplane.endpoints import services as endpoints
from controlplane.fleet import notify

pytestmark = pytest.mark.django_db(transaction=True)
SOON_S = 10.0


async def _on_thread(work: Callable[[], Any]) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            close_old_connections()

    return await asyncio.to_thread(run)


def _run(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await listener.current().connected.wait()
            await scene

    asyncio.run(bounded())


def _cut() -> int:
    """Kill every listening connection, as a restart of PostgreSQL would."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'stoa-listener' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def test_news_wakes_who_waits_for_it_and_nobody_else() -> None:
    async def scene() -> None:
        async with (
            listener.waiting(["node_a", "ep_a"]) as mine,
            listener.waiting(["node_b"]) as other,
            listener.waiting(["ep_a"]) as also,
        ):
            await asyncio.sleep(0)
            await other.wait(0), await mine.wait(0), await also.wait(0)
            await _on_thread(lambda: notify.changed("ep_a"))
            assert await mine.wait(SOON_S)
            assert await also.wait(SOON_S)
            assert not await other.wait(0)
            assert not await mine.wait(0)  # told once
            await _on_thread(lambda: notify.changed("node_b", "node_a"))
            assert await other.wait(SOON_S)
            assert await mine.wait(SOON_S)

    _run(scene())


def test_news_between_two_waits_is_not_missed() -> None:
    async def scene() -> None:
        async with listener.waiting(["node_a"]) as mine, listener.waiting(["node_a"]) as witness:
            await _on_thread(lambda: notify.changed("node_a"))
            assert await witness.wait(SOON_S)
            assert await mine.wait(0)

    _run(scene())


def test_everybody_is_woken_after_a_reconnect() -> None:
    async def scene() -> None:
        current = listener.current()
        async with listener.waiting(["node_a"]) as waiter:
            for _ in range(2):
                assert await _on_thread(_cut) == 1
                assert await waiter.wait(SOON_S)
                await current.connected.wait()
            await _on_thread(lambda: notify.changed("node_a"))
            assert await waiter.wait(SOON_S)

    _run(scene())


def test_nobody_waits_nothing_is_kept() -> None:
    async def scene() -> None:
        async with listener.waiting(["node_a"]), listener.waiting(["node_a", "node_b"]):
            assert len(listener.current()._waiters) == 2
        assert not listener.current()._waiters

    _run(scene())


def test_a_waiting_request_wakes_its_endpoint_once_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def heard(endpoint_id: str, now: datetime) -> bool:
        assert now.tzinfo is not None
        woken.append(endpoint_id)
        if endpoint_id == "ep_broken":
            raise RuntimeError("no such endpoint")
        inside.set()
        assert go_on.wait(SOON_S)
        return True

    monkeypatch.setattr(endpoints, "heard", heard)

    def knock(endpoint_id: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify('stoa_wake', %s)", [endpoint_id])

    async def scene() -> None:
        async with listener.waiting(["after"]) as waiter:
            await _on_thread(lambda: knock("ep_broken"))  # does not end the listener
            await _on_thread(lambda: knock("ep_1"))
            assert await asyncio.to_thread(inside.wait, SOON_S)
            await _on_thread(lambda: knock("ep_1"))
            await _on_thread(lambda: notify.changed("after"))
            assert await waiter.wait(SOON_S)
            assert woken == ["ep_broken", "ep_1"]
            go_on.set()
            while listener.current()._waking:
                await asyncio.sleep(0.01)
            await _on_thread(lambda: knock("ep_1"))
            while len(woken) < 3:
                await asyncio.sleep(0.01)

    _run(scene())
    assert woken == ["ep_broken", "ep_1", "ep_1"]
