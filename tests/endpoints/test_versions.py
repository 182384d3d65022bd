"""A change of spec is a version; it takes over replica by replica, or the old one serves on."""

import json
from typing import Any

import pytest
from django.conf import settings
from django.db import IntegrityError, connection, transaction

from compliance.models import AuditEvent
from controlplane.endpoints import rollout_plan, rollout_rows, rollouts, services, versions
from controlplane.endpoints.conditions import Condition, summarize
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica, Rollout, VersionHealth
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy.errors import NotFound
from tests.endpoints.world import ACTOR, World, said


def change(world: World, endpoint: Endpoint, plan: dict[str, Any] | None = None, **to: Any) -> None:
    """Roll out a version with other engine arguments, or with what is given."""
    versions.change(
        actor=ACTOR,
        endpoint=endpoint,
        changes=to or {"engine_args": {"max_num_seqs": world.now.second + 8}},
        plan=rollout_plan.asked(**(plan or {})),
        now=world.now,
    )


def live(endpoint: Endpoint) -> list[tuple[int, str]]:
    rows = Replica.objects.filter(endpoint=endpoint, state__in=LIVE).order_by("id")
    return list(rows.values_list("generation", "state"))


def settle(world: World, endpoint: Endpoint, *nodes: Node, broken: tuple[int, ...] = ()) -> None:
    """Nodes do what they are told, one step; an engine of version `broken` ends at its start."""
    for node in nodes:
        reports = []
        for id, wish in world.desired(node).items():
            phase = wire.Phase.READY if wish.run else wire.Phase.STOPPED
            if wish.run and Replica.objects.get(id=id).generation in broken:
                reports.append(said(id, wire.Phase.FAILED, reason="engine_exited", detail="no"))
            else:
                reports.append(said(id, phase))
        world.report(node, *reports)
    world.reconcile(endpoint)


def until_over(
    world: World, endpoint: Endpoint, node: Node, broken: tuple[int, ...] = ()
) -> Rollout:
    """Step by step; at each one a replica that was proved serves."""
    for _ in range(60):
        rollout = rollout_rows.newest(endpoint)
        assert rollout is not None
        if rollout.state != "progressing":
            return rollout
        assert (State.READY in {state for _, state in live(endpoint)}) or not live(endpoint)
        world.later(10)
        settle(world, endpoint, node, broken=broken)
    raise AssertionError("it never ends")


def serving(world: World, node: Node, **spec: Any) -> Endpoint:
    endpoint = world.endpoint(**spec)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    assert {state for _, state in live(endpoint)} == {State.READY}
    return endpoint


def body(event: AuditEvent) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(event.body))
    return found


def progressing(endpoint: Endpoint) -> Condition:
    endpoint.refresh_from_db()
    replicas = list(endpoint.replicas.all())
    found = summarize(endpoint, replicas, rollout_rows.newest(endpoint)).conditions
    return next(one for one in found if one.type == "Progressing")


def test_the_spec_is_kept_as_it_was_asked_for(world: World, node: Node) -> None:
    endpoint = serving(world, node, engine_args={"max_model_len": 1024})
    change(world, endpoint, engine_args={"max_model_len": 2048}, revision="v2")
    first, second = EndpointVersion.objects.filter(endpoint=endpoint).order_by("number")
    assert (first.number, second.number) == (1, 2)
    assert first.spec["engine_args"] == {"max_model_len": 1024}
    assert second.spec["engine_args"] == {"max_model_len": 2048}
    assert versions.differences(first, second) == [
        ("revision", "", "v2"),
        ("engine_args.max_model_len", 1024, 2048),
    ]
    event = AuditEvent.objects.get(action="endpoint.update")
    assert body(event)["change"] == [
        {"path": "revision", "from": "", "to": "v2"},
        {"path": "engine_args", "from": None, "to": ["max_model_len"]},
        {"path": "version", "from": 1, "to": 2},
    ]
    wrongs: tuple[dict[str, Any], ...] = ({"spec": {}}, {"number": 7})
    for wrong in wrongs:
        with pytest.raises(IntegrityError, match="immutable"), transaction.atomic():
            EndpointVersion.objects.filter(id=first.id).update(**wrong)
    with pytest.raises(IntegrityError, match="immutable"), transaction.atomic():
        second.delete()
    assert EndpointVersion.objects.filter(id=first.id).update(note="erased") == 1


