"""The verbs: what may be wished for, and that nothing is half-done."""

from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest

from compliance.models import AuditEvent
from controlplane.endpoints import services, signals
from controlplane.endpoints.errors import Invalid, NameTaken
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.states import State
from controlplane.fleet.models import Device, Node, Pool, Region
from controlplane.tenancy.errors import NotFound
from tests.endpoints.world import ACTOR, START, World, organization


@pytest.fixture(autouse=True)
def town(world: World, node: Node) -> World:
    return world


def events(endpoint: Endpoint) -> list[str]:
    rows = AuditEvent.objects.filter(target_id=endpoint.id).order_by("id")
    return list(rows.values_list("action", flat=True))


# --- create -------------------------------------------------------------------------------


def test_a_wish_is_written_audited_and_hinted(
    world: World, django_capture_on_commit_callbacks: Any
) -> None:
    heard = Mock()
    signals.changed.connect(heard, weak=False)
    with django_capture_on_commit_callbacks() as callbacks:
        endpoint = world.endpoint(engine_args={"max-model-len": 128})
        assert not heard.called
    signals.changed.disconnect(heard)
    assert len([one for one in callbacks if "hint" in one.__qualname__]) == 1
    endpoint.refresh_from_db()
    assert endpoint.engine_args == {"max_model_len": 128}
    assert (endpoint.pool, endpoint.region_code) == (world.pool, "eu-de-1")
    (event,) = AuditEvent.objects.filter(target_id=endpoint.id)
    assert (event.action, event.actor_id) == ("endpoint.create", "usr_test")
    assert event.log_id == world.project.organization_id


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "Chat"}, "name"),
        ({"name": "-chat"}, "name"),
        ({"name": "chat-"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "chat\n"}, "name"),
        ({"name": "chat\0"}, "name"),
        ({"name": "chat:poet"}, "name"),
        ({"name": "c" * 64}, "name"),
        ({"model": ""}, "model"),
        ({"model": "gpt2"}, "model"),
        ({"model": "a/b/c"}, "model"),
        ({"model": "../etc"}, "model"),
        ({"model": "org/na\0me"}, "model"),
        ({"model": "https://example.org/m"}, "model"),
        ({"model": "/models/../etc"}, "model"),
        ({"model": "/models//x"}, "model"),
        ({"model": "/mo\ndels"}, "model"),
        ({"model": "/" + "m" * 300}, "model"),
        ({"model": "/models/x", "revision": "main"}, "revision"),
        ({"revision": "a b"}, "revision"),
        ({"revision": "../main"}, "revision"),
        ({"engine": "sglang"}, "engine"),
        ({"min_replicas": -1}, "min_replicas"),
        ({"min_replicas": 2, "max_replicas": 1}, "min_replicas"),
        ({"max_replicas": 0, "min_replicas": 0}, "max_replicas"),
        ({"max_replicas": 101}, "max_replicas"),
        ({"scale_to_zero_timeout_s": 0}, "scale_to_zero_timeout_s"),
        ({"ttft_target_s": 0.04}, "ttft_target_s"),
        ({"ttft_target_s": 60.1}, "ttft_target_s"),
        ({"ttft_target_s": float("nan")}, "ttft_target_s"),
        ({"queue_limit": -1}, "queue_limit"),
        ({"queue_s": 3601}, "queue_s"),
        ({"device_count": 0}, "device_count"),
        ({"device_count": 3}, "device_count"),
        ({"device_kind": "nvidia-h200"}, "device_kind"),
        ({"engine_args": {"port": 80}}, "engine_args.port"),
        ({"adapters": [{"name": "a"}]}, "adapters"),
        ({"adapters": [{"name": "a:b", "path": "org/x"}]}, "adapters"),
        ({"adapters": [{"name": "a", "path": "x"}]}, "adapters"),
        ({"adapters": [{"name": "a", "path": "o/x"}] * 2}, "adapters"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    world: World, wish: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as error:
        world.endpoint(**wish)
    assert error.value.field == field
    assert not Endpoint.objects.exists()
    assert not AuditEvent.objects.exists()


def test_too_much_is_refused_with_the_numbers(world: World) -> None:
    with pytest.raises(Invalid, match=r"3 devices of kind cpu .* the largest node has 2"):
        world.endpoint(device_count=3)
    with pytest.raises(Invalid, match="kind nvidia-h200; there are: cpu"):
        world.endpoint(device_kind="nvidia-h200")
    Device.objects.update(healthy=False)
    with pytest.raises(Invalid, match="there are: none"):
        world.endpoint()


def test_a_name_is_taken_until_it_is_deleted(world: World) -> None:
    first = world.endpoint()
    with pytest.raises(NameTaken) as error:
        world.endpoint()
    assert error.value.field == "name"
    assert AuditEvent.objects.filter(action="endpoint.create").count() == 1
    services.delete(actor=ACTOR, endpoint=first, now=world.now)
    world.endpoint()
    # Another project's names are its own.
    other = world.project.organization.projects.create(name="other", created_at=START)
    world.endpoint(project=other)


def test_somebody_elses_pool_does_not_exist(world: World) -> None:
    stranger = organization("stranger")
    with pytest.raises(NotFound):
        world.endpoint(project=stranger, pool_id=world.pool.id)
    with pytest.raises(Invalid, match="there are: none"):
        world.endpoint(project=stranger)


def test_nothing_leaves_its_region(world: World) -> None:
    abroad = Region.objects.create(
        code="eu-fr-1", country="FR", name="F", ca_key=b"", created_at=START
    )
    pool = Pool.objects.create(region=abroad, name="open", created_at=START)
    world.node("n2", pool=pool, kind="nvidia-h200")
    with pytest.raises(Invalid) as error:
        world.endpoint(pool_id=pool.id, device_kind="nvidia-h200")
    assert error.value.code == "region_mismatch"
    with pytest.raises(Invalid):
        world.endpoint(device_kind="nvidia-h200")


def test_a_pool_is_found_that_has_the_devices(world: World) -> None:
    shared = Pool.objects.create(region=world.pool.region, name="shared", created_at=START)
    world.node("n2", pool=shared, devices=8)
    assert world.endpoint().pool == world.pool  # their own comes first
    assert world.endpoint(name="large", device_count=8).pool == shared


def test_paths_are_for_pools_of_ones_own(world: World) -> None:
    """On a shared node a path could lead to another tenant's weights."""
    world.endpoint(model="/models/tiny")
    shared = Pool.objects.create(region=world.pool.region, name="shared", created_at=START)
    world.node("n2", pool=shared)
    with pytest.raises(Invalid) as error:
        world.endpoint(name="x", model="/models/tiny", pool_id=shared.id)
    assert error.value.code == "path_on_shared_pool"
    with pytest.raises(Invalid):
        adapters = [{"name": "a", "path": "/adapters/a"}]
        world.endpoint(name="x", adapters=adapters, pool_id=shared.id)


# --- update, stop, start, delete ----------------------------------------------------------


def test_bounds_change_together_or_not_at_all(world: World) -> None:
    endpoint = world.endpoint()
    changed = services.update(
        actor=ACTOR, endpoint=endpoint, now=world.now, min_replicas=2, max_replicas=4
    )
    assert (changed.min_replicas, changed.max_replicas) == (2, 4)
    with pytest.raises(Invalid):
        services.update(actor=ACTOR, endpoint=endpoint, now=world.now, max_replicas=1)
    endpoint.refresh_from_db()
    assert (endpoint.min_replicas, endpoint.max_replicas) == (2, 4)
    with pytest.raises(Invalid):
        services.update(actor=ACTOR, endpoint=endpoint, now=world.now, min_replicas=None)
    with pytest.raises(TypeError):
        services.update(actor=ACTOR, endpoint=endpoint, now=world.now, model=1)
    services.update(actor=ACTOR, endpoint=endpoint, now=world.now, max_replicas=4)
    assert events(endpoint) == ["endpoint.create", "endpoint.scale"]


def test_stop_and_start_and_repeat(world: World) -> None:
    endpoint = world.endpoint()
    for _ in range(2):
        assert services.stop(actor=ACTOR, endpoint=endpoint, now=world.now).stopped_at
    for _ in range(2):
        assert not services.start(actor=ACTOR, endpoint=endpoint, now=world.now).stopped_at
    assert events(endpoint) == ["endpoint.create", "endpoint.stop", "endpoint.start"]


def test_start_ends_the_back_off(world: World) -> None:
    endpoint = world.endpoint()
    later = world.now + timedelta(seconds=60)
    Endpoint.objects.filter(id=endpoint.id).update(retry_at=later, failures=4)
    started = services.start(actor=ACTOR, endpoint=endpoint, now=world.now)
    assert (started.retry_at, started.failures) == (None, 0)


def test_a_deleted_endpoint_is_no_more(world: World) -> None:
    endpoint = world.endpoint()
    services.delete(actor=ACTOR, endpoint=endpoint, now=world.now)
    for verb in (services.delete, services.stop, services.start):
        with pytest.raises(NotFound):
            verb(actor=ACTOR, endpoint=endpoint, now=world.now)
    with pytest.raises(NotFound):
        services.update(actor=ACTOR, endpoint=endpoint, now=world.now, max_replicas=2)
    assert not services.request_wake(endpoint.id, world.now)
    assert events(endpoint) == ["endpoint.create", "endpoint.delete"]


# --- wake ---------------------------------------------------------------------------------


def test_only_what_sleeps_is_woken_and_only_once(world: World, node: Node) -> None:
    endpoint = world.endpoint(min_replicas=0)
    assert services.request_wake(endpoint.id, world.now)
    assert not services.request_wake(endpoint.id, world.now)
    world.reconcile(endpoint)
    assert world.states(endpoint) == [State.PLACED]
    assert not services.request_wake(endpoint.id, world.later(60))
    assert events(endpoint) == ["endpoint.create", "endpoint.wake"]


def test_what_is_not_asleep_is_left_alone(world: World) -> None:
    assert not services.request_wake(world.endpoint().id, world.now)
    assert not services.request_wake("ep_unknown", world.now)
    stopped = world.endpoint(name="stopped", min_replicas=0)
    services.stop(actor=ACTOR, endpoint=stopped, now=world.now)
    assert not services.request_wake(stopped.id, world.now)
