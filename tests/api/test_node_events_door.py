"""What a node did by itself, over the agents' door."""

import msgspec
import pytest
from django.utils import timezone

from compliance import audit
from compliance.models import AuditEvent
from controlplane.fleet import services, wire
from tests.api.door import Door, play
from tests.fleet.machine import enrolled, report

pytestmark = pytest.mark.django_db(transaction=True)

REPORT = "/agent/v1/report"


def test_an_event_that_is_repeated_is_recorded_once_whichever_report_brings_it() -> None:
    now = timezone.now()
    region = services.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=now
    )
    pool = services.create_pool(region=region, name="h200", actor=audit.SYSTEM, now=now)
    node, machine = enrolled(pool, "gpu-1", now=now)
    event = wire.NodeEvent(id="1", at="2026-03-04T12:00:00+00:00", kind="device_clean")

    async def scene(door: Door) -> None:
        # The answer to the first was lost; the one of a lower number comes late.
        for seq in (5, 6, 3):
            said = msgspec.structs.replace(report(seq=seq), events=[event])
            assert (await door.call("POST", REPORT, said, machine=machine)).status_code == 200
        later = msgspec.structs.replace(event, id="2")
        said = msgspec.structs.replace(report(seq=4), events=[later])
        assert (await door.call("POST", REPORT, said, machine=machine)).status_code == 200

    play(scene)
    assert sorted(node.events.values_list("number", flat=True)) == ["1", "2"]
    assert AuditEvent.objects.filter(action="device.prove_clean").count() == 2
