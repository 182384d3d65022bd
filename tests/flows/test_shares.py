"""Two endpoints of one organization on one device, and a stranger that has no part of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from billing import rating
from tests.agent.fake_hub import FakeHub, Repo
from tests.flows.api import Api
from tests.flows.conftest import Made
from tests.flows.nodes import fleet
from tests.flows.stoa import ROOT, Stoa, environment_of, until
from workers.agent.environment import default_cache

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("flows")]

# Whoever owns `make up` has another organization too, with a key of its own.
STRANGER = """
from django.utils import timezone
from compliance import audit
from controlplane.tenancy import services
from controlplane.tenancy.models import Organization, User
facts = {"actor": audit.SYSTEM, "now": timezone.now()}
region = Organization.objects.first().region_code
owner = User.objects.first()
other = services.create_organization(name="other", region_code=region, owner=owner, **facts)
project = services.create_project(organization=other, name="theirs", **facts)
_, secret = services.issue_key(project=project, name="key", scopes=["manage", "read"], **facts)
print(project.id, secret)
"""


@pytest.fixture
def repo(hub: FakeHub, tiny_model: Path) -> Iterator[str]:
    """A tiny model at the hub: a path leads nowhere in a pool of several organizations."""
    name = f"flow/tiny-{os.urandom(6).hex()}"
    files = {path.name: path.read_bytes() for path in (tiny_model / "model").iterdir()}
    hub.repos[name] = Repo(files)
    hub.down, hub.before_chunk = False, lambda path, at: None
    yield name
    folder = default_cache() / "weights" / "snapshots" / "hub" / name.replace("/", "~")
    shutil.rmtree(folder, ignore_errors=True)


def stranger(stoa: Stoa) -> tuple[str, Api]:
    said = subprocess.run(
        [sys.executable, "manage.py", "shell", "-c", STRANGER],
        env=environment_of(stoa.pid_of("worker")),
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    project, secret = said.splitlines()[-1].split()
    return project, Api(stoa.run["console_url"], secret)


def answered(stoa: Stoa, model: str) -> str:
    with stoa.client() as sdk:
        until(lambda: model in {one.id for one in sdk.models.list()}, what="it is routed")
        text = sdk.completions.create(model=model, prompt="import os", max_tokens=3, temperature=0)
        return text.choices[0].text


@pytest.mark.skipif(os.geteuid() != 0, reason="walls between organizations need root")
def test_two_share_a_device_and_pay_their_parts(stoa: Stoa, made: Made, repo: str) -> None:
    with fleet(stoa, 1, open_to_all=True) as one:
        (host,) = one.hosts
        where = {"pool": one.pool, "model": repo}
        parts = {n: made(f"part-{n}", device_share=n, **where) for n in (400, 600)}
        replicas = {n: one_ready(made, each["id"]) for n, each in parts.items()}
        for share, replica in replicas.items():
            record = host.record(replica["id"])
            assert (record.spec.device_indexes, record.spec.device_share) == ([0], share)
        assert len({host.engine(replica["id"]).pid for replica in replicas.values()}) == 2
        tokens = {n: each["engine_report"]["kv_cache_tokens"] for n, each in replicas.items()}
        assert tokens[400] / tokens[600] == pytest.approx(400 / 600, rel=0.01)
        assert len({answered(stoa, f"part-{share}") for share in parts}) == 1
        # Nothing of it is anybody else's, and neither is it once one of the two is gone.
        project, theirs = stranger(stoa)
        wish = {"project": project, "name": "theirs", "device_kind": "cpu", **where}
        other = theirs.post("/endpoints", wish | {"device_share": 100})
        refused = until(lambda: waits(theirs, other["id"]), what="the stranger is refused")
        assert "0 of the 100 thousandths of a device of kind cpu free" in refused
        stoa.api.post(f"/endpoints/{parts[400]['id']}/stop")
        made.await_status(parts[400]["id"], "stopped")
        assert answered(stoa, "part-600") and waits(theirs, other["id"])
        stoa.api.post(f"/endpoints/{parts[600]['id']}/stop")
        made.await_status(parts[600]["id"], "stopped")
        until(lambda: not waits(theirs, other["id"]), what="the empty device is the stranger's")
        theirs.delete(f"/endpoints/{other['id']}")
        theirs.http.close()
    for share, endpoint in parts.items():
        costs_its_part(stoa, endpoint["id"], share)


def one_ready(made: Made, endpoint_id: str) -> dict[str, Any]:
    (replica,) = made.await_status(endpoint_id, "ready")["replicas"]
    found: dict[str, Any] = replica
    return found


def waits(api: Api, endpoint_id: str) -> str:
    """Why its replica has no device; empty where it has one."""
    found = api.replicas(endpoint_id)
    return str(found[0]["detail"]) if found and found[0]["state"] == "requested" else ""


def costs_its_part(stoa: Stoa, endpoint_id: str, share: int) -> None:
    """To the last digit: the seconds that it served, at its share of the device's price."""
    (replica,) = stoa.api.replicas(endpoint_id)
    arcs = {one["to_state"]: one for one in stoa.api.transitions(endpoint_id)}

    def metered() -> list[dict[str, Any]]:
        rows = stoa.api.usage(endpoint=endpoint_id)
        return [row for row in rows if row["meter"] in rating.SECONDS]

    seconds = until(metered, what="its seconds are metered")
    assert {(row["share"], row["replica"]) for row in seconds} == {(share, replica["id"])}
    costs = stoa.api.get("/costs", endpoint=endpoint_id)
    lines = [one for one in costs["lines"] if one["basis"] == "charge"]
    assert {line["share"] for line in lines} == {share}
    served = sum(line["quantity"] for line in lines)
    assert served == sum(row["quantity"] for row in metered()), json.dumps(costs)
    assert 0 < served <= arcs["draining"]["seconds"]
    for line in lines:
        exact = Fraction(line["unit_amount"]) * line["quantity"] / 3600 * share / 1000
        assert Decimal(line["exact"]) == rating.rounded(exact, 9)
