"""Engine versions over HTTP: for the operator's hands, and what an endpoint's owner sees."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from controlplane.endpoints import engine_versions
from controlplane.endpoints.models import EngineVersion
from tests.api.house import House, post, signed_in, with_key

NEWER = {"engine": "vllm", "version": "0.33.1", "image": "registry.example/vllm:0.33.1"}
ENDPOINT = {"name": "newest", "model": "org/m", "device_kind": "cpu", "min_replicas": 0}


@pytest.fixture
def shipped(region: None, settings: Any) -> EngineVersion:
    settings.IMAGE_REGISTRIES = ["registry.example"]
    engine_versions.ship(timezone.now())
    return EngineVersion.objects.get(version="0.32.0")


def test_the_operator_adds_deprecates_blocks_and_supports(
    alice: House, operator: Client, shipped: EngineVersion
) -> None:
    made = post(operator, "/engine-versions", NEWER)
    assert (made.status_code, made.json()["status"]) == (201, "supported")
    assert post(operator, "/engine-versions", NEWER).status_code == 409
    tenant = with_key(alice.secret)
    listed = tenant.get("/api/v1/engine-versions").json()["data"]
    assert [one["version"] for one in listed] == ["0.33.1", "0.32.0"]
    assert "image" not in listed[0]
    path = f"/engine-versions/{shipped.id}"
    told = post(operator, f"{path}/deprecate", {"note": "slower"}).json()
    assert (told["status"], told["note"]) == ("deprecated", "slower")
    assert [one["endpoint"] for one in told["endpoints"]] == [alice.endpoint.id]
    seen = tenant.get(f"/api/v1/endpoints/{alice.endpoint.id}").json()
    assert seen["warnings"] == ["vllm 0.32.0 is deprecated: slower. Choose a newer version."]
    deadline = timezone.now() + timedelta(days=2)
    blocked = post(operator, f"{path}/block", {"deadline": deadline.isoformat()}).json()
    assert (blocked["status"], blocked["replacement"]) == ("blocked", "0.33.1")
    (on,) = blocked["endpoints"]
    assert on["course"] == "rolls" and on["outlook"].startswith("Rolled to 0.33.1 from")
    assert on["course_at"] < deadline.isoformat()
    (notice,) = signed_in(alice.owner).get("/api/v1/notices").json()["data"]
    assert notice["about"] == shipped.id
    body = {"project": alice.project.id, **ENDPOINT}
    refused = post(tenant, "/endpoints", {**body, "engine_version": "0.32.0"})
    assert (refused.status_code, refused.json()["code"]) == (422, "engine_version_blocked")
    assert refused.json()["field"] == "engine_version"
    assert post(tenant, "/endpoints", body).json()["engine_version"] == "0.33.1"
    assert post(operator, f"{path}/support").json()["status"] == "supported"
    for route in (path, f"{path}/block", "/engine-versions"):
        assert post(tenant, route, NEWER).status_code in (404, 405)


def test_in_the_console(alice: House, operator: Client, shipped: EngineVersion) -> None:
    assert signed_in(alice.owner).get("/engines").status_code == 404
    text = operator.get("/engines").content.decode()
    assert "vllm 0.32.0" in text and "nodes bring it" in text
    assert operator.post("/engines/add", {**NEWER, "image": ""}, follow=True).status_code == 200
    assert not EngineVersion.objects.filter(version="0.33.1").exists()
    operator.post("/engines/add", NEWER)
    act = f"/engines/{shipped.id}"
    operator.post(f"{act}/deprecate", {"note": "slower"})
    page = signed_in(alice.owner).get(f"/endpoints/{alice.endpoint.id}").content.decode()
    assert "vllm 0.32.0 is deprecated: slower." in page
    for days, status in (("soon", "deprecated"), ("3", "blocked")):
        operator.post(f"{act}/block", {"days": days, "note": "it leaks"})
        shipped.refresh_from_db()
        assert shipped.status == status
    assert shipped.deadline is not None
    assert timedelta(days=2) < shipped.deadline - timezone.now() <= timedelta(days=3)
    text = operator.get("/engines").content.decode()
    assert "to 0.33.1 by" in text and "it leaks" in text
    assert "Rolled to 0.33.1 from" in text
    assert "vllm 0.32.0 is blocked" in signed_in(alice.owner).get("/costs").content.decode()
    operator.post(f"{act}/support")
    shipped.refresh_from_db()
    assert shipped.status == "supported"


def test_by_command(alice: House, shipped: EngineVersion) -> None:
    def run(*words: str) -> str:
        out = StringIO()
        call_command("engines", *words, stdout=out)
        return out.getvalue()

    assert run() == "vllm 0.32.0  supported  1 endpoints\n"
    with pytest.raises(CommandError, match="no supported version of vllm to roll to"):
        run("block", "vllm", "0.32.0")
    with pytest.raises(CommandError, match="there is no version"):
        run("support", "vllm", "9.9")
    run("add", "vllm", "0.33.1", "--image", NEWER["image"])
    assert "vllm 0.32.0  blocked  1 endpoints  to 0.33.1 by" in run("block", "vllm", "0.32.0")
    assert '"status": "blocked"' in run("list", "--json")
    assert "vllm 0.32.0  supported" in run("support", "vllm", "0.32.0")
    assert "vllm 0.32.0  deprecated" in run("deprecate", "vllm", "0.32.0", "--note", "old")
