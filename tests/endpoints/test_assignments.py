"""What a node is told to run."""

from controlplane.endpoints import assignments, lifecycle
from controlplane.endpoints.states import Reason, State
from controlplane.fleet.models import Node
from tests.endpoints.world import World


def test_the_whole_wish_list(world: World, node: Node) -> None:
    endpoint = world.endpoint(
        model="/models/tiny",
        device_count=2,
        engine_args={"max-model-len": 2048},
        adapters=[{"name": "poet", "path": "org/poet"}],
    )
    replica = world.replica(endpoint, node)
    wish = world.desired(node)[replica.id]
    assert wish.run
    assert wish.spec is not None
    assert wish.spec.served_name == wish.spec.endpoint_id == endpoint.id
    assert wish.spec.organization_id == world.project.organization_id
    assert (wish.spec.model, wish.spec.device_indexes) == ("/models/tiny", [0, 1])
    arguments = {"max_model_len": 2048, "tensor_parallel_size": 2, "max_loras": 4}
    assert wish.spec.engine_args == arguments
    assert [(one.name, one.path) for one in wish.spec.adapters] == [("poet", "org/poet")]


def test_a_drained_replica_is_to_be_stopped_gently(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    lifecycle.advance(replica.id, State.DRAINING, reason=Reason.STOP_REQUESTED, now=world.now)
    wish = world.desired(node)[replica.id]
    assert (wish.run, wish.spec) == (False, None)
    assert wish.drain_s > 0


def test_only_its_own_and_nothing_for_a_removed_node(world: World, node: Node) -> None:
    world.replica(world.endpoint(), node)
    other = world.node("n2")
    assert world.desired(other) == {}
    Node.objects.filter(id=node.id).update(removed_at=world.now)
    assert world.desired(node) == {}


def test_the_version_is_never_newer_than_the_list(world: World, node: Node) -> None:
    """It is read anew, whatever the caller holds."""
    stale = Node.objects.get(id=node.id)
    world.replica(world.endpoint(), node)
    node.refresh_from_db()
    assert assignments.desired(stale, world.now).version == node.desired_version
