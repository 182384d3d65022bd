"""What `stoa doctor` says of a control plane, against a real database and broker."""

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import observe, pulse
from controlplane.fleet import services
from controlplane.fleet.models import Node
from tests.fleet.machine import enrolled
from tests.signers import running
from workers import control_doctor
from workers.agent.checks.finding import Finding

pytestmark = pytest.mark.django_db

ANOTHER = base64.urlsafe_b64encode(b"another master key, of 32 bytes.").decode()


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """An installation for this machine: the test client's host is none of it."""
    with override_settings(ALLOWED_HOSTS=["localhost"]):
        yield


def found() -> dict[str, Finding]:
    return {one.check: one for one in control_doctor.findings(timezone.now())}


def test_an_empty_installation_lacks_whatever_runs_and_is_told_the_cures() -> None:
    said = found()
    assert said["database"].ok and said["migrations"].ok and said["broker"].ok
    for check in ("sweep", "door", "regions", "nodes"):
        assert not said[check].ok and said[check].cure, check


def test_an_installation_that_serves_is_well() -> None:
    now = timezone.now()
    for name in (pulse.SWEEP, pulse.DOOR):
        pulse.beat(name, now=now, gap_s=observe.pulse_gap_s())
    region = services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=now
    )
    pool = services.create_pool(region=region, name="h200", actor=audit.SYSTEM, now=now)
    node, _ = enrolled(pool, "gpu-1", now=now)
    Node.objects.filter(pk=node.pk).update(lease_until=now + timedelta(minutes=1))
    with running():
        said = found()
    # The tests are the superuser, to make their databases.
    lacks = {check for check, one in said.items() if not one.ok} - {"uploads disk"}
    assert lacks == {"database role"}
    Node.objects.filter(pk=node.pk).update(lease_until=now - timedelta(minutes=1))
    assert "quiet: gpu-1" in found()["nodes"].text
    for key, lacking in (
        ("z", {"master key", "authority eu-de-1"}),
        (ANOTHER, {"authority eu-de-1"}),
    ):
        with override_settings(MASTER_KEY=key):
            said = found()
        assert lacking <= {check for check, one in said.items() if not one.ok}
        assert said["master key"].ok is (key == ANOTHER)
        assert "does not open its key" in said["authority eu-de-1"].text


def test_a_broker_that_is_away_and_a_house_without_tls_are_told() -> None:
    with override_settings(BROKER_URL="redis://127.0.0.1:1/0", ALLOWED_HOSTS=["stoa.example"]):
        said = found()
    assert not said["broker"].ok and not said["tls"].ok and not said["secrets"].ok
    # The join command would name this machine to every other.
    assert not said["agents' address"].ok
    outside = {"ALLOWED_HOSTS": ["stoa.example"], "AGENTS_URL": "https://nodes.stoa.example:8443"}
    with override_settings(**outside):
        assert found()["agents' address"].ok


def test_a_migration_that_is_missing_is_named() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'fleet' AND name LIKE '0004%'")
    said = found()
    assert not said["migrations"].ok and "fleet.0004" in said["migrations"].text


def test_machines_read_json_and_the_exit_status() -> None:
    out = StringIO()
    with pytest.raises(SystemExit) as left:
        call_command("doctor", "--json", stdout=out)
    assert left.value.code == 1
    said = json.loads(out.getvalue())
    assert said["ok"] is False
    assert {"check", "ok", "text", "cure"} <= said["findings"][0].keys()
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", stdout=out)  # as a person reads it
    assert "LACK sweep: never heard of" in out.getvalue() and "cure:" in out.getvalue()
