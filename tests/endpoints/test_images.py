"""What an image may be, where it runs, what a node is told of it, and what stays the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance import keys
from compliance.models import AuditEvent
from compliance.subjects import Subject
from controlplane.endpoints import image_secrets, images, placing, source_grants, versions
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica
from controlplane.endpoints.states import Reason, State
from controlplane.fleet import engines, wire
from controlplane.fleet.models import Node
from controlplane.tenancy import project_secrets
from tests.endpoints.world import ACTOR, WALLS, World, said

HOST = "registry.example:5000"
TAGGED = f"{HOST}/team/echo:1.0"
DIGEST = "sha256:" + "a" * 64
RUNS_IMAGES = {**WALLS, "containers": "podman 4.3.1 (runc)"}


@pytest.fixture(autouse=True)
def registries(settings: Any) -> None:
    settings.IMAGE_REGISTRIES = [HOST]


@pytest.fixture
def host(world: World) -> Node:
    return world.node(inventory=RUNS_IMAGES)


def wish(**image: Any) -> dict[str, Any]:
    return {"engine": "custom", "model": "", "image": {"reference": TAGGED, **image}}


def keep(world: World, kind: str, name: str, **value: str) -> None:
    project_secrets.create_secret(
        actor=ACTOR, project=world.project, kind=kind, name=name, value=value, now=world.now
    )


def ask(world: World, node: Node, replica: Replica) -> wire.Secrets:
    return image_secrets.grant(node, wire.SecretsRequest(replica_id=replica.id), world.now)


def refusal(world: World, node: Node, replica: Replica) -> str:
    with pytest.raises(source_grants.Refused) as caught:
        ask(world, node, replica)
    return str(caught.value)


def told(world: World, node: Node, replica: Replica) -> wire.Image:
    spec = world.desired(node)[replica.id].spec
    assert spec is not None and spec.image is not None
    return spec.image


def test_what_is_asked_is_what_the_node_starts(world: World, host: Node) -> None:
    endpoint = world.endpoint(
        **wish(command=["serve", "-v"], env={"MODE": "fast"}, port=9000, openai=False)
    )
    replica = world.replica(endpoint, host)
    assert told(world, host, replica) == wire.Image(
        reference=TAGGED,
        command=["serve", "-v"],
        env={"MODE": "fast"},
        port=9000,
        readiness_path="/health",
        openai=False,
    )
    spec = world.desired(host)[replica.id].spec
    assert spec is not None
    assert (spec.engine, spec.model, spec.engine_args) == ("custom", "", {})


def test_vllm_from_an_image_keeps_its_model_and_arguments(world: World, host: Node) -> None:
    endpoint = world.endpoint(image={"reference": TAGGED}, engine_args={"max_model_len": 512})
    replica = world.replica(endpoint, host)
    spec = world.desired(host)[replica.id].spec
    assert spec is not None and spec.image is not None
    assert (spec.engine, spec.model, spec.image.reference) == ("vllm", "org/model", TAGGED)
    assert spec.engine_args["max_model_len"] == 512


@pytest.mark.parametrize(
    ("asked", "field", "complaint"),
    [
        ({"engine": "custom", "model": ""}, "image", "needs an image"),
        ({"engine": "custom", "model": "", "image": [TAGGED]}, "image", "expected an object"),
        (wish(reference="echo"), "image.reference", "expected registry/repository"),
        (wish(reference=f"{HOST}/team/echo"), "image.reference", "a tag or a digest is missing"),
        (wish(reference=f"{HOST}/Team/echo:1"), "image.reference", "expected registry/repository"),
        (wish(reference=f"{HOST}/a@sha256:12"), "image.reference", "expected registry/repository"),
        (wish(reference="169.254.169.254/a:1"), "image.reference", "allows these registries"),
        (wish(reference=7), "image.reference", "expected registry/repository"),
        (wish(command="serve"), "image.command", "at most 64 words"),
        (wish(command=["a\0"]), "image.command", "at most 64 words"),
        (wish(command=["a" * 4000] * 10), "image.command", "bytes in all"),
        (wish(env={"1A": "x"}), "image.env", "cannot name an environment variable"),
        (wish(env={"A": "x" * 4097}), "image.env", "A: expected a text"),
        (wish(env={"https_proxy": "x"}), "image.env", "https_proxy is set by the node"),
        (wish(env={"STOA_X": "x"}), "image.env", "is set by the node"),
        (wish(secrets={"A": "token"}), "image.secrets", "no env secret token"),
        (wish(secrets={"A": "To ken"}), "image.secrets", "expected the name"),
        (wish(env={"A": "x"}, secrets={"A": "token"}), "image.secrets", "in `env` already"),
        (wish(registry_secret="robot"), "image.registry_secret", "no registry secret robot"),
        (wish(port=80), "image.port", "expected a port from 1024"),
        (wish(port=True), "image.port", "expected a port"),
        (wish(port=3128), "image.port", "not 3128"),
        (wish(readiness_path="health"), "image.readiness_path", "expected a path"),
        (wish(readiness_path="/../x"), "image.readiness_path", "expected a path"),
        (wish(openai="yes"), "image.openai", "true or false"),
        (wish(privileged=True), "image", "not privileged"),
        (
            {**wish(), "engine_args": {"max_model_len": 512}},
            "engine_args.max_model_len",
            "a command",
        ),
        ({**wish(), "adapters": [{"name": "a", "path": "o/a"}]}, "adapters", "takes no adapters"),
        ({**wish(), "capabilities": ["tools"]}, "capabilities", "some of none"),
        ({**wish(), "node_count": 2}, "node_count", "on one node"),
        ({**wish(), "revision": "main"}, "revision", "without a model there is no revision"),
        ({**wish(), "source": "s3"}, "source", "without a model there is no source"),
        ({"image": {"reference": TAGGED, "command": ["x"]}}, "image.command", "says itself"),
        ({"image": {"reference": TAGGED, "openai": False}}, "image.openai", "says itself"),
        ({"model": ""}, "model", "expected a hub id"),
        ({"engine": "ollama"}, "engine", "is no engine here"),
    ],
)
def test_what_cannot_be_an_image(
    world: World, host: Node, asked: dict[str, Any], field: str, complaint: str
) -> None:
    with pytest.raises(Invalid, match=complaint) as caught:
        world.endpoint(**asked)
    assert caught.value.field == field
    assert not Endpoint.objects.exists()


def test_no_registry_is_allowed_until_the_operator_names_one(
    world: World, host: Node, settings: Any
) -> None:
    settings.IMAGE_REGISTRIES = []
    with pytest.raises(Invalid, match="registries: none") as caught:
        world.endpoint(**wish())
    assert caught.value.code == "registry_not_allowed"


_WORDS = st.text("aB1_-./:@= \0\né", max_size=9)
_VALUES = (
    st.sampled_from([None, True, 0, 9000, 1.5, "", TAGGED, "/x", [], ["a"], [1], {}, {"A": "b"}])
    | _WORDS
    | st.lists(_WORDS, max_size=2)
    | st.dictionaries(_WORDS, _WORDS, max_size=2)
)


@given(
    st.dictionaries(st.sampled_from([*images.FIELDS, "x"]), _VALUES),
    st.sampled_from(["custom", "vllm"]),
)
def test_whatever_is_asked_is_kept_whole_or_refused_by_name(
    image: dict[str, Any], engine: str
) -> None:
    try:
        kept = images.check(image, engines.of(engine))
    except Invalid as error:
        assert error.field.startswith("image") and str(error).isprintable()
    else:
        assert kept is not None and kept.keys() == set(images.FIELDS)
        assert images.check(kept, engines.of(engine)) == kept


def test_no_node_that_runs_images_is_said(world: World, node: Node) -> None:
    endpoint = world.endpoint(**wish())
    world.reconcile(endpoint)
    replica = endpoint.replicas.get()
    assert (replica.state, replica.reason) == (State.REQUESTED, Reason.CONTAINERS_MISSING)
    assert "runs no images" in replica.detail
    Node.objects.filter(id=node.id).update(inventory=RUNS_IMAGES)
    placing.place(replica.id, now=world.now)
    replica.refresh_from_db()
    assert (replica.state, replica.node_id) == (State.PLACED, node.id)


def test_another_image_is_another_version(world: World, host: Node) -> None:
    endpoint = world.endpoint(**wish(env={"TOKENISH": "confidential"}))
    first = world.replica(endpoint, host, State.READY)
    changed = versions.change(
        actor=ACTOR,
        endpoint=endpoint,
        changes={"image": {"reference": f"{HOST}/team/echo:2.0"}},
        now=world.now,
    )
    assert changed.generation == 2
    assert told(world, host, first).reference == TAGGED  # it runs what it was started from
    second = world.replica(changed, host)
    assert told(world, host, second).reference == f"{HOST}/team/echo:2.0"
    events = AuditEvent.objects.filter(action__in=["endpoint.create", "endpoint.update"])
    assert len(events) == 2
    assert all(b"confidential" not in bytes(event.body) for event in events)
    one, two = EndpointVersion.objects.order_by("number")
    assert "image" in [name for name, _, _ in versions.differences(one, two)]
    back = versions.roll_back(actor=ACTOR, endpoint=changed, now=world.now)
    assert back.generation == 1
    assert back.image is not None and back.image["env"] == {"TOKENISH": "confidential"}


def test_a_version_from_before_images_has_none(world: World, host: Node) -> None:
    version = EndpointVersion(spec={"model": "org/model"})
    assert version.image is None
    assert images.wired(version.image, {}) is None


def test_replicas_of_a_tag_are_all_of_the_digest_that_served_first(
    world: World, host: Node
) -> None:
    endpoint = world.endpoint(**wish(), max_replicas=2)
    first, second = world.replica(endpoint, host), world.replica(endpoint, host)
    assert told(world, host, second).reference == TAGGED
    served = f"{HOST}/team/echo@{DIGEST}"
    world.report(
        host,
        said(first.id, wire.Phase.READY, image=f"{HOST}/team/echo:1.0@{DIGEST}"),
        said(second.id, wire.Phase.FETCHING),
    )
    assert told(world, host, second).reference == served
    # A node's word decides the digest alone.
    for lie in (f"evil.example/x@sha256:{'b' * 64}", "nonsense", f"{HOST}/team/echo:2"):
        endpoint.refresh_from_db()
        images.pin(second.id, lie)
        assert told(world, host, second).reference == served


def test_a_node_is_told_the_secrets_of_its_own_start(world: World, host: Node) -> None:
    keep(world, "env", "api", value="topsecret")
    keep(world, "registry", "robot", host=HOST, username="robot", password="hunter2")
    endpoint = world.endpoint(
        **wish(secrets={"API_TOKEN": "api"}, registry_secret="robot"), max_replicas=2
    )
    replica = world.replica(endpoint, host)
    secrets = ask(world, host, replica)
    assert secrets.env == {"API_TOKEN": "topsecret"}
    login = secrets.registry
    assert login is not None
    assert (login.server, login.username, login.password) == (HOST, "robot", "hunter2")
    events = AuditEvent.objects.filter(action="secret.deliver")
    assert len(events) == 2
    for event in events:
        assert (event.actor_type, event.actor_id) == ("node", host.id)
        assert b"topsecret" not in bytes(event.body) and b"hunter2" not in bytes(event.body)
    listed = repr(world.desired(host)) + repr(EndpointVersion.objects.get().spec)
    assert "topsecret" not in listed and "hunter2" not in listed


def test_nobody_else_is_told(world: World, host: Node) -> None:
    node = world.node("n2", inventory=RUNS_IMAGES)
    keep(world, "env", "api", value="topsecret")
    endpoint = world.endpoint(**wish(secrets={"API_TOKEN": "api"}), max_replicas=2)
    replica = world.replica(endpoint, host)
    assert "nothing of this node's" in refusal(world, node, replica)
    world.report(host, said(replica.id, wire.Phase.READY))
    assert "nothing of this node's" in refusal(world, host, replica)  # it has what it needs
    plain = world.replica(world.endpoint(name="plain"), node)
    plain.refresh_from_db()
    placed = Node.objects.get(id=plain.node_id)
    assert "nothing of this node's" in refusal(world, placed, plain)
    assert not AuditEvent.objects.filter(action="secret.deliver").exists()


def test_a_registry_is_never_told_anothers_login(world: World, host: Node) -> None:
    other = {"host": "other.example", "username": "robot", "password": "hunter2"}
    keep(world, "registry", "default", **other)
    replica = world.replica(world.endpoint(**wish()), host)
    assert ask(world, host, replica) == wire.Secrets()  # as anybody
    keep(world, "registry", "theirs", **other)
    named = world.endpoint(name="named", **wish(registry_secret="theirs"))
    assert "is for other.example" in refusal(world, host, world.replica(named, host))
    assert not AuditEvent.objects.filter(action="secret.deliver").exists()


def test_a_secret_that_is_gone_is_said(world: World, host: Node) -> None:
    keep(world, "env", "api", value="topsecret")
    replica = world.replica(world.endpoint(**wish(secrets={"T": "api"})), host)
    owner = Subject("organization", world.project.organization_id)
    keys.destroy(subjects=[owner], actor=ACTOR, reason_code="erasure", now=world.now)
    assert "cannot be opened" in refusal(world, host, replica)
    secret = world.project.secrets.get()
    project_secrets.delete_secret(actor=ACTOR, secret=secret, now=world.now)
    assert "was deleted" in refusal(world, host, replica)
