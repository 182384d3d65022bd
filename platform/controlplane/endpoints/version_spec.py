"""What of an endpoint a version keeps: all that a replica is started with, and nothing else.

Adapters, bounds and queues change without a new replica, so they are no part of it.
"""

from datetime import datetime
from typing import Any

from controlplane.endpoints.models import Endpoint, EndpointVersion

# Columns of Endpoint, which repeat the spec of the version that is wished for.
FIELDS = (
    *("source", "secret", "model", "revision", "engine", "engine_version", "engine_args"),
    *("image", "capabilities", "device_kind", "device_count", "node_count"),
    "device_share",
)
# What versions from before there was such a thing are taken to say.
ADDED: dict[str, Any] = {"image": None, "engine_version": "", "device_share": 1000}


def spec_of(endpoint: Endpoint) -> dict[str, Any]:
    return {name: getattr(endpoint, name) for name in FIELDS}


def begin(
    endpoint: Endpoint, *, by: str = "", now: datetime, outlook: dict[str, Any] | None = None
) -> EndpointVersion:
    """The first version, as part of making the endpoint. `outlook`: preflight.Outlook.kept."""
    return EndpointVersion.objects.create(
        endpoint=endpoint,
        number=endpoint.generation,
        spec=spec_of(endpoint),
        created_at=now,
        created_by=by,
        outlook=outlook,
    )
