"""A control plane and a node for each test."""

from collections.abc import Iterator

import pytest

from tests.agent.engine_bench import bench, warm_bench
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.node import TestNode
from tests.agent.podman import podman
from tests.engine_fixtures import engine_environment, tiny_model

# Here, so that those of a session are made once and not for each module that imports them.
__all__ = ["bench", "engine_environment", "podman", "tiny_model", "warm_bench"]


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def node(plane: ControlPlane) -> Iterator[TestNode]:
    node = TestNode(plane.url)
    try:
        yield node
    finally:
        node.close()
