"""An agent of the release before joins, serves a replica and stops it, under today's control plane.

The agent's process is real, with an engine that is not; so are the web process and the database.
"""

import time
from pathlib import Path

import pytest
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import services as endpoints
from controlplane.endpoints.models import Replica
from controlplane.fleet import services
from controlplane.fleet.models import Device, Node
from tests.agent.node import TestNode
from tests.api.older_agent import OlderAgent
from tests.batches.live import Django
from tests.endpoints.world import organization
from workers import provisioning

pytestmark = pytest.mark.django_db(transaction=True)


def test_it_works_with_the_control_plane_of_today(tmp_path: Path) -> None:
    now = timezone.now()
    region = services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=now
    )
    project = organization()
    pool = services.create_pool(
        region=region, name="old", organization=project.organization, actor=audit.SYSTEM, now=now
    )
    _, secret = services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)
    django = Django(tmp_path, 1)
    node = TestNode("")
    try:
        django.web()
        with OlderAgent(django.url, node.directory) as older:
            node.environment |= {"STOA_CONTROLPLANE_URL": older.url, "STOA_AGENT_TOKEN": secret}
            node.agent()
            _until(lambda: Device.objects.exists(), node)
            spec = endpoints.EndpointSpec(
                name="chat", model="org/ok", device_kind="cpu", pool_id=pool.id
            )
            endpoint = endpoints.create(
                actor=audit.SYSTEM, project=project, spec=spec, now=timezone.now()
            )

            def state() -> str:
                provisioning.reconcile(endpoint.id, now=timezone.now())
                return Replica.objects.values_list("state", flat=True).get()

            _until(lambda: state() == "ready", node)
            assert Node.objects.get().agent_version
            endpoints.delete(actor=audit.SYSTEM, endpoint=endpoint, now=timezone.now())
            _until(lambda: state() == "stopped" and not node.engines(), node)
            assert older.refused == [] and older.lists >= 2
    finally:
        node.close()
        django.stop()


def _until(holds: object, node: TestNode, within_s: float = 60.0) -> None:
    assert callable(holds)
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, node.said()[-3000:]
        time.sleep(0.1)
