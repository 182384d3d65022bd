"""One whole installation for all flows; the tests of a worker share it one after the other."""

import logging
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import engine_image
from tests.agent.fake_hub import FakeHub
from tests.agent.fake_s3 import FakeS3
from tests.agent.podman import Podman, missing, running
from tests.engine_fixtures import engine_environment, tiny_model
from tests.flows.stoa import Stoa, endpoint_body, installation, until
from workers.agent.environment import Environment

__all__ = ["engine_environment", "tiny_model"]

# Leases of 5 s instead of 20, a first back-off of 2.5 s instead of 10.
SETTINGS = {
    "STOA_TIME_SCALE": "0.25",
    "STOA_AGENT_DEVICES": "cpu:5",
    "STOA_BATCH_CANARY_S": "0.5",
    "STOA_METER_EVERY_S": "0.5",  # of which each look into the books waits one
}

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look is noise


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    """The hub that its nodes fetch from; empty until a test puts a model there."""
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def s3() -> Iterator[FakeS3]:
    """The S3 service that its nodes may fetch from; empty until a test puts objects there."""
    with FakeS3() as s3:
        yield s3


@pytest.fixture(scope="session")
def podman(engine_environment: Environment) -> Iterator[Podman]:
    """Running, with the images PROBE and vLLM's."""
    with running(engine_image.store(engine_environment)) as stand:
        yield stand


@pytest.fixture(scope="session")
def containers(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings for nodes that run images, where podman can be had."""
    if missing():
        return {}
    stand: Podman = request.getfixturevalue("podman")
    return {"STOA_AGENT_CONTAINERS": stand.address, "STOA_IMAGE_REGISTRIES": "localhost"}


@pytest.fixture(scope="session")
def stoa(
    engine_environment: object, hub: FakeHub, s3: FakeS3, containers: dict[str, str]
) -> Iterator[Stoa]:
    """`make up`, with the first answer billed; Ctrl-C at the end, and nothing is left."""
    with (
        tempfile.TemporaryDirectory(prefix="stoa-flow-", dir="/tmp") as folder,
        installation(
            Path(folder) / "var",
            **SETTINGS,
            **containers,
            STOA_HUB_URL=hub.url,
            STOA_S3_ENDPOINTS=s3.url,
            STOA_GATEWAY_SETTINGS=_empty(Path(folder) / "gateway.settings"),
            TMPDIR=_made(Path(folder) / "tmp"),
        ) as stoa,
    ):
        run_file = stoa.var / "run.json"
        assert stat.S_IMODE(run_file.stat().st_mode) == 0o600
        expected = {"gateway_url", "console_url", "api_key", "login", "password", "endpoint"}
        assert expected <= stoa.run.keys()
        yield stoa


def _made(folder: Path) -> str:
    """Where its processes put what is temporary: test_canary searches it."""
    folder.mkdir()
    return str(folder)


def _empty(file: Path) -> str:
    """What the gateway reads at each reload; empty until a test has it show a certificate."""
    file.touch()
    return str(file)


OVER = ("stopped", "failed")


class Made:
    """Endpoints that a test makes; they are deleted, and their engines gone, when it ends."""

    def __init__(self, stoa: Stoa) -> None:
        self._stoa = stoa
        self._ids: list[str] = []

    def __call__(self, name: str, **changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._stoa.api.post(
            "/endpoints", endpoint_body(self._stoa, name, **changes)
        )
        self._ids.append(found["id"])
        return found

    def ready(self, name: str, **changes: Any) -> dict[str, Any]:
        endpoint = self(name, **changes)
        return self.await_status(endpoint["id"], "ready")

    def await_status(self, endpoint_id: str, status: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self._stoa.api.get(f"/endpoints/{endpoint_id}")
            return found if found["status"] == status else None

        found = until(look, within_s=120, what=f"{endpoint_id} is {status}")
        assert found is not None
        return found

    def clear(self) -> None:
        """Delete them all; their devices are free when this returns."""
        api = self._stoa.api
        for endpoint_id in self._ids:
            api.http.delete(f"/endpoints/{endpoint_id}")
        gone = set(self._ids)
        until(
            lambda: not gone & {r["endpoint"] for r in api.replicas() if r["state"] not in OVER},
            what="the test's replicas are over",
        )


@pytest.fixture
def made(stoa: Stoa) -> Iterator[Made]:
    """For endpoints of one test."""
    made = Made(stoa)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def kept(stoa: Stoa) -> Iterator[Made]:
    """For endpoints that all tests of a module share."""
    made = Made(stoa)
    yield made
    made.clear()
