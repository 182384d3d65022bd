"""Engine versions: which may be chosen, and how a blocked one is told of and rolled off."""

import re
from datetime import timedelta

import pytest

from compliance.models import AuditEvent
from controlplane.endpoints import (
    engine_blocking,
    engine_outlook,
    engine_versions,
    image_secrets,
    rollout_rows,
    versions,
)
from controlplane.endpoints.engine_blocking import on_it, rolls_at
from controlplane.endpoints.engine_versions import Status
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EngineVersion, Replica
from controlplane.endpoints.states import LIVE, State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy.errors import Conflict
from controlplane.tenancy.models import Notice
from tests.endpoints.test_versions import live, settle, until_over
from tests.endpoints.world import ACTOR, World, organization, said
from tests.test_layout import ROOT

SHIPPED = "0.32.0"
NEWER = "0.33.1"
IMAGE = "registry.example/vllm:0.33.1"
DAY = timedelta(days=1)


@pytest.fixture
def shipped(world: World, settings: object) -> EngineVersion:
    settings.IMAGE_REGISTRIES = ["registry.example"]  # type: ignore[attr-defined]
    engine_versions.ship(world.now)
    return EngineVersion.objects.get(engine="vllm", version=SHIPPED)


@pytest.fixture
def newer(world: World, shipped: EngineVersion) -> EngineVersion:
    return engine_versions.add(
        actor=ACTOR, engine="vllm", version=NEWER, image=IMAGE, now=world.now
    )


def block(
    world: World, version: EngineVersion, in_: timedelta = DAY, **facts: str
) -> EngineVersion:
    deadline = world.now + in_
    return engine_blocking.block(
        actor=ACTOR, version=version, deadline=deadline, now=world.now, **facts
    )


def names(version: EngineVersion) -> list[tuple[str, bool, int]]:
    return [(one.endpoint.name, one.wishes, one.replicas) for one in on_it(version)]


def courses(world: World, version: EngineVersion) -> list[tuple[str, str]]:
    """What becomes of each, and the part of the words that says when."""
    found = engine_outlook.listed(version, world.now)
    return [(one.course.value, one.text) for one in found]


def serving(world: World, node: Node, name: str = "chat", **spec: object) -> Endpoint:
    endpoint = world.endpoint(name=name, **spec)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    assert {state for _, state in live(endpoint)} == {State.READY}
    return endpoint


# --- what there is ---------------------------------------------------------------------------


def test_what_we_ship_is_there_and_is_what_our_locks_pin(
    world: World, shipped: EngineVersion
) -> None:
    assert engine_versions.ship(world.now) == 0
    assert (shipped.status, shipped.image) == (Status.SUPPORTED, "")
    for device in ("cpu", "cuda"):
        lock = (ROOT / "requirements" / f"engine-vllm-{device}.lock").read_text()
        pinned = re.search(r"(?m)^vllm(?:-cpu)?==([0-9.]+)", lock)
        assert pinned is not None and pinned[1] == SHIPPED
    assert AuditEvent.objects.filter(action="engine_version.add").count() == 1


def test_a_version_that_nodes_do_not_bring_needs_an_image(
    world: World, newer: EngineVersion
) -> None:
    for wrong, field in (
        ({"engine": "vllm", "version": "0.31.0"}, "image"),
        ({"engine": "custom", "version": "1"}, "engine"),
        ({"engine": "vllm", "version": "../x"}, "version"),
        ({"engine": "trtllm", "version": "1.2.1", "image": "elsewhere.example/x:1"}, "image."),
    ):
        with pytest.raises(Invalid) as error:
            engine_versions.add(actor=ACTOR, now=world.now, **wrong)
        assert error.value.field.startswith(field), wrong
    with pytest.raises(Conflict):
        engine_versions.add(actor=ACTOR, engine="vllm", version=NEWER, image=IMAGE, now=world.now)


def test_the_newest_is_by_number(world: World, newer: EngineVersion) -> None:
    for version in ("0.9.0", "0.33.2rc1", "0.33.10"):
        engine_versions.add(actor=ACTOR, engine="vllm", version=version, image=IMAGE, now=world.now)
    rows = {row.version: row for row in EngineVersion.objects.all()}
    found = engine_versions.newest(rows)
    assert found is not None and found.version == "0.33.10"
    assert engine_versions._order("1.2.1") > engine_versions._order("1.2.1rc5")


