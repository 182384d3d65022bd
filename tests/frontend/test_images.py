"""Images and what they may reach, in the console."""

from typing import Any

import pytest

from controlplane.endpoints.models import Endpoint
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import ProjectSecret
from tests.api.house import House, signed_in
from tests.frontend.reading import read

HOST = "registry.example"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def registries(settings: Any) -> None:
    settings.IMAGE_REGISTRIES = [HOST]


def wish(house: House, **fields: str) -> dict[str, str]:
    given = {
        "project": house.project.id,
        "name": "echo",
        "engine": "custom",
        "device_kind": "cpu",
        "device_count": "1",
        "min_replicas": "0",
        "max_replicas": "1",
        "scale_to_zero_timeout_s": "3600",
        "ttft_target_s": "1",
        "keep_alive": "predictable",
        "image_reference": f"{HOST}/team/echo:1",
        "image_command": "serve\n-v",
        "image_env": "MODE=fast\nURL=http://x?a=b",
        "image_port": "9000",
        "image_readiness_path": "/ready",
        "image_openai": "false",
    }
    return {**given, **fields}


def test_an_image_is_asked_for_and_shown(alice: House) -> None:
    client = signed_in(alice.owner)
    answer = client.post("/endpoints/new", wish(alice))
    assert answer.status_code == 302, answer.content.decode()
    endpoint = Endpoint.objects.get(name="echo")
    assert endpoint.image == {
        "reference": f"{HOST}/team/echo:1",
        "command": ["serve", "-v"],
        "env": {"MODE": "fast", "URL": "http://x?a=b"},
        "secrets": {},
        "registry_secret": "",
        "port": 9000,
        "readiness_path": "/ready",
        "openai": False,
    }
    page = client.get(f"/endpoints/{endpoint.id}").content.decode()
    assert f"{HOST}/team/echo:1" in page
    assert "/e/echo/YOUR/PATH" in page
    assert "from openai import" not in page
    Endpoint.objects.update(pinned={f"image {HOST}/team/echo:1": f"{HOST}/team/echo@{DIGEST}"})
    assert DIGEST in client.get(f"/endpoints/{endpoint.id}").content.decode()


def test_what_is_wrong_stands_beside_its_field(alice: House) -> None:
    client = signed_in(alice.owner)
    for field, value, complaint in (
        ("image_reference", "echo:1", "expected registry/repository"),
        ("image_reference", "", "needs an image"),
        ("image_env", "1A=x", "cannot name an environment variable"),
        ("image_env", "A", "expected NAME=value"),
        ("image_secrets", "A=none", "no env secret none"),
        ("image_port", "80", "expected a port from 1024"),
        ("image_readiness_path", "ready", "expected a path"),
    ):
        answer = client.post("/endpoints/new", wish(alice, **{field: value}))
        assert answer.status_code == 422
        shown = answer.content.decode()
        at = shown.index(complaint)
        beside = shown[:at].rpartition('<div class="field wrong">')[2]
        assert f'name="{field}"' in beside, (field, value)
    assert not Endpoint.objects.filter(name="echo").exists()


def test_a_model_is_needed_by_all_but_an_image_of_ones_own(alice: House) -> None:
    answer = signed_in(alice.owner).post("/endpoints/new", wish(alice, engine="vllm"))
    assert answer.status_code == 422
    assert "This field is required." in answer.content.decode()


def test_another_image_is_another_version(alice: House) -> None:
    client = signed_in(alice.owner)
    client.post("/endpoints/new", wish(alice))
    endpoint = Endpoint.objects.get(name="echo")
    path = f"/endpoints/{endpoint.id}/versions"
    assert "team/echo:1" in client.get(path).content.decode()
    form = {"model": "", "revision": "", "device_count": "1", "engine_args": "{}"}
    more = {"image": f'{{"reference": "{HOST}/team/echo:2"}}', "strategy": "rolling"}
    assert client.post(path, {**form, **more}).status_code == 302
    endpoint.refresh_from_db()
    assert endpoint.generation == 2
    assert endpoint.image is not None and endpoint.image["reference"].endswith(":2")
    bad = client.post(path, {**form, **more, "image": '["x"]'})
    assert bad.status_code == 422
    assert "expected an object" in bad.content.decode()


def test_a_value_for_the_environment_is_kept(alice: House) -> None:
    client = signed_in(alice.owner)
    form = {"project": alice.project.id, "kind": "env", "name": "api", "value": "top secret=1"}
    assert client.post("/secrets", form).status_code == 302
    found = ProjectSecret.objects.select_related("project").get(name="api")
    assert project_secrets.unsealed(found) == {"value": "top secret=1"}


def test_the_list_of_an_organization(alice: House, mallory: House) -> None:
    client, id = signed_in(alice.owner), alice.organization.id
    form = {"organization": id, "allow": "b.example:443\n*.A.example:443"}
    assert client.post("/egress", form).status_code == 302
    alice.organization.refresh_from_db()
    assert alice.organization.egress == ["*.a.example:443", "b.example:443"]
    alice.replica.egress = {"p1 reached b.example:443": [3, 2048, 4096, "2999-03-04T12:00:00"]}
    alice.replica.save()
    shown = client.get("/egress").content.decode()
    assert "*.a.example:443" in shown
    assert read(client.get("/egress")) is not None
    assert "2999-03-04T12:00:00" in shown and alice.endpoint.name in shown
    bad = client.post("/egress", {**form, "allow": "*:443"})
    assert bad.status_code == 422
    assert "*:443" in bad.content.decode()
    looks = signed_in(alice.billing)
    assert "<textarea" not in looks.get("/egress").content.decode()
    assert looks.post("/egress", form).status_code == 403
    assert signed_in(mallory.owner).post("/egress", form).status_code == 404
    assert "a.example" not in signed_in(mallory.owner).get("/egress").content.decode()