def test_a_replica_runs_a_version_that_there_is(world: World, node: Node) -> None:
    endpoint = serving(world, node)
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        Replica.objects.filter(endpoint=endpoint).update(generation=9)
        cursor.execute("SET CONSTRAINTS replica_version IMMEDIATE")


def test_a_node_is_told_what_each_replicas_version_says(world: World, node: Node) -> None:
    endpoint = serving(world, node)
    change(world, endpoint, engine_args={"max_num_seqs": 7})
    world.reconcile(endpoint)
    specs = [wish.spec for wish in world.desired(node).values()]
    assert sorted(str(spec.engine_args) for spec in specs if spec) == ["{'max_num_seqs': 7}", "{}"]


def test_what_changes_nothing_makes_no_version(world: World, node: Node) -> None:
    endpoint = serving(world, node, revision="main")
    before = AuditEvent.objects.count()
    change(world, endpoint, revision="main")
    versions.roll_back(actor=ACTOR, endpoint=endpoint, number=1, now=world.now)
    assert (endpoint.versions.count(), Rollout.objects.count()) == (1, 0)
    assert AuditEvent.objects.count() == before
    with pytest.raises(NotFound):
        versions.roll_back(actor=ACTOR, endpoint=endpoint, number=2, now=world.now)
    with pytest.raises(Invalid, match="no version before"):
        versions.roll_back(actor=ACTOR, endpoint=endpoint, now=world.now)
    with pytest.raises(Invalid, match="no node has devices"):
        change(world, endpoint, device_kind="nvidia-h100")
    with pytest.raises(TypeError):
        change(world, endpoint, max_replicas=3)


def test_a_rolling_update_beside_the_old_ones(world: World) -> None:
    node = world.node(devices=6)
    endpoint = serving(world, node, min_replicas=3, max_replicas=3)
    change(world, endpoint)
    world.reconcile(endpoint)
    # One of the new version is to prove itself before the others are made.
    assert live(endpoint) == [(1, "ready")] * 3 + [(2, "placed")]
    settle(world, endpoint, node)
    states = sorted(live(endpoint))
    assert states[:3] == [(1, "draining"), (1, "ready"), (1, "ready")]
    assert [state for state in states if state[0] == 2] == [(2, "placed")] * 2 + [(2, "ready")]
    assert until_over(world, endpoint, node).state == "complete"
    assert live(endpoint) == [(2, "ready")] * 3
    assert progressing(endpoint).reason == "rollout_complete"
    why = endpoint.replicas.filter(generation=1).values_list("transitions__reason", flat=True)
    assert Reason.SPEC_CHANGED in set(why)


def test_one_by_one_where_no_device_is_free(world: World) -> None:
    node = world.node(devices=3)
    endpoint = serving(world, node, min_replicas=3, max_replicas=3)
    change(world, endpoint)
    least = 3
    for _ in range(40):
        world.later(10)
        settle(world, endpoint, node)
        least = min(least, sum(state == State.READY for _, state in live(endpoint)))
        if live(endpoint) == [(2, "ready")] * 3:
            break
    assert live(endpoint) == [(2, "ready")] * 3
    assert least == 2


def test_a_version_that_never_gets_ready_leaves_the_old_one_serving(world: World) -> None:
    node = world.node(devices=3)
    endpoint = serving(world, node, min_replicas=2, max_replicas=2)
    kept = set(endpoint.replicas.values_list("id", flat=True))
    change(world, endpoint, revision="broken")
    rollout = until_over(world, endpoint, node, broken=(2,))
    assert (rollout.state, rollout.reason) == ("failed", "start_failed")
    assert rollout.failures == 3
    assert "engine_exited: no" in rollout.detail
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.revision, endpoint.failures) == (1, "", 0)
    assert set(endpoint.replicas.filter(state=State.READY).values_list("id", flat=True)) == kept
    said_so = progressing(endpoint)
    assert (said_so.status, said_so.reason) == ("False", "start_failed")
    assert "change the spec" in said_so.message
    event = AuditEvent.objects.get(action="rollout.fail")
    assert body(event)["outcome"]["reason_code"] == "start_failed"


