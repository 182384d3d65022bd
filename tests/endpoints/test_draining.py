"""A replica that drains holds up a rollout, and fails none."""

from controlplane.endpoints import rollout_rows
from controlplane.fleet import wire
from tests.endpoints.test_versions import change, live, serving, settle, until_over
from tests.endpoints.world import World, said


def test_no_deadline_runs_while_an_old_one_answers_what_it_was_asked(world: World) -> None:
    node = world.node(devices=2)
    endpoint = serving(world, node)
    change(world, endpoint, {"progress_deadline_s": 60})
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    assert sorted(live(endpoint)) == [(1, "draining"), (2, "ready")]
    old, new = endpoint.replicas.order_by("id")
    for _ in range(6):
        world.later(50)
        world.report(node, said(old.id, wire.Phase.DRAINING), said(new.id, wire.Phase.READY))
        world.reconcile(endpoint)
        newest = rollout_rows.newest(endpoint)
        assert newest is not None
        assert (newest.state, newest.reason) == ("progressing", "replacing")
    assert until_over(world, endpoint, node).state == "complete"
    assert live(endpoint) == [(2, "ready")]
