"""How an endpoint follows traffic, clock and caps, on a real database; time is told."""

import threading
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections

from billing.pricing import prices
from controlplane.endpoints import deciding, observe, services, versions
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Activity, Endpoint, Replica, Scaling, Start
from controlplane.endpoints.rollout_plan import RolloutPlan
from controlplane.endpoints.states import Reason
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.scaling.gaps import GapHistory
from tests.endpoints.world import ACTOR, World, said
from workers import provisioning

READY = wire.Phase.READY


def row(world: World, endpoint: Endpoint, running: int = 0, **facts: Any) -> None:
    """What a gateway's worker writes now; with nothing running, something just ended."""
    facts = {"in_flight": max(1, running), "waiting": 0} | facts
    if not running:
        facts.setdefault("idle_s", 0.0)
    Activity.objects.create(
        endpoint_id=endpoint.id, gateway_id="gw", running=running, at=world.now, **facts
    )


def beat(world: World) -> None:
    for node in Node.objects.all():
        world.heartbeat(node)


def settle(world: World, endpoint: Endpoint) -> list[str]:
    """Reconcile, and have each node do what it is told."""
    beat(world)
    for _ in range(3):
        provisioning.sweep(now=world.now)
        for node in Node.objects.all():
            reports = []
            for replica in Replica.objects.filter(node=node, released_at=None):
                wish = world.desired(node).get(replica.id)
                phase = READY if wish is not None and wish.run else wire.Phase.STOPPED
                engine = wire.EngineReport(version="1", max_num_seqs=4, kv_cache_tokens=10_000)
                reports.append(said(replica.id, phase, engine=engine))
            world.report(node, *reports)
    return [state for state in world.states(endpoint) if state != "stopped"]


def history(endpoint: Endpoint) -> GapHistory:
    return GapHistory.from_data(scaling(endpoint).gaps or {})


def scaling(endpoint: Endpoint) -> Scaling:
    return Scaling.objects.get(endpoint=endpoint)


def set_to(world: World, endpoint: Endpoint, **asked: Any) -> None:
    services.update(actor=ACTOR, endpoint=endpoint, now=world.now, **asked)


def test_what_a_tenant_gets_without_a_word_is_predictable(world: World, node: Node) -> None:
    endpoint = world.endpoint()
    assert (endpoint.keep_alive, endpoint.scale_to_zero_timeout_s) == ("predictable", 3600)
    assert (endpoint.min_replicas, endpoint.max_replicas) == (1, 1)
    assert (endpoint.schedules, endpoint.bursts, endpoint.keep_warm_cap) == ([], [], None)
    assert settle(world, endpoint) == ["ready"]


# --- load -----------------------------------------------------------------------------------


def test_a_load_beyond_what_is_ready_is_met_within_two_seconds(world: World) -> None:
    """Over several nodes. Ten requests at four a replica, of which 70 % are aimed at."""
    for number in range(4):
        world.node(f"n{number}", devices=1)
    endpoint = world.endpoint(max_replicas=4)
    assert settle(world, endpoint) == ["ready"]
    world.later(100)
    beat(world)
    for _ in range(4):
        row(world, endpoint, 10, pressed=True)
        provisioning.reconcile(endpoint.id, now=world.later(0.5))
    assert world.states(endpoint) == ["ready", "placed", "placed", "placed"]
    assert scaling(endpoint).why == "load"
    assert len(set(Replica.objects.values_list("node_id", flat=True))) == 4
    assert {r.reason for r in Replica.objects.filter(state="placed")} == {Reason.PLACED}
    assert settle(world, endpoint) == ["ready"] * 4


def test_prompts_that_queue_beyond_the_endpoints_own_target_ask_for_more(world: World) -> None:
    """1,600 tokens at 800 a second are 2 s of prefill: two replicas full, or half of one."""
    world.node(devices=4)
    endpoint = world.endpoint(max_replicas=4, ttft_target_s=4.0)
    version = endpoint.generation
    assert settle(world, endpoint) == ["ready"]
    world.later(100)

    def queue() -> list[str]:
        beat(world)
        for _ in range(6):
            row(world, endpoint, 1, uncached_tokens=1600, prefill_tps=800.0, pressed=True)
            provisioning.reconcile(endpoint.id, now=world.later(0.5))
        return [state for state in world.states(endpoint) if state != "stopped"]

    assert queue() == ["ready"]
    set_to(world, endpoint, ttft_target_s=1.0)
    assert queue() == ["ready", "placed", "placed"]
    assert (scaling(endpoint).why, scaling(endpoint).replicas) == ("load", 3)
    endpoint.refresh_from_db()
    assert endpoint.generation == version  # it scales, and is no other version


