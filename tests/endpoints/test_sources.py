"""What an endpoint may serve from where, who is told how to open it, and what stays the same."""

from typing import Any

import pytest

from compliance import keys
from compliance.models import AuditEvent
from compliance.subjects import Subject
from controlplane.endpoints import source_grants, sources
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica
from controlplane.endpoints.states import State
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.tenancy import project_secrets
from tests.endpoints.world import ACTOR, World, organization, said

S3_URL = "https://s3.eu.example"
S3_VALUE = {"endpoint_url": S3_URL, "access_key_id": "AKIA", "secret_access_key": "s3cret"}


def keep(world: World, kind: str = "hub", name: str = "default", **value: str) -> None:
    project_secrets.create_secret(
        actor=ACTOR, project=world.project, kind=kind, name=name, value=value, now=world.now
    )


def ask(world: World, node: Node, replica_id: str) -> wire.Source:
    return source_grants.grant(node, wire.SourceRequest(replica_id=replica_id), world.now)


def refusal(world: World, node: Node, replica_id: str) -> str:
    with pytest.raises(source_grants.Refused) as caught:
        ask(world, node, replica_id)
    return caught.value.reason


def test_a_source_follows_from_the_model(world: World, node: Node) -> None:
    assert world.endpoint(name="a").source == "hub"
    assert world.endpoint(name="b", model="/models/x").source == "path"


@pytest.mark.parametrize(
    ("wish", "field", "complaint"),
    [
        ({"source": "ftp"}, "source", "source is one of"),
        ({"source": "mirror"}, "source", "no mirror"),
        ({"source": "s3", "model": "s3://bucket/x"}, "source", "no S3 service"),
        ({"source": "hub", "model": "/etc"}, "model", "expected a hub id"),
        ({"source": "path"}, "model", "expected an absolute path"),
        ({"source": "upload", "model": "x"}, "model", "the id of an upload"),
        ({"model": "/models/x", "revision": "main"}, "revision", "a path has no revision"),
        ({"secret": "none"}, "secret", "no hub secret of this name"),
        ({"model": "/models/x", "secret": "s"}, "secret", "needs no secret"),
    ],
)
def test_what_cannot_be_a_source(
    world: World, node: Node, wish: dict[str, Any], field: str, complaint: str
) -> None:
    with pytest.raises(Invalid, match=complaint) as caught:
        world.endpoint(**wish)
    assert caught.value.field == field


@pytest.mark.parametrize("model", ["s3://b", "s3://bucket/../x", "https://bucket/x", "bucket/x"])
def test_a_bucket_is_named_plainly(world: World, node: Node, settings: Any, model: str) -> None:
    settings.S3_ENDPOINTS = [S3_URL]
    with pytest.raises(Invalid, match="expected s3://bucket/folder"):
        world.endpoint(source="s3", model=model)
    assert world.endpoint(source="s3", model="s3://bucket/folder/v1.0").source == "s3"


def test_a_node_is_told_what_opens_its_own_wish(world: World, node: Node) -> None:
    keep(world, token="hf_default")
    keep(world, name="mine", token="hf_mine")
    endpoint = world.endpoint(secret="mine", max_replicas=2)
    told = ask(world, node, world.replica(endpoint, node).id)
    assert told.kind is wire.SourceKind.HUB
    assert (told.url, told.model, told.token) == (
        "https://huggingface.co",
        "org/model",
        "hf_mine",
    )
    assert told.project_id == world.project.id
    (event,) = AuditEvent.objects.filter(action="secret.deliver")
    assert (event.actor_type, event.actor_id) == ("node", node.id)
    assert b"hf_" not in bytes(event.body)
    # The wish list itself, which is kept on the node, holds none of it.
    assert "hf_" not in repr(world.desired(node))
    default = world.endpoint(name="other")
    assert ask(world, node, world.replica(default, node).id).token == "hf_default"


def test_nobody_else_is_told(world: World, node: Node) -> None:
    keep(world, token="hf_a")
    replica = world.replica(world.endpoint(), node)
    other = world.node("n2")
    assert refusal(world, other, replica.id) == "fetch_failed"
    assert refusal(world, node, "rep_unknown") == "fetch_failed"
    world.report(node, said(replica.id, wire.Phase.READY))
    assert refusal(world, node, replica.id) == "fetch_failed"  # it has what it needs


def test_each_project_opens_with_its_own(world: World, node: Node) -> None:
    keep(world, token="hf_a")
    stranger = organization("stranger")
    world.pool.organization = None
    world.pool.save()
    theirs = world.endpoint(project=stranger)
    assert ask(world, node, world.replica(theirs, node).id).token == ""


