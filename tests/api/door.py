"""An agent's calls over HTTP to the web process's own application, without a socket."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx
import msgspec
from django.db import close_old_connections
from django.utils import timezone

from controlplane import asgi
from controlplane.fleet import wire
from tests.fleet.machine import Machine


class Door:
    """An agent's calls to the web process, signed by `machine` where there is one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | wire.Message = b"",
        *,
        machine: Machine | None = None,
        at: datetime | None = None,
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = (
            machine.headers(method, path, content, now=at or timezone.now()) if machine else {}
        )
        return await self.http.request(method, path, content=content, headers=headers)


Scene = Callable[[Door], Awaitable[None]]


def play(scene: Scene) -> None:
    """Run a scene against the web process's own application."""

    async def run() -> None:
        application: Any = asgi.application
        transport = httpx.ASGITransport(application)
        async with (
            asyncio.timeout(90),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            await scene(Door(http))

    asyncio.run(run())


async def on_thread(work: Callable[[], Any]) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            close_old_connections()

    return await asyncio.to_thread(run)
