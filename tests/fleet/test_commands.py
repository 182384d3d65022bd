"""What an operator types."""

import io
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from compliance import audit
from controlplane.fleet import bundle, services
from controlplane.fleet.models import Pool, Region
from tests.fleet.machine import Join, Machine, inventory, report


def _run(*words: str) -> str:
    out = io.StringIO()
    call_command(*words, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_from_nothing_to_the_join_command(db: None) -> None:
    assert _run("create_region", "eu-fi-1", "FI", "Helsinki") == "eu-fi-1\n"
    pool_id = _run("create_pool", "eu-fi-1", "h200").strip()
    command = _run("enrollment_token", "--pool", pool_id, "--url", "https://stoa.example")
    start, secret = command.strip().rsplit(" ", 1)
    assert start.startswith("python3 -c 'import hashlib,ssl,")
    assert "https://stoa.example/agent/v1/join" in start
    assert bundle.script_sha256() in start
    assert " --url https://stoa.example --pin sha256:" in start
    node, _ = services.enroll(
        token=secret,
        csr_pem=Machine().csr,
        name="gpu-1",
        agent_version="0.1.0",
        now=timezone.now(),
    )
    assert (node.pool_id, node.pool.region_id) == (pool_id, "eu-fi-1")
    assert _run("regions") == "eu-fi-1  FI  Helsinki  h200\n"
    said = json.loads(_run("regions", "--json"))
    assert f" --pin {said['pin']} " in command and said["record_public_key"] == ""


def test_token_as_json_for_a_known_node(pool: Pool, join: Join) -> None:
    node, _ = join()
    facts = json.loads(_run("enrollment_token", "--pool", "h200", "--node", "gpu-1", "--json"))
    assert (facts["node"], facts["pool"]) == (node.id, pool.id)
    assert facts["token"] in facts["command"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("enrollment_token", "--pool", "nope"), "no pool 'nope'"),
        (("enrollment_token", "--pool", "h200", "--node", "nope"), "no node of pool h200"),
        (("enrollment_token", "--pool", "h200", "--minutes", "0"), "--minutes"),
        (("gateway_certificate", "--region", "x", "--id", "gw", "--out", "/x"), "no region 'x'"),
        (("create_region", "eu-ch-1", "CH", "Bern"), "no EU member state"),
        (("create_pool", "eu-de-1", "h200"), "already"),
        (("create_pool", "eu-de-1", "x", "--organization", "org_none"), "no organization"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    pool: Pool, words: tuple[str, ...], says: str
) -> None:
    with pytest.raises(CommandError, match=says):
        _run(*words)


def test_name_of_two_pools_needs_the_id(pool: Pool) -> None:
    paris = services.create_region(
        code="eu-fr-1", country="FR", name="Paris", actor=audit.SYSTEM, now=timezone.now()
    )
    services.create_pool(region=paris, name="h200", actor=audit.SYSTEM, now=timezone.now())
    with pytest.raises(CommandError, match="give the id"):
        _run("enrollment_token", "--pool", "h200")


def test_nodes_are_listed_with_the_state_that_matters(join: Join) -> None:
    states: dict[str, Any] = {"a": "new", "b": "ready", "c": "cordoned", "d": "draining"}
    states |= {"e": "unreachable", "f": "removed"}
    now = timezone.now()
    for name, state in states.items():
        node, _ = join(name)
        if state != "new":
            at = node.created_at if state == "unreachable" else now
            message = report(inventory=inventory())
            services.heartbeat(node=node, report=message, signed_at=at, now=at)
        verb = {
            "cordoned": services.cordon,
            "draining": services.drain,
            "removed": services.remove_node,
        }.get(state)
        if verb:
            verb(node=node, actor=audit.SYSTEM, now=now)
    listed = [json.loads(line) for line in _run("nodes", "--json", "--all").splitlines()]
    assert {row["name"]: row["state"] for row in listed} == states
    table = _run("nodes").splitlines()
    assert table[0].split()[:4] == ["name", "region", "pool", "state"]
    assert len(table) == len(states)  # the header, and all but the removed one
    assert table[2].split()[:5] == ["b", "eu-de-1", "h200", "ready", "none"]


def test_gateway_certificate_is_written_for_its_owner_alone(region: Region, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    for _ in range(2):  # renewing writes over what is there
        _run("gateway_certificate", "--region", "eu-de-1", "--id", "gw-1", "--out", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "ca.pem",
        "certificate.pem",
        "key.pem",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    for known in ("gw-1", "gw-2"):  # a wrong id is told: the right one would go on
        call_command(
            "revoke_gateway", "--region", "eu-de-1", "--id", known, stderr=(said := io.StringIO())
        )
        assert ("No certificate was issued" in said.getvalue()) is (known == "gw-2")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
