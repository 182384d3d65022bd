"""What nodes tell that they did: recorded once, whatever the way it came, and shown to whom it
concerns."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from compliance import audit
from compliance.models import AuditEvent
from controlplane.fleet import node_events, wire
from controlplane.fleet.models import NodeEvent
from tests.fleet.machine import Join

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def clean(number: str = "1", **detail: str | int) -> wire.NodeEvent:
    said: dict[str, str | int] = {
        "device": 3,
        "from_organization": "org_a",
        "from_replica": "rep_a",
        "to_organization": "org_b",
        "to_replica": "rep_b",
        "processes": 0,
        "memory_bytes": 4 << 20,
    }
    return wire.NodeEvent(
        id=number, at="2026-03-04T11:59:58+00:00", kind="device_clean", detail={**said, **detail}
    )


def test_an_event_is_a_row_and_a_line_of_the_log(join: Join) -> None:
    node, _ = join()
    assert node_events.note(node=node, events=[clean()], now=NOW) == 1
    (row,) = NodeEvent.objects.all()
    assert (row.kind, row.device_index) == ("device_clean", 3)
    assert (row.from_organization, row.to_organization) == ("org_a", "org_b")
    assert row.at == datetime(2026, 3, 4, 11, 59, 58, tzinfo=UTC) and row.recorded_at == NOW
    assert row.detail["memory_bytes"] == 4 << 20
    (event,) = AuditEvent.objects.filter(action="device.prove_clean")
    assert (event.actor_type, event.actor_id, event.log_id) == ("node", node.id, audit.PLATFORM)
    assert b'"org_b"' in bytes(event.body) and b'"memory_bytes"' in bytes(event.body)


def test_a_repeated_event_is_recorded_once_for_each_node(join: Join) -> None:
    one, _ = join("gpu-1")
    other, _ = join("gpu-2")
    for _ in range(3):
        node_events.note(node=one, events=[clean("1"), clean("2"), clean("1")], now=NOW)
    # Another node cannot take its numbers from it.
    assert node_events.note(node=other, events=[clean("1")], now=NOW) == 1
    assert NodeEvent.objects.filter(node=one).count() == 2
    assert AuditEvent.objects.filter(action="device.prove_clean").count() == 3


@pytest.mark.parametrize(
    "event",
    [
        wire.NodeEvent(id="", at="", kind="device_clean"),
        wire.NodeEvent(id="x" * 65, at="", kind="device_clean"),
        wire.NodeEvent(id="1", at="", kind="of another release"),
    ],
)
def test_what_cannot_be_kept_does_not_keep_the_rest_away(join: Join, event: wire.NodeEvent) -> None:
    node, _ = join()
    assert node_events.note(node=node, events=[event, clean("2")], now=NOW) == 1


@given(
    detail=st.dictionaries(
        st.text(max_size=80), st.text(max_size=700) | st.integers(), max_size=50
    ),
    at=st.text(max_size=30) | st.datetimes().map(str),
)
@hypothesis_settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_node_says_is_kept_or_dropped_and_never_an_error(
    join: Join, detail: dict[str, str | int], at: str
) -> None:
    NodeEvent.objects.all().delete()
    node, _ = join()
    event = wire.NodeEvent(id="1", at=at, kind="orphan_ended", detail=detail)
    assert node_events.note(node=node, events=[event], now=NOW) == 1


def test_an_organizations_export_tells_nothing_of_its_neighbours(join: Join) -> None:
    node, _ = join()
    node_events.note(node=node, events=[clean()], now=NOW)
    period = (NOW, NOW + timedelta(seconds=1))
    (whole,) = node_events.rows(audit.PLATFORM, *period)
    assert {"org_a", "org_b"} <= set(whole)
    assert "to_replica=rep_b" in str(whole[-1]) and "processes=0" in str(whole[-1])
    (seen,) = node_events.rows("org_b", *period)
    assert "org_b" in seen and not any("_a" in str(value) for value in seen)
    assert "to_replica=rep_b" in str(seen[-1])
    assert not list(node_events.rows("org_c", *period))
    assert not list(node_events.rows(audit.PLATFORM, NOW - timedelta(days=1), NOW))
