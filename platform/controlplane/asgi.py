"""The web process: `uvicorn controlplane.asgi:application`."""

import gc
import os
import sys
from importlib import import_module
from typing import Any

from django.core.asgi import get_asgi_application

from controlplane.api.agent_handler import AgentHandler, Receive, Send

AGENTS = "/agent/v1/"
GATEWAYS = "/gateway/v1/"

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
_people = get_asgi_application()
agents = AgentHandler()  # the agents' door (agents_door.py) serves it, and nothing else
# Its module imports models, which exist only now.
_gateways = import_module("controlplane.api.gateway_door").GatewayDoor()
# A tenth of an agent's report was the collector, walking through what is never garbage.
gc.freeze()
gc.set_threshold(20_000, 20, 20)
# A thread that has its answer waits no longer than this for the interpreter: with the usual 5 ms
# half of a thousand agents' reports took 0.1 to 0.3 s.
sys.setswitchinterval(0.0005)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Agents, gateways and people come through one port, and through different handlers."""
    if scope["type"] != "http":
        await _people(scope, receive, send)
        return
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path.startswith(AGENTS):
        await agents(scope, receive, send)
    elif path.startswith(GATEWAYS):
        await _gateways(scope, receive, send)
    else:
        await _people(scope, receive, send)
