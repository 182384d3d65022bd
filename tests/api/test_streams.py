"""What a client follows: an endpoint's progress and an engine's log."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import AsyncClient
from django.utils import timezone

from controlplane.api import endpoint_views, streams
from controlplane.endpoints import lifecycle, logs
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import wire
from controlplane.tenancy.models import ApiKey, User
from tests.api.house import House

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE_S = 20.0


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scene
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(bounded())


async def events(stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, Any]]:
    async for chunk in stream:
        for block in chunk.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in fields:
                yield fields["event"], json.loads(fields["data"])


async def asked(house: House, path: str, query: dict[str, Any] | None = None) -> Any:
    headers = {"authorization": f"Bearer {house.secret}"}
    return await AsyncClient().get(path, query, headers=headers)


def test_progress_is_heard_as_it_happens(transactional_db: None, alice: House) -> None:
    async def scene() -> None:
        answer = await asked(alice, f"/api/v1/endpoints/{alice.endpoint.id}/events")
        assert answer["content-type"] == "text/event-stream"
        async with asyncio.timeout(PATIENCE_S):
            heard = events(answer.streaming_content)
            name, data = await anext(heard)
            assert (name, data["status"]) == ("status", "starting")
            for state in (State.PROBING, State.READY):
                facts: dict[str, Any] = {"address": "unix:/x"} if state is State.READY else {}
                await sync_to_async(lifecycle.advance)(
                    alice.replica.id, state, reason=Reason.NODE_REPORT, now=timezone.now(), **facts
                )
                name, data = await anext(heard)
                assert (name, data["to_state"]) == ("transition", state)
            name, data = await anext(heard)
            assert (name, data["status"]) == ("status", "ready")

    play(scene())


def test_no_status_is_told_before_what_led_to_it(
    transactional_db: None, alice: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = streams._Seen("")
    follower.news(alice.endpoint)
    shown = endpoint_views.EndpointView.to_representation

    def late(view: Any, endpoint: Any) -> Any:
        """The replica gets ready just as the status is looked at."""
        for state in (State.PROBING, State.READY):
            facts: dict[str, Any] = {"address": "unix:/x"} if state is State.READY else {}
            lifecycle.advance(
                alice.replica.id, state, reason=Reason.NODE_REPORT, now=timezone.now(), **facts
            )
        return shown(view, endpoint)

    monkeypatch.setattr(endpoint_views.EndpointView, "to_representation", late)
    told = b"".join(follower.news(alice.endpoint)).decode()
    assert told.index('"to_state": "ready"') < told.index('"status": "ready"')


def test_logs_as_a_tail_and_followed(transactional_db: None, alice: House) -> None:
    async def scene() -> None:
        def chunk(first: int, *lines: str) -> wire.LogChunk:
            return wire.LogChunk(replica_id=alice.replica.id, first_number=first, lines=list(lines))

        append = sync_to_async(logs.append)
        await append(alice.node, chunk(1, "one", "two", "three"), timezone.now())
        path = f"/api/v1/replicas/{alice.replica.id}/logs"
        tail = await asked(alice, path, {"lines": 2})
        assert [line["text"] for line in tail.json()["data"]] == ["two", "three"]
        assert (await asked(alice, path, {"lines": "many"})).status_code == 422
        answer = await asked(alice, path, {"lines": 1, "follow": "true"})
        async with asyncio.timeout(PATIENCE_S):
            heard = events(answer.streaming_content)
            assert (await anext(heard))[1]["text"] == "three"
            await append(alice.node, chunk(4, "four"), timezone.now())
            assert (await anext(heard))[1] == {"number": 4, "text": "four"}

    play(scene())


def test_strangers_hear_nothing(transactional_db: None, alice: House, mallory: House) -> None:
    async def scene() -> None:
        for path in (
            f"/api/v1/endpoints/{alice.endpoint.id}/events",
            f"/api/v1/replicas/{alice.replica.id}/logs",
        ):
            assert (await asked(mallory, path)).status_code == 404
            assert (await AsyncClient().get(path)).status_code == 401

    play(scene())


@pytest.mark.parametrize("way", ["key", "signed out", "deactivated"])
def test_who_may_no_longer_hears_no_more(
    transactional_db: None, alice: House, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(streams, "ALLOWED_FOR_LOOKS", 1)
    monkeypatch.setattr(streams, "LOOK_AGAIN_S", 0.05)

    def end() -> None:
        if way == "key":
            ApiKey.objects.update(revoked_at=timezone.now())
        elif way == "signed out":
            Session.objects.all().delete()
        else:
            User.objects.update(is_active=False)

    async def scene() -> None:
        client = AsyncClient()
        if way != "key":
            await client.aforce_login(alice.owner)
        headers = {"authorization": f"Bearer {alice.secret}"} if way == "key" else {}
        path = f"/api/v1/endpoints/{alice.endpoint.id}/events"
        answer: Any = await client.get(path, headers=headers)
        heard = aiter(answer.streaming_content)
        for _ in range(3):
            assert await anext(heard)
        await sync_to_async(end)()
        assert len([chunk async for chunk in heard]) <= 1  # and then it is over

    play(scene())