# --- what may be chosen ----------------------------------------------------------------------


def test_an_endpoint_may_name_its_version(world: World, node: Node, newer: EngineVersion) -> None:
    Node.objects.filter(id=node.id).update(
        inventory={**node.inventory, "containers": "podman 4.3.1 (runc)"}
    )
    named = world.endpoint(engine_version=NEWER)
    world.reconcile(named)
    (replica,) = Replica.objects.filter(endpoint=named)
    asked = wire.SecretsRequest(replica_id=replica.id)
    assert image_secrets.grant(node, asked, world.now) == wire.Secrets()
    settle(world, named, node)
    assert live(named) == [(1, State.READY)]
    assert named.versions.get().spec["engine_version"] == NEWER
    (wish,) = world.desired(node).values()
    assert wish.spec is not None
    assert (wish.spec.engine_version, wish.spec.image) == (NEWER, wire.Image(reference=IMAGE))
    free = world.endpoint(name="free")
    assert free.engine_version == ""
    for wrong, words in (("9.9", "no version '9.9'"), ("0.31.0", "no version")):
        with pytest.raises(Invalid, match=words):
            world.endpoint(name="x", engine_version=wrong)
    with pytest.raises(Invalid, match="brings its engine"):
        world.endpoint(name="x", engine_version=NEWER, image={"reference": IMAGE})


def test_an_engine_that_has_images_alone_gets_its_newest(
    world: World, newer: EngineVersion
) -> None:
    world.node("gpu", kind="nvidia-h200")
    with pytest.raises(Invalid, match="needs an image"):
        world.endpoint(engine="trtllm", device_kind="nvidia-h200")
    engine_versions.add(
        actor=ACTOR,
        engine="trtllm",
        version="1.2.1",
        image="registry.example/trtllm:1.2.1",
        now=world.now,
    )
    endpoint = world.endpoint(engine="trtllm", device_kind="nvidia-h200")
    assert (endpoint.engine_version, endpoint.image) == ("1.2.1", None)
    with pytest.raises(Invalid, match="does not run on cpu"):
        world.endpoint(name="x", engine="trtllm")


def test_a_deprecated_one_is_warned_of(
    world: World, node: Node, shipped: EngineVersion, newer: EngineVersion
) -> None:
    for _ in range(2):
        engine_versions.deprecate(actor=ACTOR, version=shipped, note="slower starts", now=world.now)
    assert AuditEvent.objects.filter(action="engine_version.deprecate").count() == 1
    endpoint = world.endpoint(engine_version=SHIPPED)
    told = ["vllm 0.32.0 is deprecated: slower starts. Choose a newer version."]
    assert engine_versions.warnings("vllm", endpoint.engine_version) == told
    assert engine_versions.warnings("vllm", "") == told  # what nodes have is that one
    assert engine_versions.warnings("vllm", NEWER) == []


def test_a_blocked_one_cannot_be_chosen(
    world: World, node: Node, shipped: EngineVersion, newer: EngineVersion
) -> None:
    endpoint = world.endpoint(engine_version=NEWER)
    versions.change(
        actor=ACTOR, endpoint=endpoint, changes={"engine_version": SHIPPED}, now=world.now
    )
    block(world, newer, note="it leaks")
    with pytest.raises(Invalid, match=r"0\.33\.1 is blocked; 0\.32\.0 takes its place \(it leaks"):
        world.endpoint(name="x", engine_version=NEWER)
    with pytest.raises(Invalid, match="is blocked"):
        versions.roll_back(actor=ACTOR, endpoint=endpoint, number=1, now=world.now)
    with pytest.raises(Invalid, match="it is blocked: support it again"):
        engine_versions.deprecate(actor=ACTOR, version=newer, now=world.now)


def test_who_names_none_gets_another_where_the_nodes_own_is_blocked(
    world: World, node: Node, shipped: EngineVersion, newer: EngineVersion
) -> None:
    block(world, shipped)
    assert world.endpoint().engine_version == NEWER


def test_one_must_be_left_to_roll_to(world: World, shipped: EngineVersion) -> None:
    for replacement in ("", "9.9", SHIPPED):
        with pytest.raises(Invalid, match="no supported version of vllm to roll to"):
            block(world, shipped, replacement=replacement)
    with pytest.raises(Invalid, match="expected a time from now"):
        block(world, shipped, -DAY)
    assert not AuditEvent.objects.filter(action="engine_version.block").exists()


