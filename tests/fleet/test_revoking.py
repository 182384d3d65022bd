"""What a revocation takes away, and from whom."""

from datetime import datetime, timedelta

import pytest
from django.core.management import call_command

from compliance import audit
from controlplane.endpoints import assignments
from controlplane.fleet import credentials, errors, revoking, services
from controlplane.fleet.models import Pool, Region
from tests.fleet.machine import Join, Machine, report

PATH = "/agent/v1/report"


def test_a_revoked_node_is_refused_until_it_joins_again(
    pool: Pool, join: Join, now: datetime
) -> None:
    node, machine = join()
    call = machine.call("POST", PATH, now=now)
    assert credentials.verify(call, now=now).node == node
    assert services.heartbeat(node=node, report=report(), signed_at=now, now=now)
    assert node.reachable(now)
    node = revoking.revoke_node(node=node, actor=audit.SYSTEM, now=now)
    assert not node.reachable(now)  # its replicas are routed no more
    with pytest.raises(errors.RevokedCredential):
        credentials.verify(call, now=now)
    later = now + timedelta(minutes=1)
    _, secret = services.issue_enrollment_token(pool=pool, node=node, actor=audit.SYSTEM, now=later)
    again = Machine()
    _, credential = services.enroll(
        token=secret, csr_pem=again.csr, name="gpu-1", agent_version="0.1.0", now=later
    )
    again.certificate_pem = credential.certificate_pem
    call = again.call("POST", PATH, now=later)
    assert credentials.verify(call, now=later).node == node
    # The new certificate was issued later than what is revoked.
    (told,) = revoking.listed(pool.region_id, later)
    assert (told.kind, told.id) == ("node", node.id)
    assert told.issued_until < later.timestamp()


def test_every_node_of_the_region_hears_of_a_revoked_gateway(
    region: Region, join: Join, now: datetime
) -> None:
    node, _ = join()
    before = node.desired_version
    revoking.revoke_gateway(region=region, gateway_id="gw-1", actor=audit.SYSTEM, now=now)
    node.refresh_from_db()
    assert node.desired_version == before + 1
    (told,) = assignments.desired(node, now).revoked
    assert (told.kind, told.id, told.issued_until) == ("gateway", "gw-1", now.timestamp())
    # After the longest life of a certificate nobody need know.
    assert revoking.listed(region.code, now + timedelta(days=91)) == []


def test_a_removed_nodes_certificates_go_with_it(join: Join, now: datetime) -> None:
    node, _ = join()
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    assert [one.id for one in revoking.listed(node.pool.region_id, now)] == [node.id]


def test_what_is_no_gateway_cannot_be_revoked(region: Region, now: datetime) -> None:
    with pytest.raises(errors.InvalidName):
        revoking.revoke_gateway(region=region, gateway_id="GW 1", actor=audit.SYSTEM, now=now)


def test_the_command(join: Join, capsys: pytest.CaptureFixture[str]) -> None:
    node, _ = join()
    call_command("revoke_node", "--pool", node.pool.name, "--node", node.name)
    assert f"--node {node.name}" in capsys.readouterr().out
    node.refresh_from_db()
    assert revoking.is_revoked(node.certificate_sha256)