def test_one_that_hangs_at_its_start_fails_at_the_deadline(world: World) -> None:
    node = world.node(devices=2)
    endpoint = serving(world, node)
    change(world, endpoint, {"progress_deadline_s": 60})
    world.reconcile(endpoint)
    (new,) = endpoint.replicas.filter(generation=2)
    (old,) = endpoint.replicas.filter(generation=1)

    def report(later_s: float, **facts: Any) -> str:
        world.later(later_s)
        ready = said(old.id, wire.Phase.READY)
        world.report(node, ready, said(new.id, wire.Phase.FETCHING, **facts))
        world.reconcile(endpoint)
        newest = rollout_rows.newest(endpoint)
        assert newest is not None
        return newest.reason

    assert report(50) == "starting"
    # More bytes of its weights are progress.
    assert report(5, bytes_done=10, bytes_total=100) == "starting"
    assert report(50, bytes_done=10, bytes_total=100, stalled_s=50) == "starting"
    assert report(20, bytes_done=10, bytes_total=100, stalled_s=70) == "progress_deadline_exceeded"
    assert (1, "ready") in live(endpoint)
    assert (2, "ready") not in live(endpoint)


def test_a_first_version_that_never_served_is_nothing_to_go_back_to(world: World) -> None:
    node = world.node(devices=2)
    endpoint = world.endpoint()
    world.reconcile(endpoint)
    settle(world, endpoint, node, broken=(1,))
    change(world, endpoint, revision="better")
    endpoint.refresh_from_db()
    assert endpoint.retry_at is None  # the new one is tried at once
    for _ in range(30):
        world.later(10)
        settle(world, endpoint, node, broken=(1, 2))
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.revision) == (2, "better")
    newest = rollout_rows.newest(endpoint)
    assert newest is not None
    assert newest.state == "failed"
    assert endpoint.failures > 0


def test_back_by_hand_in_the_middle_keeps_what_runs(world: World) -> None:
    node = world.node(devices=6)
    endpoint = serving(world, node, min_replicas=3, max_replicas=3)
    kept = set(endpoint.replicas.values_list("id", flat=True))
    change(world, endpoint)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    versions.roll_back(actor=ACTOR, endpoint=endpoint, note="looks odd", now=world.now)
    for _ in range(4):
        world.later(1)
        settle(world, endpoint, node)
    assert live(endpoint) == [(1, "ready")] * 3
    ran_on = endpoint.replicas.filter(state=State.READY, id__in=kept)
    assert ran_on.count() == 2  # one had been handed over already
    reasons = endpoint.replicas.filter(generation=2).values_list("transitions__reason", flat=True)
    assert Reason.ROLLED_BACK in set(reasons)
    newest = rollout_rows.newest(endpoint)
    assert newest is not None
    assert (newest.state, newest.reason) == ("aborted", "rolled_back")


def test_back_to_any_earlier_version(world: World) -> None:
    node = world.node(devices=4)
    endpoint = serving(world, node)
    for revision in ("b", "c"):
        change(world, endpoint, revision=revision)
        until_over(world, endpoint, node)
    endpoint.refresh_from_db()
    assert rollout_rows.previous(endpoint) == 2
    versions.roll_back(actor=ACTOR, endpoint=endpoint, number=1, now=world.now)
    assert until_over(world, endpoint, node).state == "complete"
    endpoint.refresh_from_db()
    assert (endpoint.generation, endpoint.revision, live(endpoint)) == (1, "", [(1, "ready")])
    assert endpoint.versions.count() == 3  # going back makes none
    change(world, endpoint, revision="d")
    endpoint.refresh_from_db()
    assert endpoint.generation == 4