def test_it_goes_down_by_what_the_last_minute_needed_and_never_below_the_least(
    world: World,
) -> None:
    world.node(devices=4)
    endpoint = world.endpoint(min_replicas=1, max_replicas=4)
    settle(world, endpoint)
    for _ in range(5):
        row(world, endpoint, 10, pressed=True)
        settle(world, endpoint)
        world.later(0.5)
    assert settle(world, endpoint) == ["ready"] * 4
    for _ in range(14):
        row(world, endpoint, 1)
        world.later(5)
        settle(world, endpoint)
    assert settle(world, endpoint) == ["ready"]
    ended = Replica.objects.filter(state="stopped")
    arcs = {r.transitions.get(to_state="draining").reason for r in ended}
    assert arcs == {Reason.SCALE_DOWN}


def test_a_hint_asks_for_a_look_twice_a_second_at_most_and_not_at_the_most(
    world: World, node: Node
) -> None:
    endpoint = world.endpoint(min_replicas=0, max_replicas=1)
    assert deciding.heard(endpoint.id, world.now)
    assert not deciding.heard(endpoint.id, world.later(0.3))
    assert deciding.heard(endpoint.id, world.later(0.2))
    row(world, endpoint, 9, waiting=9)
    provisioning.reconcile(endpoint.id, now=world.now)
    assert not deciding.heard(endpoint.id, world.later(1))  # it has what it may have
    assert not deciding.heard("ep_unknown", world.now)


# --- pause, wake ------------------------------------------------------------------------------


def test_paused_and_resumed(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0, max_replicas=2)
    services.stop(actor=ACTOR, endpoint=endpoint, now=world.now)
    row(world, endpoint, 3, waiting=3)
    assert settle(world, endpoint) == []
    services.start(actor=ACTOR, endpoint=endpoint, now=world.now)
    assert settle(world, endpoint) == ["ready"]


def test_a_wake_lasts_until_something_is_ready(world: World, node: Node) -> None:
    """It is one request: then the time-out runs, and it is not woken again by itself."""
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=30)
    assert services.request_wake(endpoint.id, world.now)
    world.reconcile(endpoint)
    world.later(100)  # a long start is no idleness
    beat(world)
    world.reconcile(endpoint)
    assert world.states(endpoint) == ["placed"]
    assert settle(world, endpoint) == ["ready"]
    world.later(29)
    assert settle(world, endpoint) == ["ready"]
    world.later(31)
    assert settle(world, endpoint) == []
    world.later(31)
    assert settle(world, endpoint) == []


def test_a_wake_that_leads_to_nothing_is_forgotten(world: World) -> None:
    world.node(devices=1)
    settle(world, world.endpoint(name="other"))
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=30)
    assert services.request_wake(endpoint.id, world.now)
    assert settle(world, endpoint) == ["requested"]
    world.later(deciding.WAKE_LASTS_S + 1)
    assert settle(world, endpoint) == []


# --- keep-alive ---------------------------------------------------------------------------------


def gap(world: World, endpoint: Endpoint, seconds: float) -> None:
    """One short request, and then nothing for so long."""
    row(world, endpoint, 1)
    settle(world, endpoint)
    world.later(1)
    row(world, endpoint, 0)
    settle(world, endpoint)
    world.later(seconds)


@pytest.mark.parametrize(("usual_s", "waits_s"), [(80, 80), (3600, 45)])
def test_automatic_learns_from_its_own_gaps(
    world: World, node: Node, usual_s: int, waits_s: int
) -> None:
    """A start takes 18 s: the break-even is five times that, and the bounds are 45 and 180 s."""
    endpoint = world.endpoint(min_replicas=0, keep_alive="automatic")
    gap(world, endpoint, 10)
    Start.objects.update(total_s=18)
    past = GapHistory.of([float(usual_s)] * 50)
    Scaling.objects.update(gaps=past.as_data())
    row(world, endpoint, 1)
    settle(world, endpoint)
    past.add(10.0)
    assert history(endpoint).as_data() == past.as_data()
    row(world, endpoint, 0)
    assert settle(world, endpoint) == ["ready"]
    world.later(waits_s - 1)
    assert settle(world, endpoint) == ["ready"]
    world.later(waits_s / 8)  # bins are 9 % wide
    assert settle(world, endpoint) == []


