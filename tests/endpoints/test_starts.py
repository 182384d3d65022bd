"""What a start took, phase by phase, and whether the time promised for its tier was kept."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from compliance.models import AuditEvent
from controlplane.endpoints import sleeping, starts
from controlplane.endpoints.models import Endpoint, Replica, Start
from controlplane.endpoints.states import State
from controlplane.fleet.models import Node
from controlplane.fleet.wire import Phase, StartTier
from tests.endpoints.world import World, said
from workers import provisioning

NODE = {
    "fetching": 0.5,
    "starting": 8.0,
    "spawned": 1.0,
    "loaded": 3.0,
    "compiled": 4.0,
    "probing": 1.0,
}


def up(replica: Replica, tier: StartTier = StartTier.STANDBY, **facts: Any) -> Any:
    return said(replica.id, Phase.READY, start_tier=tier, phase_seconds=NODE, **facts)


def one(replica: Replica) -> Start:
    return Start.objects.filter(replica=replica).latest("id")


def test_a_start_is_kept_with_its_phases(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    asked = world.now
    provisioning.reconcile(endpoint.id, now=asked)
    replica = Replica.objects.get(endpoint=endpoint)
    world.later(12)
    world.report(node, up(replica))
    start = one(replica)
    assert (start.tier, start.ready, start.missed, start.target_s) == ("standby", True, False, 18.0)
    assert (start.asked_at, start.total_s) == (asked, 12.0)
    assert start.phases == {
        "queued": 0.0,
        "placed": 2.5,  # there and back
        "fetched": 0.5,
        "spawned": 1.0,
        "loaded": 3.0,
        "compiled": 4.0,
        "probed": 1.0,
    }
    endpoint.refresh_from_db()
    assert endpoint.start_seconds == [12.0]


@pytest.mark.parametrize(
    ("tier", "target_s"),
    [(StartTier.WAKE, 18.0), (StartTier.STANDBY, 18.0), (StartTier.WARM, 18.0), ("cold", None)],
)
def test_one_that_takes_too_long_is_evidence(
    world: World, node: Node, tier: str, target_s: float | None
) -> None:
    """Where nothing had to be fetched."""
    replica = world.replica(world.endpoint(), node)
    world.later(settings.START_TARGET_S + 0.5)
    world.report(node, up(replica, StartTier(tier)))
    assert (one(replica).missed, one(replica).target_s) == (target_s is not None, target_s)
    events = AuditEvent.objects.filter(action="replica.start_missed", target_id=replica.id)
    assert events.count() == (target_s is not None)


def test_a_wait_for_devices_is_no_part_of_the_promise(world: World) -> None:
    node = world.node(devices=1)
    first, second = world.endpoint(name="first"), world.endpoint(name="second")
    held = world.replica(first, node)
    world.reconcile(second)
    world.later(100)
    world.report(node, said(held.id, Phase.STOPPED))
    Endpoint.objects.filter(id=first.id).update(stopped_at=world.now)
    world.reconcile(second)
    replica = Replica.objects.get(endpoint=second)
    assert replica.state == "placed"
    world.later(12)
    (going,) = [starts.underway([replica], world.now)]
    assert going is not None and (going.elapsed_s, going.target_s) == (12.0, 18.0)
    world.report(node, up(replica))
    start = one(replica)
    assert (start.total_s, start.phases["queued"], start.missed) == (112.0, 100.0, False)


def test_a_wake_is_measured_from_its_wish(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(min_replicas=0), node, State.READY)
    world.later(1000)
    assert sleeping.sleep(replica.id, now=world.now)
    world.later(1000)
    assert sleeping.wake(replica.id, now=world.now)
    world.later(2)
    facts = {"start_tier": StartTier.WAKE, "phase_seconds": {"starting": 1.2, "probing": 0.3}}
    world.report(node, said(replica.id, Phase.READY, can_sleep=True, **facts))
    start = one(replica)
    assert (start.tier, start.total_s, start.missed) == ("wake", 2.0, False)
    assert start.phases["loaded"] == 1.2 and start.phases["placed"] == 0.5
    assert Start.objects.filter(replica=replica).count() == 2


def test_a_failed_start_is_kept_as_one(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.STARTING)
    world.report(node, said(replica.id, Phase.FAILED, reason="engine_exited"))
    assert (one(replica).ready, one(replica).reason) == (False, "engine_exited")
    # One that served, and failed then, started well.
    other = world.replica(world.endpoint(name="other"), node, State.READY)
    world.report(node, said(other.id, Phase.FAILED, reason="engine_exited"))
    assert [start.ready for start in Start.objects.filter(replica=other)] == [True]


def test_a_gateway_ends_it(world: World, node: Node) -> None:
    """The first word counts, of a start that ended just now."""
    replica = world.replica(world.endpoint(), node, State.READY)
    told(replica)
    assert one(replica).routed_at is None  # the tests' clock is long past
    Start.objects.update(ended_at=database_clock())
    told(replica)
    first = one(replica).routed_at
    assert first is not None and (one(replica).routed_s or 0.0) < 30
    told(replica)
    assert one(replica).routed_at == first


def told(replica: Replica) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT endpoints_note_routed(%s)", [[replica.id]])


def database_clock() -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def test_figures_are_by_tier_and_never_mixed(world: World, node: Node) -> None:
    replica = world.replica(world.endpoint(), node, State.READY)
    Start.objects.all().delete()
    ended = world.now
    for tier, total_s in [("warm", 20.0), *(("standby", float(n)) for n in range(1, 21))]:
        Start.objects.create(
            endpoint=replica.endpoint, replica=replica, tier=tier, ready=True, reason="placed",
            asked_at=ended, ended_at=ended, routed_at=ended + timedelta(seconds=0.5),
            total_s=total_s, phases={"loaded": total_s}, missed=total_s > 18,
        )  # fmt: skip
    standby, warm = starts.measured(replica.endpoint)
    assert (standby.tier, standby.count, standby.missed) == ("standby", 20, 2)
    assert standby.total == (10.5, 19.5)
    assert standby.phases["loaded"] == (10.0, 19.0)
    assert standby.phases["routed"] == (0.5, 0.5) and standby.phases["spawned"] == (0.0, 0.0)
    assert (warm.tier, warm.count, warm.total) == ("warm", 1, (20.5, 20.5))


seconds = st.floats(0, 1e6)


@given(
    seconds,
    seconds,
    st.dictionaries(st.sampled_from([*NODE, "draining"]), st.floats(allow_nan=False)),
)
def test_phases_add_up_to_the_whole(total: float, queued: float, node: dict[str, float]) -> None:
    spent = starts.timed(total, queued, node)
    assert set(spent) == set(starts.PHASES) - {"routed"}
    assert all(part >= 0 for part in spent.values())
    assert sum(spent.values()) == pytest.approx(total, abs=0.01)
