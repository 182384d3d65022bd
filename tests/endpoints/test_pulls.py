"""Models that nodes bring before they are needed: wished for, reported, and over."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from controlplane.endpoints import pulls, source_grants
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Pull, PullNode
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.fleet.wire import PullState
from controlplane.tenancy import project_secrets
from tests.endpoints.world import ACTOR, World


def wish(world: World, model: str = "org/model", **more: str) -> Pull:
    spec = pulls.PullSpec(model, **more)
    return pulls.pull_model(
        actor=ACTOR, project=world.project, pool=world.pool, spec=spec, now=world.now
    )


def report(world: World, node: Node, said: wire.PullReport) -> None:
    pulls.note(node, [said], world.now)


def test_a_wish_stands_until_each_node_is_done(world: World, node: Node) -> None:
    other = world.node("n2")
    version = Node.objects.get(id=node.id).desired_version
    pull = wish(world, revision="v1")
    assert Node.objects.get(id=node.id).desired_version > version
    expected = wire.Pull(
        pull_id=pull.id, source=wire.SourceKind.HUB, model="org/model", revision="v1"
    )
    assert pulls.wished(node) == pulls.wished(other) == [expected]
    fetching = wire.PullReport(
        pull_id=pull.id, state=PullState.FETCHING, bytes_done=5, bytes_total=9
    )
    report(world, node, fetching)
    row = PullNode.objects.get(node=node)
    assert (row.state, row.bytes_done, row.bytes_total) == ("fetching", 5, 9)
    report(world, node, wire.PullReport(pull_id=pull.id, state=PullState.READY, revision="c0"))
    assert pulls.wished(node) == []
    assert pulls.wished(other) == [expected]
    # What is over is over, whatever comes late.
    report(world, node, fetching)
    assert PullNode.objects.get(node=node).revision == "c0"
    pulls.cancel_pull(actor=ACTOR, pull=pull, now=world.now)
    assert pulls.wished(other) == []


def test_a_node_is_told_how_to_open_its_pull(world: World, node: Node) -> None:
    project_secrets.create_secret(
        actor=ACTOR,
        project=world.project,
        kind="hub",
        name="default",
        value={"token": "hf_a"},
        now=world.now,
    )
    pull = wish(world)
    request = wire.SourceRequest(pull_id=pull.id)
    assert source_grants.grant(node, request, world.now).token == "hf_a"
    stranger = Node.objects.create(
        pool=world.pool,
        name="late",
        certificate_sha256="late",
        certificate_expires_at=world.now,
        created_at=world.now,
    )
    with pytest.raises(source_grants.Refused):
        source_grants.grant(stranger, request, world.now)
    report(world, node, wire.PullReport(pull_id=pull.id, state=PullState.READY))
    with pytest.raises(source_grants.Refused):
        source_grants.grant(node, request, world.now)


def test_what_cannot_be_pulled(world: World) -> None:
    with pytest.raises(Invalid, match="the pool has no nodes"):
        wish(world)
    world.node()
    with pytest.raises(Invalid, match="a path is on its node already"):
        wish(world, "/models/x")


def test_the_command_line_pulls(world: World, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = [
        wire.PullReport(pull_id="", state=PullState.FETCHING, bytes_done=5, bytes_total=9),
        wire.PullReport(pull_id="", state=PullState.READY, bytes_done=9, bytes_total=9),
    ]

    def later(seconds: float) -> None:
        said = moves.pop(0)
        said.pull_id = Pull.objects.get().id
        report(world, node, said)

    monkeypatch.setattr("time.sleep", later)
    out = StringIO()
    place = ["--project", world.project.id, "--pool", world.pool.name]
    call_command("models", "pull", "org/model", *place, "--json", stdout=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["nodes"][0]["state"] for line in lines] == ["waiting", "fetching", "ready"]
    assert lines[-1]["nodes"][0]["bytes_done"] == 9
    with pytest.raises(CommandError, match="no such pool"):
        call_command("models", "pull", "m", "--project", world.project.id, "--pool", "none")
