"""GET /v1/models and /v1/models/{id}: what a key may use, adapters and aliases included."""

from typing import Any
from urllib.parse import unquote

import msgspec

from gateway import authentication, errors, windows
from gateway.directory import Directory, Endpoint, Key


def listing(directory: Directory, key: Key, base: str = "") -> bytes:
    """All of its project, or of the endpoint `base` alone; raises 404 where that is none."""
    endpoints = directory.endpoints(key.project_id)
    if base:
        endpoints = [one for one in endpoints if base in (one.name, one.id)]
    models = [
        model
        for endpoint in sorted(endpoints, key=lambda e: e.name)
        for model in _models(key, endpoint)
    ]
    if not base:
        models += _aliases(directory, key)
    if base and not models:
        raise errors.model_not_found(base)
    return msgspec.json.encode({"object": "list", "data": models})


def one(directory: Directory, key: Key, quoted: str, base: str = "") -> bytes:
    """Raises 404 `model_not_found`."""
    name = unquote(quoted)
    for alias in () if base else _aliases(directory, key):
        if alias["id"] == name:
            return msgspec.json.encode(alias)
    endpoint, _ = authentication.resolve(directory, key, name)
    if base and base not in (endpoint.name, endpoint.id):
        raise errors.model_not_found(name)
    adapter = name.partition(":")[2]
    return msgspec.json.encode(_model(endpoint, name, adapter))


def _models(key: Key, endpoint: Endpoint) -> list[dict[str, Any]]:
    found = []
    if not endpoint.openai:
        return []  # no client of this API could call it
    for adapter in ("", *sorted(endpoint.adapters)):
        if authentication.allowed(key, endpoint, adapter):
            name = f"{endpoint.name}:{adapter}" if adapter else endpoint.name
            found.append(_model(endpoint, name, adapter))
    return found


def _aliases(directory: Directory, key: Key) -> list[dict[str, Any]]:
    """Each like the first of its endpoints that is ready; those that lead nowhere are left out."""
    project = directory.project(key.project_id)
    found = []
    for name, alias in sorted(project.aliases.items()) if project is not None else ():
        behind = [authentication.behind(directory, key, name, one) for one in alias.targets]
        endpoints = [one[0] for one in behind if one is not None]
        if endpoints:
            first = next((one for one in endpoints if _status(one) == "ready"), endpoints[0])
            found.append(_model(first, name, "") | {"targets": [one.name for one in endpoints]})
    return found


def _model(endpoint: Endpoint, name: str, adapter: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": endpoint.created,
        "owned_by": endpoint.project_id,
        "parent": endpoint.name if adapter else None,
        "endpoint": endpoint.id,
        "max_model_len": windows.smallest(endpoint.replicas) or endpoint.max_model_len,
        "status": _status(endpoint, adapter),
    }


def _status(endpoint: Endpoint, adapter: str = "") -> str:
    """An adapter is ready where a replica has it loaded."""
    if endpoint.stopped:
        return "stopped"
    serves = any(not adapter or adapter in one.adapters for one in endpoint.replicas)
    return "ready" if serves else "waiting"
