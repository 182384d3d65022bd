"""Device-seconds that are owned, and those that replicas hold."""

from datetime import timedelta
from fractions import Fraction

from controlplane.endpoints import capacity, lifecycle
from controlplane.endpoints.states import Reason, State
from tests.endpoints.world import World

DAY = timedelta(days=1)


def test_owned_from_joining_to_leaving_and_held_from_placing_to_release(world: World) -> None:
    start = world.now
    node = world.node(devices=2, kind="h200")
    world.node("other", devices=1, kind="cpu")
    endpoint = world.endpoint(device_kind="h200", device_count=2)
    placed = world.later(60)
    world.heartbeat(node)
    replica = world.replica(endpoint, node)
    gone = world.later(600)
    lifecycle.advance(replica.id, State.FAILED, reason=Reason.NODE_LOST, now=gone, released=True)
    left = world.later(100)
    node.removed_at = left
    node.save()
    now = world.later(50)
    found = {one.device_kind: one for one in capacity.of([start, start + DAY], now)}
    assert (found["h200"].owned_s, found["h200"].held_s) == (Fraction(760 * 2), Fraction(600 * 2))
    assert (found["cpu"].owned_s, found["cpu"].held_s) == (Fraction(810), Fraction(0))
    pieces = capacity.of([start, placed + timedelta(seconds=10), start + DAY], now)
    h200 = [one for one in pieces if one.device_kind == "h200"]
    assert [one.held_s for one in h200] == [Fraction(20), Fraction(1180)]
    assert sum(one.owned_s for one in h200) == Fraction(1520)
    assert capacity.of([start - DAY, start], now) == []