def test_a_secret_that_is_gone_or_closed_is_said(world: World, node: Node) -> None:
    keep(world, name="mine", token="hf_a")
    replica = world.replica(world.endpoint(secret="mine"), node)
    owner = Subject("organization", world.project.organization_id)
    keys.destroy(subjects=[owner], actor=ACTOR, reason_code="erasure", now=world.now)
    assert refusal(world, node, replica.id) == "access_denied"
    secret = world.project.secrets.get()
    project_secrets.delete_secret(actor=ACTOR, secret=secret, now=world.now)
    assert refusal(world, node, replica.id) == "access_denied"


def test_s3_is_asked_with_the_projects_keys_where_the_operator_allows(
    world: World, node: Node, settings: Any
) -> None:
    settings.S3_ENDPOINTS = ["https://first.example", S3_URL]
    replica = world.replica(world.endpoint(source="s3", model="s3://bucket/x"), node)
    assert ask(world, node, replica.id).url == "https://first.example"  # as anybody would
    keep(world, "s3", **S3_VALUE)
    told = ask(world, node, replica.id)
    assert (told.url, told.access_key_id, told.secret_access_key) == (S3_URL, "AKIA", "s3cret")
    settings.S3_ENDPOINTS = ["https://first.example"]
    assert refusal(world, node, replica.id) == "access_denied"


def test_the_mirror_is_the_operators(world: World, node: Node, settings: Any) -> None:
    keep(world, token="hf_a")
    settings.MIRROR_URL, settings.MIRROR_TOKEN = "https://mirror.example", "operators"
    replica = world.replica(world.endpoint(source="mirror"), node)
    told = ask(world, node, replica.id)
    assert (told.url, told.token) == ("https://mirror.example", "operators")


def test_replicas_serve_what_the_first_one_served(world: World, node: Node) -> None:
    endpoint = world.endpoint(revision="main", max_replicas=2)
    first, second = world.replica(endpoint, node), world.replica(endpoint, node)
    assert revision_of(world, node, second.id) == "main"
    coming = said(second.id, wire.Phase.FETCHING)
    world.report(node, said(first.id, wire.Phase.READY, revision="c0ffee"), coming)
    assert revision_of(world, node, second.id) == "c0ffee"
    serving = said(first.id, wire.Phase.READY)
    world.report(node, serving, said(second.id, wire.Phase.READY, revision="bad"))
    assert Endpoint.objects.get().pinned == {"hub org/model@main": "c0ffee"}
    another = version(endpoint, 2, revision="v2")  # another wish is resolved anew
    Replica.objects.filter(id=second.id).update(generation=another.number)
    assert revision_of(world, node, second.id) == "v2"


def version(endpoint: Endpoint, number: int, **spec: str) -> EndpointVersion:
    wish = endpoint.versions.get(number=1).spec | spec
    return endpoint.versions.create(number=number, spec=wish, created_at=endpoint.created_at)


def revision_of(world: World, node: Node, replica_id: str) -> str:
    spec = world.desired(node)[replica_id].spec
    assert spec is not None
    return spec.revision


def test_pins_do_not_pile_up(world: World, node: Node) -> None:
    endpoint = world.endpoint(max_replicas=1)
    replica = world.replica(endpoint, node, State.PROBING)
    for number in range(20):
        one = version(endpoint, 2 + number, model=f"org/m{number}")
        Replica.objects.filter(id=replica.id).update(generation=one.number)
        sources.pin(replica.id, str(number))
    pinned = Endpoint.objects.get().pinned
    assert len(pinned) == 16
    assert pinned["hub org/m19@"] == "19"


def test_a_node_may_fetch_the_adapters_of_what_it_runs(world: World, node: Node) -> None:
    keep(world, token="hf_a")
    adapter = {"name": "poet", "path": "org/poet", "revision": "v1"}
    endpoint = world.endpoint(adapters=[adapter])
    replica = world.replica(endpoint, node, State.READY)
    id = endpoint.adapters[0]["id"]
    request = wire.SourceRequest(replica_id=replica.id, adapter_id=id)
    told = source_grants.grant(node, request, world.now)
    assert (told.model, told.revision, told.token) == ("org/poet", "v1", "hf_a")
    other = wire.SourceRequest(replica_id=replica.id, adapter_id="adp_x")
    with pytest.raises(source_grants.Refused):
        source_grants.grant(node, other, world.now)