# --- blocking --------------------------------------------------------------------------------


def test_where_the_other_is_blocked_as_well_both_become_a_third(
    world: World, shipped: EngineVersion, newer: EngineVersion
) -> None:
    block(world, shipped)
    third = engine_versions.add(
        actor=ACTOR, engine="vllm", version="0.34.0", image=f"{IMAGE}4", now=world.now
    )
    block(world, newer, 2 * DAY)
    for row in (shipped, newer):
        row.refresh_from_db()
        assert row.replacement == third.version
    assert AuditEvent.objects.filter(action="engine_version.block").count() == 3


def containers(world: World, devices: int = 4) -> Node:
    node = world.node("images", devices=devices)
    inventory = {**node.inventory, "containers": "podman 4.3.1 (runc)"}
    Node.objects.filter(id=node.id).update(inventory=inventory)
    node.refresh_from_db()
    return node


def test_who_is_on_it(world: World, shipped: EngineVersion, newer: EngineVersion) -> None:
    node = containers(world)
    serving(world, node, "unnamed")
    serving(world, node, "named", engine_version=SHIPPED)
    serving(world, node, "newer", engine_version=NEWER)
    world.endpoint(name="asleep", min_replicas=0)
    older = serving(world, node, "older")
    Replica.objects.filter(endpoint=older).update(engine_report={"version": "0.31.0+cpu"})
    unnamed = Replica.objects.filter(endpoint__name="unnamed")
    unnamed.update(engine_report={"version": "0.32.0+cpu"})
    assert sorted(names(shipped)) == [
        ("asleep", True, 0),
        ("named", True, 1),
        ("unnamed", True, 1),
    ]
    assert names(newer) == [("newer", True, 1)]


def test_owners_are_told_once_and_no_more_when_it_is_lifted(
    world: World, node: Node, shipped: EngineVersion, newer: EngineVersion
) -> None:
    world.endpoint(name="one", min_replicas=0)
    world.endpoint(name="two", min_replicas=0, engine_version=SHIPPED)
    bystander = organization("other")
    assert courses(world, shipped) == [("", "")] * 2
    row = block(world, shipped, note="CVE-2026-1")
    assert block(world, shipped) == row  # again: nothing happens
    for _ in range(2):
        engine_blocking.tend(now=world.now)
    notice = Notice.objects.get()
    assert notice.organization == world.project.organization != bystander.organization
    assert notice.subject == "vllm 0.32.0 is blocked"
    assert "Endpoints on it: one, two. The operator says: CVE-2026-1." in notice.text
    assert "they are rolled to vllm 0.33.1" in notice.text
    events = AuditEvent.objects.filter(action="engine_version.block")
    assert events.count() == 1
    lifted = engine_blocking.support(actor=ACTOR, version=row, now=world.now)
    assert (lifted.status, lifted.deadline, lifted.replacement) == (Status.SUPPORTED, None, "")
    notice.refresh_from_db()
    assert notice.closed_at == world.now
    world.later(60)
    block(world, shipped)
    assert Notice.objects.filter(closed_at=None).count() == 1


def test_it_is_rolled_replica_by_replica_before_the_deadline(
    world: World, shipped: EngineVersion, newer: EngineVersion
) -> None:
    node = containers(world)
    endpoint = serving(world, node, min_replicas=2, max_replicas=2)
    moved = serving(world, node, "moved")
    row = block(world, shipped)
    assert row.deadline is not None
    versions.change(  # its owner does not wait
        actor=ACTOR, endpoint=moved, changes={"engine_version": NEWER}, now=world.now
    )
    assert engine_blocking.tend(now=world.now) == 0  # there is time yet
    Replica.objects.filter(endpoint=moved).update(engine_report={"version": SHIPPED})
    by = f"from {rolls_at(row):%Y-%m-%d %H:%M} UTC, by {row.deadline:%Y-%m-%d %H:%M} UTC."
    assert courses(world, row) == [
        ("rolls", f"Rolled to {NEWER} {by}"),
        ("leaving", f"Wishes for {NEWER}: replicas of before end."),
    ]
    assert rolls_at(row) == row.deadline - engine_blocking.LEAD
    world.later((rolls_at(row) - world.now).total_seconds())
    world.heartbeat(node)
    assert engine_blocking.tend(now=world.now) == 1
    assert engine_blocking.tend(now=world.now) == 0  # a sweep that comes again
    endpoint.refresh_from_db()
    assert endpoint.engine_version == NEWER
    world.reconcile(endpoint)
    rollout = until_over(world, endpoint, node)  # asserts that one serves at each step
    assert rollout.state == "complete" and world.now < row.deadline
    assert live(endpoint) == [(2, State.READY)] * 2
    assert [one.endpoint.name for one in on_it(row) if one.endpoint == endpoint] == []
    event = AuditEvent.objects.filter(action="endpoint.update").order_by("id").last()
    assert event is not None and event.actor_type == "system"


