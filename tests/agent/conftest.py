"""A control plane and a node for each test."""

from collections.abc import Iterator

import pytest

from tests.agent.fake_controlplane import ControlPlane
from tests.agent.node import TestNode


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
