"""Bringing images: each start asks the registry anew, with its own credentials.

That an image is on this node is no leave to use it: another tenant's credentials brought it. So
only what the registry grants to this start is started, and where its layers are here already that
costs one question. The names below `localhost/` are no registry's: the operator put those here.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import docker.errors
import requests

from controlplane.fleet import wire
from workers.agent.containers.driver import ContainerError, Driver
from workers.agent.weights.errors import Cancelled, Denied, ModelError, Unreachable

LOCAL = "localhost/"
IMAGE_NOT_FOUND = "image_not_found"  # an endpoints.states.Reason

_DENIED = ("unauthorized", "denied", "authentication required", "invalid username/password")
_MISSING = ("manifest unknown", "not found", "name unknown", "does not exist")

# text, bytes done, bytes in all (0: not known)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Brought:
    """An image that is here. `pinned`: registry/repository@sha256:…; empty: it has no such name."""

    id: str
    pinned: str
    size: int  # bytes
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


class Layers:
    """What a pull says of its layers, as bytes. Pure."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def hear(self, event: dict[str, Any]) -> bool:
        """Whether it was news of a layer."""
        detail = event.get("progressDetail") or {}
        layer, total = str(event.get("id") or ""), int(detail.get("total") or 0)
        if not layer:
            return False
        if total > 0 and "extract" not in str(event.get("status", "")).lower():
            self._seen[layer] = (min(int(detail.get("current") or 0), total), total)
        elif "complete" in str(event.get("status", "")).lower() and layer in self._seen:
            total = self._seen[layer][1]
            self._seen[layer] = (total, total)
        else:
            return False
        return True

    @property
    def done(self) -> int:
        return sum(done for done, _ in self._seen.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self._seen.values())


class NoImage(ModelError):
    """The registry, or the node, has no such image."""

    def __init__(self, message: str) -> None:
        super().__init__(IMAGE_NOT_FOUND, message)


def here(driver: Driver, reference: str) -> bool:
    """Whether an image of that name is on this node. Raises ContainerError."""
    return _look(driver, reference) is not None


def bring(
    driver: Driver,
    reference: str,
    login: wire.RegistryLogin | None,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Brought:
    """The image, brought from its registry unless it is the node's own. Raises ModelError."""
    if not reference.startswith(LOCAL):
        _pull(driver, reference, login, progress, cancelled)
    try:
        found = _look(driver, reference)
    except ContainerError as error:
        raise Unreachable(str(error)) from error
    if found is None:
        raise NoImage(f"there is no image {reference} on this node")
    return found


def _pull(
    driver: Driver,
    reference: str,
    login: wire.RegistryLogin | None,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> None:
    layers, name = Layers(), reference
    auth = None
    if login is not None:
        auth = {
            "username": login.username,
            "password": login.password,
            "serveraddress": login.server,
        }
    progress(f"pulling {reference}", 0, 0)
    try:
        repository, tag = _split(name)
        events = driver.client.api.pull(
            repository, tag=tag, stream=True, decode=True, auth_config=auth
        )
        with contextlib.closing(events):
            for event in events:
                if cancelled():
                    raise Cancelled
                if wrong := event.get("error"):
                    raise _error(reference, str(wrong))
                if layers.hear(event):
                    progress(f"pulling {reference}", layers.done, layers.total)
    except docker.errors.APIError as error:
        raise _error(reference, str(error.explanation or error)) from error
    except (ContainerError, docker.errors.DockerException, requests.RequestException) as error:
        raise Unreachable(f"pulling {reference}: {error}") from error


def _split(reference: str) -> tuple[str, str]:
    """Repository and tag, or digest."""
    if "@" in reference:
        repository, _, digest = reference.partition("@")
        return repository, digest
    repository, colon, tag = reference.rpartition(":")
    if colon and "/" not in tag:
        return repository, tag
    return reference, "latest"


def _look(driver: Driver, reference: str) -> Brought | None:
    try:
        found = driver.image(reference)
    except docker.errors.NotFound:
        return None
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise ContainerError(f"the engine of containers does not answer: {error}") from error
    config = found.get("Config") or {}
    pinned = [str(one) for one in found.get("RepoDigests") or []]
    repository = _split(reference)[0]
    return Brought(
        id=str(found["Id"]),
        pinned=next((one for one in pinned if one.startswith(f"{repository}@")), ""),
        size=int(found.get("Size") or 0),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )


def _error(reference: str, said: str) -> ModelError:
    low = said.lower()
    if any(word in low for word in _DENIED):
        return Denied(f"the registry refuses {reference}: {said[-300:]}")
    if any(word in low for word in _MISSING):
        return NoImage(f"there is no image {reference}: {said[-300:]}")
    return Unreachable(f"pulling {reference}: {said[-300:]}")