def test_another_change_supersedes_and_falls_back_to_what_served(world: World) -> None:
    node = world.node(devices=3)
    endpoint = serving(world, node)
    change(world, endpoint, revision="b")
    world.reconcile(endpoint)
    change(world, endpoint, revision="c")
    rollout = until_over(world, endpoint, node, broken=(3,))
    assert (rollout.from_number, rollout.to_number, rollout.state) == (1, 3, "failed")
    for _ in range(3):
        settle(world, endpoint, node)
    assert live(endpoint) == [(1, "ready")]
    assert list(endpoint.rollouts.values_list("state", flat=True)) == ["failed", "superseded"]


def test_asleep_in_the_middle_it_goes_on_with_the_next_request(world: World) -> None:
    node = world.node(devices=2)
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=10)
    change(world, endpoint, {"progress_deadline_s": 30})
    for _ in range(10):
        world.later(10)
        settle(world, endpoint, node)
    assert progressing(endpoint).reason == "asleep"
    assert live(endpoint) == []
    assert services.request_wake(endpoint.id, world.now)
    world.reconcile(endpoint)
    assert live(endpoint) == [(2, "placed")]
    settle(world, endpoint, node)
    assert live(endpoint) == [(2, "ready")]
    for _ in range(3):
        world.later(10)
        settle(world, endpoint, node)
    assert live(endpoint) == []
    assert progressing(endpoint).reason == "asleep"  # it was not watched for a minute yet


def test_asleep_a_broken_version_gives_way_to_the_old_one(world: World) -> None:
    node = world.node(devices=2)
    endpoint = world.endpoint(min_replicas=0, scale_to_zero_timeout_s=600)
    assert services.request_wake(endpoint.id, world.now)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    assert live(endpoint) == [(1, "ready")]
    world.later(700)
    settle(world, endpoint, node)
    settle(world, endpoint, node)
    assert live(endpoint) == []
    change(world, endpoint, revision="broken")
    assert services.request_wake(endpoint.id, world.now)
    for _ in range(12):
        world.later(10)
        settle(world, endpoint, node, broken=(2,))
    assert live(endpoint) == [(1, "ready")]
    endpoint.refresh_from_db()
    assert endpoint.generation == 1


def canary(world: World, node: Node, **plan: Any) -> Endpoint:
    endpoint = serving(world, node, min_replicas=2, max_replicas=2)
    change(world, endpoint, {"strategy": "canary", "share": 10, "for_s": 100, **plan})
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    assert live(endpoint) == [(1, "ready"), (1, "ready"), (2, "ready")]
    return endpoint


def seen(
    endpoint: Endpoint, version: int, requests: int, errors: int = 0, bucket: int = 80
) -> None:
    """What a gateway writes."""
    rollout = rollout_rows.under_way(endpoint.id)
    assert rollout is not None
    VersionHealth.objects.create(
        rollout_id=rollout.id,
        version=version,
        gateway_id="gw",
        requests=requests,
        errors=errors,
        first={},
        total={str(bucket): requests - errors},
    )


def test_a_canary_takes_over_when_it_has_proved_itself(world: World) -> None:
    node = world.node(devices=4)
    endpoint = canary(world, node)
    assert progressing(endpoint).reason == "canary"
    world.later(120)
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "waiting_for_traffic"
    world.later(3600)  # and no deadline runs while it is watched
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "waiting_for_traffic"
    seen(endpoint, 1, 180)
    seen(endpoint, 2, 20)
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "replacing"
    assert until_over(world, endpoint, node).state == "complete"
    assert live(endpoint) == [(2, "ready")] * 2


def test_a_canary_goes_by_its_steps(world: World) -> None:
    node = world.node(devices=4)
    steps = [{"share": 1, "for_s": 10}, {"share": 60, "for_s": 10}]
    endpoint = serving(world, node, min_replicas=2, max_replicas=2)
    change(world, endpoint, {"strategy": "canary", "steps": steps, "min_requests": 1})
    shares = []
    for _ in range(20):
        world.later(6)
        settle(world, endpoint, node)
        rollout = rollout_rows.newest(endpoint)
        assert rollout is not None
        if rollout.state == "complete":
            break
        shares.append((rollout.share, sum(generation == 2 for generation, _ in live(endpoint))))
        seen(endpoint, 2, 1)
    assert progressing(endpoint).reason == "rollout_complete"
    assert (1.0, 1) in shares
    assert (60.0, 2) in shares  # two of two carry so much
    assert sorted(set(shares), key=shares.index)[0] == (1.0, 1)