@pytest.mark.parametrize("better", [True, False])
def test_what_went_back_is_rolled_once_more_at_the_deadline(
    world: World, shipped: EngineVersion, newer: EngineVersion, better: bool
) -> None:
    node = containers(world)
    endpoint = serving(world, node)
    row = block(world, shipped)
    assert row.deadline is not None
    world.later((rolls_at(row) - world.now).total_seconds())
    world.heartbeat(node)
    assert engine_blocking.tend(now=world.now) == 1
    world.reconcile(endpoint)
    failed = until_over(world, endpoint, node, broken=(2,))
    assert failed.state == "failed" and world.now < row.deadline
    endpoint.refresh_from_db()
    assert endpoint.engine_version == ""  # it serves on, on what it had
    assert engine_blocking.tend(now=world.now) == 0  # no storm of rollouts
    Replica.objects.filter(endpoint=endpoint, state=State.READY).update(
        engine_report={"version": SHIPPED}
    )
    assert names(row) == [("chat", True, 1)]  # and the operator sees it
    ((course, words),) = courses(world, row)
    assert course == "rolls_again" and f"at {row.deadline:%Y-%m-%d %H:%M}" in words
    world.later((row.deadline - world.now).total_seconds())
    world.heartbeat(node)
    assert engine_blocking.tend(now=world.now) == 1
    assert engine_blocking.tend(now=world.now) == 0
    world.reconcile(endpoint)
    if better:
        assert until_over(world, endpoint, node).state == "complete"
        assert names(row) == []
        return
    assert until_over(world, endpoint, node, broken=(3,)).state == "failed"
    assert engine_blocking.tend(now=world.now) == 0
    ((course, words),) = courses(world, row)
    assert course == "stays" and "serves on as it is" in words


def test_an_image_of_ones_own_is_told_and_left_alone(
    world: World, shipped: EngineVersion, newer: EngineVersion
) -> None:
    node = containers(world)
    own = serving(world, node, "own", image={"reference": "registry.example/mine:1"})
    Replica.objects.filter(endpoint=own).update(engine_report={"version": SHIPPED})
    row = block(world, shipped, timedelta(0))
    assert names(row) == [("own", False, 1)]
    assert "own (own image)" in Notice.objects.get().text
    ((course, words),) = courses(world, row)
    assert course == "own_image" and "It is not rolled, and serves on" in words
    (warned,) = engine_outlook.image_warnings(own, engine_versions.unsupported())
    assert warned.startswith("vllm 0.32.0 is blocked. It comes with its own image")
    assert engine_outlook.image_warnings(own, [newer]) == []
    assert engine_blocking.tend(now=world.now) == 0
    own.refresh_from_db()
    assert own.generation == 1


def test_a_sleeping_endpoint_wakes_on_the_new_version(
    world: World, shipped: EngineVersion, newer: EngineVersion
) -> None:
    node = containers(world)
    endpoint = world.endpoint(min_replicas=0)
    block(world, shipped, timedelta(0))
    assert engine_blocking.tend(now=world.now) == 1
    endpoint.refresh_from_db()
    assert endpoint.engine_version == NEWER
    Endpoint.objects.filter(id=endpoint.id).update(min_replicas=1)
    world.reconcile(endpoint)
    settle(world, endpoint, node)
    (replica,) = Replica.objects.filter(endpoint=endpoint, state__in=LIVE)
    assert replica.version.engine_version == NEWER
    world.report(node, said(replica.id, wire.Phase.READY))
    assert rollout_rows.newest(endpoint) is not None
