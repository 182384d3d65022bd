"""The engine of containers of this node, through its Docker API: podman's or Docker's socket."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import requests

from workers.agent.containers import isolation
from workers.agent.containers.isolation import Box

USUAL = (Path("/run/podman/podman.sock"), Path("/run/docker.sock"))
TIMEOUT_S = 60
STOP_MARGIN_S = 30

AGENT, REPLICA = "stoa.agent", "stoa.replica"
ORGANIZATION, NODE = "stoa.organization", "stoa.node"


class ContainerError(Exception):
    """The engine of containers refused something or did not answer; for a person."""


@dataclass(frozen=True)
class Found:
    """A container with our labels."""

    id: str
    name: str
    replica_id: str
    pid: int  # its first process, as the host counts; 0: it does not run


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    exit_code: int
    out_of_memory: bool
    error: str = ""


def find(setting: str) -> str:
    """The address to use: what is set, else where such a socket usually lies; empty: none."""
    if setting:
        return setting
    return next((f"unix://{path}" for path in USUAL if _is_socket(path)), "")


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever goes wrong between us and the engine, as one kind of error."""
    try:
        yield
    except docker.errors.APIError as error:
        raise ContainerError(str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise ContainerError(f"the engine of containers does not answer: {error}") from error


class Driver:
    """Blocking. Safe to use from several threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: docker.DockerClient | None = None
        self._version: dict[str, Any] = {}

    @property
    def client(self) -> docker.DockerClient:
        """Connected at first use. Raises ContainerError."""
        if not _is_socket(self.socket):  # the library would forget to close what does not connect
            raise ContainerError(f"there is no socket of podman or Docker at {self.socket}")
        if self._client is None:
            with _told():
                self._client = docker.DockerClient(
                    base_url=self.address, version="auto", timeout=TIMEOUT_S
                )
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def socket(self) -> Path:
        """Raises ContainerError where the address is not a socket of this machine."""
        if not self.address.startswith("unix://"):
            raise ContainerError(f"{self.address} is not the address of a socket (unix:///...)")
        return Path(self.address.removeprefix("unix://"))

    # --- what it is ------------------------------------------------------------------------

    def title(self) -> str:
        """Its name, version and runtime: "podman 4.3.1 (runc)". Raises ContainerError."""
        with _told():
            runtime = self.client.info().get("DefaultRuntime") or "its default runtime"
        name = "podman" if self.podman else "docker"
        return f"{name} {self._versions()['Version']} ({runtime})"

    def lacks(self) -> list[str]:
        """What it cannot do that each container needs. Raises ContainerError."""
        with _told():
            info = self.client.info()
        missing = []
        if os.geteuid() != 0:
            missing.append("the agent must run as root to enter a container's network")
        if not any("seccomp" in str(one) for one in info.get("SecurityOptions") or []):
            missing.append("it filters no system calls (seccomp)")
        if not info.get("MemoryLimit"):
            missing.append("it limits no memory")
        if not info.get("PidsLimit"):
            missing.append("it limits no number of processes")
        return missing

    @property
    def podman(self) -> bool:
        parts = self._versions().get("Components") or []
        return any(part.get("Name") == "Podman Engine" for part in parts)

    def _versions(self) -> dict[str, Any]:
        if not self._version:
            with _told():
                self._version = dict(self.client.version())
        return self._version

    def image(self, reference: str) -> dict[str, Any]:
        """What it says of an image that is here. Raises as the client does."""
        return dict(self.client.images.get(reference).attrs)

    # --- containers ------------------------------------------------------------------------

    def create(self, box: Box) -> str:
        """Make a container that does not run yet, in place of one of its name; its id."""
        self.remove(box.name)
        if box.devices and self.podman:
            return self._create_by_podman(box)
        chosen = isolation.arguments(box)
        if box.devices:
            one = docker.types.DeviceRequest(driver="cdi", device_ids=list(box.devices))
            chosen["device_requests"] = [one]
        with _told():
            return str(self.client.containers.create(**chosen).id)

    def _create_by_podman(self, box: Box) -> str:
        api = self.client.api
        with _told():
            answer = api.post(
                f"{api.base_url}/v4.0.0/libpod/containers/create",
                json=isolation.specification(box),
                timeout=TIMEOUT_S,
            )
            if answer.status_code >= 300:
                raise ContainerError(_words(answer))
            return str(answer.json()["Id"])

    def start(self, id: str) -> None:
        with _told():
            self.client.api.start(id)

    def _pid(self, id: str) -> int:
        """As `pid`, and 0 for one that is gone."""
        try:
            with _told_but_missing():
                return int(self.client.api.inspect_container(id)["State"]["Pid"] or 0)
        except docker.errors.NotFound:
            return 0

    def pid(self, id: str) -> int:
        """Its first process, as the host counts; 0: it does not run."""
        with _told():
            return int(self.client.api.inspect_container(id)["State"]["Pid"] or 0)

    def stop(self, id: str, grace_s: float) -> None:
        """SIGTERM, up to `grace_s`, then SIGKILL; one that is gone is stopped."""
        with contextlib.suppress(docker.errors.NotFound), _told_but_missing():
            self.client.api.stop(id, timeout=round(grace_s))

    def remove(self, id: str) -> None:
        """Kill it if it runs, and let nothing of it be left. Safe to repeat."""
        with contextlib.suppress(docker.errors.NotFound), _told_but_missing():
            self.client.api.remove_container(id, force=True, v=True)

    def remove_image(self, reference: str) -> None:
        """Take the name away, and the image with its last one. Safe to repeat. Raises
        ContainerError, also where a container uses it."""
        with contextlib.suppress(docker.errors.NotFound), _told_but_missing():
            self.client.api.remove_image(reference)

    def ended(self, id: str) -> Ended | None:
        """How it ended; None: it runs, or is gone."""
        try:
            with _told_but_missing():
                state = self.client.api.inspect_container(id)["State"]
        except docker.errors.NotFound:
            return None
        if state.get("Running"):
            return None
        oom = bool(state.get("OOMKilled"))
        return Ended(int(state.get("ExitCode") or 0), oom, str(state.get("Error") or ""))

    def list(self, mark: str) -> list[Found]:
        """Every container of the agent `mark` (processes.mark), whether it runs or not."""
        with _told():
            listed = self.client.api.containers(all=True, filters={"label": f"{AGENT}={mark}"})
        return [
            Found(
                id=str(one["Id"]),
                name=str((one.get("Names") or [""])[0]).lstrip("/"),
                replica_id=str((one.get("Labels") or {}).get(REPLICA, "")),
                pid=self._pid(str(one["Id"])),
            )
            for one in listed
        ]


@contextlib.contextmanager
def _told_but_missing() -> Iterator[None]:
    """As `_told`, but what is not there stays NotFound."""
    try:
        with _told():
            yield
    except ContainerError as error:
        if isinstance(error.__cause__, docker.errors.NotFound):
            raise error.__cause__ from None
        raise


def _words(answer: requests.Response) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        said = cast(dict[str, Any], answer.json())
        return str(said.get("cause") or said.get("message") or answer.text)
    return answer.text[:300]
