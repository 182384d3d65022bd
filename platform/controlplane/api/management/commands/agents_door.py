"""`stoa agents_door`: where nodes' agents call, over mutual TLS, and nobody else."""

import asyncio
from importlib import import_module
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from controlplane.api import agents_tls
from controlplane.api.agent_handler import Receive, Send

PREFIX = "/agent/v1/"
GRACE_S = 3


class Command(BaseCommand):
    help = "Serve the agents of nodes over mutual TLS."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.AGENTS_HOST)
        parser.add_argument("--port", type=int, default=settings.AGENTS_PORT)

    def handle(self, *args: Any, **options: Any) -> None:
        contexts = agents_tls.Contexts()
        config = uvicorn.Config(
            _application(),
            host=options["host"],
            port=options["port"],
            http=agents_tls.Protocol,
            lifespan="off",
            log_level="info",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            ssl_context_factory=lambda *_: contexts.default,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(uvicorn.Server(config), contexts))


async def _serve(server: uvicorn.Server, contexts: agents_tls.Contexts) -> None:
    keeping = asyncio.create_task(contexts.keep())
    try:
        await server.serve()
    finally:
        keeping.cancel()


def _application() -> Any:
    # The composition stands above this room: it names the handler, and this process serves it.
    agents = import_module("controlplane.asgi").agents

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"].startswith(PREFIX):
            await agents(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return application