def test_two_that_look_at_once_add_a_gap_once(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=600)
    gap(world, endpoint, 100)
    row(world, endpoint, 1)
    looks = [observe.pictures(now=world.now, ids=[endpoint.id]).looked for _ in range(2)]
    assert [one.looks[0].quiet.gaps for one in looks] == [(100.0,)] * 2
    for one in looks:
        deciding.keep(one)
    kept = history(endpoint).as_data()
    assert kept == GapHistory.of([100.0]).as_data()


# --- the clock ------------------------------------------------------------------------------------


def test_a_schedule_begins_one_start_early_and_ends(world: World) -> None:
    world.node(devices=2)
    endpoint = world.endpoint(
        min_replicas=0,
        max_replicas=2,
        scale_to_zero_timeout_s=60,
        schedules=[{"cron": "5 12 * * *", "time_zone": "UTC", "duration_s": 600, "replicas": 2}],
    )
    world.later(300 - deciding.START_S - 1)
    assert settle(world, endpoint) == []
    world.later(1)
    assert settle(world, endpoint) == ["ready"] * 2
    arcs = {r.transitions.earliest("id").reason for r in Replica.objects.all()}
    assert arcs == {Reason.SCHEDULED}
    world.later(deciding.START_S + 599)
    assert settle(world, endpoint) == ["ready"] * 2
    world.later(62)
    assert settle(world, endpoint) == []


def test_twenty_workers_in_three_minutes(world: World) -> None:
    world.node(devices=8)
    endpoint = world.endpoint(min_replicas=0, max_replicas=8, engine_args={"max_num_seqs": 4})
    services.declare_burst(
        actor=ACTOR, endpoint=endpoint, now=world.now, workers=20, in_s=180, for_s=600
    )
    world.later(180 - deciding.START_S - 1)
    assert settle(world, endpoint) == []
    world.later(1)
    assert settle(world, endpoint) == ["ready"] * 8  # 20 at 2.8 each
    with pytest.raises(Invalid):
        services.declare_burst(actor=ACTOR, endpoint=endpoint, now=world.now, workers=0, in_s=1)


# --- caps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [{"seconds": 90}, {"euro": "0.03"}])
def test_what_may_wait_warm_in_a_day_is_capped(
    world: World, node: Node, cap: dict[str, Any]
) -> None:
    """0.12 EUR an hour at ten devices' price: 0.03 EUR are 90 s."""
    prices.publish(
        actor=ACTOR, meter="device_seconds", device_kind="cpu", amount=Decimal("1.2"),
        valid_from=world.now, now=world.now,
    )  # fmt: skip
    endpoint = world.endpoint(min_replicas=0, keep_warm_cap=cap)
    gap(world, endpoint, 60)
    assert settle(world, endpoint) == ["ready"]
    gap(world, endpoint, 31)
    assert settle(world, endpoint) == []
    assert scaling(endpoint).why == "capped"
    (ended,) = Replica.objects.filter(state="stopped")
    assert ended.transitions.get(to_state="draining").reason == Reason.CAPPED
    # A request still starts what it needs, and keeps it while it is served.
    row(world, endpoint, 1, waiting=1)
    assert settle(world, endpoint) == ["ready"]
    world.later(2)
    row(world, endpoint, 0)
    world.later(1)
    assert settle(world, endpoint) == []
    world.later(86_400)
    gap(world, endpoint, 60)
    assert settle(world, endpoint) == ["ready"]


