"""Images from a registry that asks who one is, pulled by a real podman for one start each."""

import hashlib
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from controlplane.fleet import wire
from tests.agent import oci
from tests.agent.fake_registry import PRIVATE, FakeRegistry
from tests.agent.images import Site, custom
from tests.agent.podman import Podman, missing
from workers.agent.containers.images import Layers
from workers.agent.runner import CannotStart

pytestmark = pytest.mark.xdist_group("podman")

SIZE = 3 << 20


def test_what_a_pull_says_becomes_bytes() -> None:
    """As Docker says it, layer by layer, and as podman does."""
    layers = Layers()
    assert not layers.hear({"status": "Pulling from library/x", "id": ""})
    one = {"id": "a", "status": "Downloading", "progressDetail": {"current": 10, "total": 100}}
    assert layers.hear(one)
    assert layers.hear({**one, "id": "b", "progressDetail": {"current": 60, "total": 50}})
    assert (layers.done, layers.total) == (60, 150)
    extracting = {"id": "a", "status": "Extracting", "progressDetail": {"current": 1, "total": 9}}
    assert not layers.hear(extracting)
    assert layers.hear({"id": "a", "status": "Download complete", "progressDetail": {}})
    assert (layers.done, layers.total) == (150, 150)
    assert not layers.hear({"id": "c", "status": "Already exists"})


@pytest.fixture(scope="module")
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture(scope="module")
def site(registry: FakeRegistry) -> Iterator[Site]:
    if why := missing():
        pytest.skip(why)
    podman = Podman(insecure=registry.host)
    try:
        podman.start()
        found = Site(podman)
        try:
            yield found
        finally:
            found.close()
    finally:
        podman.close()


def test_with_its_credentials_for_that_start_alone(site: Site, registry: FakeRegistry) -> None:
    layer = oci.Layer()
    layer.text("data", "x" * SIZE)
    image = oci.image(layer.close(), ["/data"])
    content = hashlib.sha256(image.layer).hexdigest()
    digest = registry.put(f"{PRIVATE}app", "1", image)
    name = f"{registry.host}/{PRIVATE}app"
    wish = custom(image={"reference": f"{name}:1"})
    login = wire.RegistryLogin(server=registry.host, username="user", password="good")
    told: list[tuple[int, int]] = []

    def fetch(secrets: wire.Secrets) -> str:
        site.door.given = secrets
        return site.runner.fetch(
            wish, lambda text, done=0, total=0: told.append((done, total)), lambda: False
        )

    assert not site.runner.here(wish)
    assert fetch(wire.Secrets(registry=login)) == f"{name}@{digest}"
    assert max(total for _, total in told) >= SIZE
    assert told[-1][0] == told[-1][1]  # all of it came
    assert site.runner.here(wish)
    kept = subprocess.run(
        ["grep", "-rla", "-e", '"auths"', site.podman.root, site.root], capture_output=True
    )
    assert kept.stdout == b""  # no file of credentials stays

    # It is on the node now, which is no leave for anybody else to have it.
    for refused in (None, msgspec.structs.replace(login, password="bad")):
        with pytest.raises(CannotStart) as caught:
            fetch(wire.Secrets(registry=refused))
        assert caught.value.reason == "access_denied", caught.value
        assert "bad" not in str(caught.value) and "good" not in str(caught.value)
    registry.asked.clear()
    fetch(wire.Secrets(registry=login))
    assert [one for one in registry.asked if "/manifests/1 " in one]  # asked, and answered
    assert not [one for one in registry.asked if one.startswith("GET") and content in one]


def test_what_the_registry_does_not_have(site: Site, registry: FakeRegistry) -> None:
    site.door.given = wire.Secrets()
    cases = {
        f"{registry.host}/nobody/has:1": "image_not_found",
        "127.0.0.1:1/nobody/listens:1": "fetch_failed",
    }
    for reference, reason in cases.items():
        wish = custom(image={"reference": reference})
        with pytest.raises(CannotStart) as caught:
            site.runner.fetch(wish, lambda text, done=0, total=0: None, lambda: False)
        assert caught.value.reason == reason, str(caught.value)
