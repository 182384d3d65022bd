"""The web process: `uvicorn controlplane.asgi:application`."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

from controlplane.api.agent_handler import AgentHandler, Receive, Send

AGENTS = "/agent/v1/"

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
_people = get_asgi_application()
_agents = AgentHandler()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Agents and people come through one port, and through different handlers."""
    if scope["type"] == "http" and scope["path"].startswith(scope.get("root_path", "") + AGENTS):
        await _agents(scope, receive, send)
    else:
        await _people(scope, receive, send)