@pytest.mark.parametrize(
    ("reason", "errors", "bucket"), [("error_rate", 20, 80), ("latency", 0, 100)]
)
def test_a_canary_that_serves_worse_goes(
    world: World, reason: str, errors: int, bucket: int
) -> None:
    node = world.node(devices=3)
    endpoint = canary(world, node)
    seen(endpoint, 1, 180)
    seen(endpoint, 2, 20, errors, bucket)
    settle(world, endpoint, node)
    rollout = rollout_rows.newest(endpoint)
    assert rollout is not None
    assert (rollout.state, rollout.reason) == ("failed", reason)
    assert rollout.health["new"]["requests"] == 20
    settle(world, endpoint, node)
    assert live(endpoint) == [(1, "ready")] * 2
    condition = progressing(endpoint)
    assert (condition.status, condition.reason) == ("False", reason)
    assert "p = " in condition.message


def test_a_canary_is_promoted_and_aborted_by_hand(world: World) -> None:
    node = world.node(devices=4)
    endpoint = canary(world, node, automatic=False)
    seen(endpoint, 2, 100)
    world.later(3600)
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "waiting_for_promotion"
    rollouts.promote(actor=ACTOR, endpoint=endpoint, now=world.now)
    assert until_over(world, endpoint, node).state == "complete"
    change(world, endpoint, {"strategy": "canary"})
    with pytest.raises(Invalid, match="ready"):
        rollouts.promote(actor=ACTOR, endpoint=endpoint, now=world.now)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    rollouts.abort(actor=ACTOR, endpoint=endpoint, now=world.now)
    settle(world, endpoint, node)
    settle(world, endpoint, node)
    assert live(endpoint) == [(2, "ready")] * 2
    with pytest.raises(Invalid, match="no rollout"):
        rollouts.abort(actor=ACTOR, endpoint=endpoint, now=world.now)


def test_a_canary_waits_for_devices_of_its_own(world: World) -> None:
    node = world.node(devices=2)
    endpoint = serving(world, node, min_replicas=2, max_replicas=2)
    change(world, endpoint, {"strategy": "canary", "progress_deadline_s": 60})
    settle(world, endpoint, node)
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "waiting_for_devices"
    world.later(70)
    settle(world, endpoint, node)
    settle(world, endpoint, node)
    assert progressing(endpoint).reason == "progress_deadline_exceeded"
    assert live(endpoint) == [(1, "ready")] * 2


def test_more_devices_are_paid_for_as_the_version_says(world: World) -> None:
    node = world.node(devices=4)
    endpoint = serving(world, node)
    change(world, endpoint, device_count=2)
    world.reconcile(endpoint)
    new = endpoint.replicas.get(generation=2)
    assert new.claims.count() == 2
    assert new.version.spec["engine_args"] == {"tensor_parallel_size": 2}
    change(world, endpoint, device_count=1)
    endpoint.refresh_from_db()
    assert endpoint.engine_args == {}


def test_the_back_off_of_a_new_version_holds_up_no_old_one(world: World) -> None:
    node = world.node(devices=3)
    endpoint = serving(world, node)
    change(world, endpoint, revision="broken")
    world.reconcile(endpoint)
    settle(world, endpoint, node, broken=(2,))
    rollout = rollout_rows.under_way(endpoint.id)
    assert rollout is not None
    assert rollout.retry_at is not None
    assert (rollout.retry_at - world.now).total_seconds() == settings.RETRY_BASE_S
    (old,) = endpoint.replicas.filter(state=State.READY)
    world.report(node, said(old.id, wire.Phase.FAILED, reason="engine_missing"))
    world.reconcile(endpoint)
    assert (1, "placed") in live(endpoint)
