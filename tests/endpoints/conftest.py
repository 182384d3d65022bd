import pytest

from controlplane.fleet.models import Node
from tests.endpoints.world import World


@pytest.fixture
def world(db: None) -> World:
    return World.build()


@pytest.fixture
def node(world: World) -> Node:
    return world.node()