def test_what_waits_warm_is_priced_by_its_own_version(world: World) -> None:
    """1.20 EUR an hour and device: half a minute of one device is a cent."""
    world.node(devices=3)
    prices.publish(
        actor=ACTOR, meter="device_seconds", device_kind="cpu", amount=Decimal("1.2"),
        valid_from=world.now, now=world.now,
    )  # fmt: skip
    endpoint = world.endpoint(min_replicas=0, keep_warm_cap={"euro": "10"})

    def half_a_minute() -> Decimal:
        """What it costs to wait so long for a request."""
        beat(world)
        row(world, endpoint, 0)
        provisioning.reconcile(endpoint.id, now=world.now)
        before = scaling(endpoint).warm_euro
        world.later(30)
        beat(world)
        provisioning.reconcile(endpoint.id, now=world.now)
        return scaling(endpoint).warm_euro - before

    row(world, endpoint, 1, waiting=1)
    assert settle(world, endpoint) == ["ready"]
    assert half_a_minute() == Decimal("0.01")
    versions.change(
        actor=ACTOR, endpoint=endpoint, changes={"device_count": 2}, plan=RolloutPlan(),
        now=world.now,
    )  # fmt: skip
    endpoint.refresh_from_db()
    assert endpoint.device_count == 2
    assert half_a_minute() == Decimal("0.01")  # the old one still waits
    assert settle(world, endpoint) == ["ready"]
    assert half_a_minute() == Decimal("0.02")


# --- what cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"keep_alive": "always"}, "keep_alive"),
        ({"schedules": [{"cron": "* *", "time_zone": "UTC", "duration_s": 60}]}, "schedules"),
        ({"schedules": [{"cron": "* * * * *", "time_zone": "x", "duration_s": 60}]}, "schedules"),
        ({"schedules": [{"cron": "* * * * *", "duration_s": 60}]}, "schedules"),
        (
            {"schedules": [
                {"cron": "* * * * *", "time_zone": "UTC", "duration_s": 60, "replicas": 2}
            ]},
            "schedules",
        ),
        ({"schedules": "daily"}, "schedules"),
        ({"bursts": [{"workers": 1, "at": "2026-03-04T12:00:00", "until": "x"}]}, "bursts"),
        (
            {"bursts": [{"workers": 1, "at": "2026-03-04T12:00Z", "until": "2026-03-04T11:00Z"}]},
            "bursts",
        ),
        ({"keep_warm_cap": {}}, "keep_warm_cap"),
        ({"keep_warm_cap": {"euro": "-1"}}, "keep_warm_cap"),
        ({"keep_warm_cap": {"euro": "NaN"}}, "keep_warm_cap"),
        ({"keep_warm_cap": {"seconds": 1, "time_zone": "Nowhere/Land"}}, "keep_warm_cap"),
        ({"keep_warm_cap": {"seconds": True}}, "keep_warm_cap"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_creation_and_later(
    world: World, node: Node, wish: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as error:
        world.endpoint(**wish)
    assert error.value.field == field
    endpoint = world.endpoint()
    with pytest.raises(Invalid) as error:
        set_to(world, endpoint, **wish)
    assert error.value.field == field


def test_a_change_is_looked_at_even_if_its_hint_is_lost(world: World, node: Node) -> None:
    endpoint = world.endpoint(max_replicas=2)
    assert settle(world, endpoint) == ["ready"]
    set_to(world, endpoint, min_replicas=2)
    assert settle(world, endpoint) == ["ready"] * 2
    set_to(world, endpoint, min_replicas=1, max_replicas=1)
    assert settle(world, endpoint) == ["ready"]


def test_one_that_cannot_be_decided_stops_no_other(
    world: World, node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = world.endpoint(name="broken"), world.endpoint(name="sound")
    Endpoint.objects.filter(id=broken.id).update(schedules=[{"cron": "no"}])
    provisioning.sweep(now=world.now)
    assert (world.states(broken), world.states(sound)) == ([], ["placed"])
    assert broken.id in caplog.text


@pytest.mark.django_db(transaction=True)
def test_many_looks_at_once_count_each_warm_second_once() -> None:
    world = World.build()
    world.node()
    endpoint = world.endpoint(min_replicas=0, keep_warm_cap={"seconds": 1000})
    gap(world, endpoint, 0)
    start, begin = threading.Barrier(4), world.later(1)
    provisioning.reconcile(endpoint.id, now=begin)

    def run(after: datetime) -> None:
        start.wait()
        for _ in range(3):
            provisioning.reconcile(endpoint.id, now=after)
        connections.close_all()

    moments = [begin + timedelta(seconds=10)] * 4
    threads = [threading.Thread(target=run, args=(moment,)) for moment in moments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = scaling(endpoint)
    assert before.warm == 1
    assert before.warm_s == pytest.approx(11.0)
