"""What an organization lets its containers reach, who hears of it, and what is kept of it."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from compliance.models import AuditEvent
from controlplane.endpoints import egress
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Replica
from controlplane.endpoints.states import State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from tests.endpoints.world import ACTOR, WALLS, World, organization, said

HOST = "registry.example"
IMAGE = {"engine": "custom", "model": "", "image": {"reference": f"{HOST}/echo:1"}}


@pytest.fixture(autouse=True)
def registries(settings: Any) -> None:
    settings.IMAGE_REGISTRIES = [HOST]


@pytest.fixture
def host(world: World) -> Node:
    return world.node(inventory={**WALLS, "containers": "podman"})


def allow(world: World, *allowed: str) -> None:
    world.project.organization = egress.allow(
        actor=ACTOR, organization=world.project.organization, allowed=allowed, now=world.now
    )


def spec(world: World, node: Node, replica: Replica) -> wire.ReplicaSpec:
    found = world.desired(node)[replica.id].spec
    assert found is not None
    return found


def version(node: Node) -> int:
    node.refresh_from_db()
    return node.desired_version


def count(destination: str = "a.example:443", n: int = 1, **facts: Any) -> wire.EgressCount:
    given: dict[str, Any] = {"proxy_id": "p1", "outcome": "reached", "bytes_out": 5, "bytes_in": 7}
    given |= facts
    return wire.EgressCount(destination=destination, connections=n, **given)


def test_nothing_is_allowed_until_somebody_says_so(world: World, host: Node) -> None:
    replica = world.replica(world.endpoint(**IMAGE), host, State.READY)
    assert spec(world, host, replica).egress == []
    before = version(host)
    allow(world, "*.Example.com:443", "a.example:443", "a.example:443")
    assert spec(world, host, replica).egress == ["*.example.com:443", "a.example:443"]
    assert version(host) == before + 1  # so its agent hears of it while the replica runs
    allow(world, "a.example:443", "*.example.com:443")
    assert version(host) == before + 1
    assert AuditEvent.objects.filter(action="organization.allow_egress").count() == 1
    allow(world)
    assert spec(world, host, replica).egress == []
    assert version(host) == before + 2


def test_only_who_runs_images_of_it_is_told(world: World, host: Node) -> None:
    plain = world.replica(world.endpoint(), host)
    before = version(host)
    allow(world, "a.example:443")
    assert version(host) == before
    assert spec(world, host, plain).egress == []


def test_another_organization_keeps_its_own_list(world: World, host: Node) -> None:
    allow(world, "a.example:443")
    world.pool.organization = None
    world.pool.save()
    theirs = world.replica(world.endpoint(project=organization("stranger"), **IMAGE), host)
    assert spec(world, host, theirs).egress == []


@pytest.mark.parametrize(
    "line", ["*:443", "example.com", "https://example.com:443", "*.com:443", "a.example:0", "é:1"]
)
def test_what_is_no_destination_changes_nothing(world: World, line: str) -> None:
    allow(world, "a.example:443")
    with pytest.raises(Invalid) as caught:
        allow(world, "b.example:443", line)
    assert (caught.value.field, caught.value.code) == ("allow", "invalid_destination")
    world.project.organization.refresh_from_db()
    assert world.project.organization.egress == ["a.example:443"]


def test_a_list_has_an_end(world: World) -> None:
    with pytest.raises(Invalid, match="at most 200"):
        allow(world, *(f"n{n}.example:443" for n in range(201)))


def test_private_networks_are_the_operators_to_open(world: World, host: Node) -> None:
    replica = world.replica(world.endpoint(**IMAGE), host)
    before = version(host)
    call_command("pool_egress", world.pool.name, "10.20.0.0/16", stdout=(out := StringIO()))
    assert out.getvalue().strip() == "10.20.0.0/16"
    assert spec(world, host, replica).egress_networks == ["10.20.0.0/16"]
    assert version(host) == before + 1
    with pytest.raises(CommandError, match="host bits"):
        call_command("pool_egress", world.pool.name, "10.20.0.1/16", stdout=StringIO())
    for wide in ("0.0.0.0/0", "127.0.0.1/32", "169.254.169.254/32", "::/0", "::1/128", "fe80::/64"):
        with pytest.raises(CommandError, match="never opened"):
            call_command("pool_egress", world.pool.name, wide, stdout=StringIO())
    call_command("pool_egress", world.pool.id, stdout=StringIO())
    assert spec(world, host, replica).egress_networks == []
    assert AuditEvent.objects.filter(action="pool.update").count() == 2


def test_what_was_reached_is_summed_over_replicas_and_proxies(world: World, host: Node) -> None:
    endpoint = world.endpoint(**IMAGE, max_replicas=2)
    first, second = world.replica(endpoint, host), world.replica(endpoint, host)
    refused = count("b.example:443", outcome="not_allowed", bytes_out=0, bytes_in=0)
    ready = {one.id: said(one.id, wire.Phase.READY) for one in (first, second)}

    def told(*counts: wire.EgressCount) -> None:
        report = said(first.id, wire.Phase.READY, egress=list(counts))
        world.report(host, report, ready[second.id])

    told(count(n=2), refused)
    told(count(n=3), refused)  # levels: the newest says it all
    told(count(n=3), refused)
    told(count(n=1, proxy_id="p 2"), refused)  # another proxy, from nought
    world.later(60)
    world.report(host, ready[first.id], said(second.id, wire.Phase.READY, egress=[count(n=1)]))
    found = egress.reached(world.project.organization, now=world.now)
    assert [(one.destination, one.outcome, one.connections) for one in found] == [
        ("a.example:443", "reached", 5),
        ("b.example:443", "not_allowed", 1),
    ]
    assert (found[0].bytes_out, found[0].bytes_in) == (15, 21)
    assert found[0].last_at.startswith(world.now.strftime("%Y-%m-%dT%H:%M"))
    assert egress.reached(organization("x").organization, now=world.now) == []


def test_a_nodes_word_is_kept_within_bounds(world: World, host: Node) -> None:
    replica = world.replica(world.endpoint(**IMAGE), host, State.READY)
    lies = [
        count(n=-5, bytes_in=2**63 - 1),
        count("x\0y\n", outcome="reached"),
        count("c.example:443", outcome="made_up"),
        *(count(f"n{n}.example:443") for n in range(2000)),
    ]
    world.report(host, said(replica.id, wire.Phase.READY, egress=lies))
    world.report(host, said(replica.id, wire.Phase.READY, egress=lies[::-1]))
    replica.refresh_from_db()
    assert len(replica.egress) <= 512
    found = egress.reached(world.project.organization, now=world.now)
    assert all(one.connections >= 0 and one.destination.isprintable() for one in found)
    assert "made_up" not in {one.outcome for one in found}
