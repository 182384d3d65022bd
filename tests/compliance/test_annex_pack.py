"""A known quarter as an Annex A pack: what each producer says, and that a lost event shows."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from django.db import connection
from pytest_django import Settings

from compliance import annex_pack, audit, controls, exports
from compliance.bundles import kinds, stoa_verify
from compliance.log import signing, subscriptions
from compliance.models import AuditEvent, Export, LogLeaf
from controlplane.endpoints import egress, engine_versions
from controlplane.endpoints.models import EngineVersion
from controlplane.endpoints.states import State
from controlplane.fleet import services as fleet
from controlplane.fleet.models import Decommission, Maintenance, NodeFinding
from controlplane.tenancy import services
from controlplane.tenancy.models import Organization, User
from tests.endpoints.world import World
from tests.fleet.machine import enrolled
from tests.logs import settle
from tests.signers import running

JANUARY, APRIL, JULY = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 4, 7))
DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def signer(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.VAR = tmp_path
    with running():
        yield


@dataclass
class Quarter:
    ours: Organization
    ada: User
    bob: User

    @property
    def actor(self) -> audit.Actor:
        return audit.Actor("user", self.ada.id, "session")


def told(action: str, kind: str, at: datetime, log: str = audit.PLATFORM, **more: Any) -> None:
    target = audit.Target(kind, f"{kind}_1")
    audit.record(actor=audit.SYSTEM, action=action, target=target, log=log, now=at, **more)


@pytest.fixture
def quarter() -> Quarter:
    """January to March 2026, by the house's own verbs where they take no other room's process."""
    password = "correct horse battery staple"
    people = [
        services.create_user(
            actor=audit.SYSTEM, email=f"{name}@x.eu", password=password, now=JANUARY, is_operator=op
        )
        for name, op in (("ada", True), ("bob", False))
    ]
    ada, bob = people
    region = fleet.create_region(
        code="eu-de-1", country="DE", name="Frankfurt", actor=audit.SYSTEM, now=JANUARY
    )
    actor = audit.Actor("user", ada.id, "session")
    ours = services.create_organization(
        actor=actor, name="acme", region_code="eu-de-1", owner=ada, now=JANUARY + DAY
    )
    made = Quarter(ours, ada, bob)
    _people(made)
    pool = fleet.create_pool(
        region=region, name="h200", organization=ours, actor=actor, now=JANUARY + DAY
    )
    node, _ = enrolled(pool, "gpu-1", now=JANUARY + 2 * DAY)
    project = services.create_project(
        actor=actor, organization=ours, name="agents", now=JANUARY + DAY
    )
    _keys(made, project)
    world = World(project, pool, now=JANUARY + 3 * DAY)
    place = world.node("n1")
    world.replica(world.endpoint(), place, State.READY)
    egress.allow(
        actor=actor, organization=ours, allowed=["api.example.com:443"], now=JANUARY + 4 * DAY
    )
    subscriptions.subscribe(
        actor=actor,
        owner=ours.id,
        kind="heads",
        via="webhook",
        address="https://siem.example.eu/heads",
        now=JANUARY + 5 * DAY,
    )
    NodeFinding.objects.create(
        node=node,
        check_name="clock_offset",
        severity="warning",
        since=JANUARY + 9 * DAY,
        seen_at=JANUARY + 9 * DAY,
        ended_at=JANUARY + 10 * DAY,
    )
    at = JANUARY + 20 * DAY
    Maintenance.objects.create(
        node=node, starts_at=at, ends_at=at + DAY, created_at=at, created_by=ada.id
    )
    Decommission.objects.create(node=node, requested_by=ada.id, requested_at=at)
    _told(made, at)
    return made


def _people(quarter: Quarter) -> None:
    bob = services.add_member(
        actor=quarter.actor,
        organization=quarter.ours,
        user=quarter.bob,
        role="developer",
        now=datetime(2026, 2, 1, tzinfo=UTC),
    )
    services.remove_member(
        actor=quarter.actor, membership=bob, now=datetime(2026, 3, 10, tzinfo=UTC)
    )
    services.set_password(
        actor=quarter.actor, user=quarter.bob, password="another horse entirely", now=JANUARY + DAY
    )


def _keys(quarter: Quarter, project: Any) -> None:
    for name, month in (("old", 1), ("spring", 4)):
        made = datetime(2026, month, 5, tzinfo=UTC)
        key, _ = services.issue_key(
            actor=quarter.actor, project=project, name=name, scopes=["read"], now=made
        )
        if month == 1:
            services.revoke_key(actor=quarter.actor, key=key, now=JULY)


def _told(quarter: Quarter, at: datetime) -> None:
    """What processes of other rooms write, and what is over in a blink."""
    for minutes in (0, 5, 25):
        told("log.heartbeat", "log", at + timedelta(minutes=minutes))
    told("clock.fault", "host", at, change=[audit.Change("offset_ms", 0, 7_000)])
    for action in ("backup.create", "backup.drill"):
        told(action, "backup", at)
    told("session.refuse", "user", at, outcome="denied", reason="bad_password")
    told("access.deny", "organization", at, quarter.ours.id, outcome="denied")
    told("file.delete", "file", at, quarter.ours.id)
    told("secret.delete", "secret", at, quarter.ours.id)
    told("gateway.enroll", "gateway", at)
    told("node.erased", "node", at)
    told("api_key.update", "api_key", APRIL + DAY, quarter.ours.id)
    engine_versions.ship(JANUARY + DAY)
    version = EngineVersion.objects.order_by("id").first()
    assert version
    engine_versions.deprecate(actor=quarter.actor, version=version, now=at)


def packed(log: str, start: datetime = JANUARY, end: datetime = APRIL, **more: Any) -> Export:
    wish = {"kind": controls.KIND, "reason": "yearly audit", "profile": "full"} | more
    now = JULY + DAY
    export = exports.request(actor=audit.SYSTEM, log=log, now=now, start=start, end=end, **wish)
    settle(now)
    return exports.build(export.id, now)


def opened(export: Export) -> dict[str, Any]:
    """Tables by producer as lists of rows, documents by path."""
    with zipfile.ZipFile(exports.archive(export)) as bundle:
        found: dict[str, Any] = {}
        for name in bundle.namelist():
            data = bundle.read(name)
            if name.startswith("data/") and name.endswith(".jsonl"):
                found[name[5:-6]] = [json.loads(line) for line in data.splitlines()]
            elif name.startswith(("documents/", "log/events")):
                found[name] = data
    return found


# How many rows each producer has of the quarter, where it has any.
OPERATORS = {
    **{"access_changes": 2, "access_rights": 2, "alarms": 1, "api_keys": 1, "assets": 3},
    **{"authentication": 2, "backups": 2, "capacity_starts": 1, "certificates": 3, "changes": 2},
    **{"clock_faults": 1, "clock_findings": 1, "configuration_changes": 4, "decommissions": 1},
    **{"deletions": 1, "endpoint_versions": 1, "engine_blocks": 2, "engine_versions": 1},
    **{"equipment": 2, "identities": 2, "log_days": 4, "maintenance": 1, "node_findings": 1},
    **{"outbound_destinations": 1, "privileged_acts": 3, "regions": 1, "tombstones": 1},
    **{"topology": 1},
}
OURS = {
    **{"access_changes": 6, "access_rights": 2, "alarms": 1, "api_keys": 1, "assets": 3},
    **{"capacity_starts": 1, "changes": 1, "clock_findings": 1, "configuration_changes": 2},
    **{"deletions": 2, "denied_access": 1, "endpoint_versions": 1, "identities": 2},
    **{"log_days": 7, "log_keeping": 1, "log_subscriptions": 1, "network_changes": 1},
    **{"node_findings": 1, "outbound_destinations": 1, "secret_use": 1, "tombstones": 3},
    **{"topology": 1},
}


def test_a_quarter_is_what_happened_in_it(quarter: Quarter) -> None:

    # What the fixture does is out of the order of its times.
    key = stoa_verify.Options([stoa_verify.Vkey.parse(signing.vkey())], max_step_back=10**9)
    for log, expected in ((audit.PLATFORM, OPERATORS), (quarter.ours.id, OURS)):
        export = packed(log)
        report = stoa_verify.verify(exports.archive(export), key)
        assert report.exit_code() == stoa_verify.OK, report.checks
        found = opened(export)
        mine = {one.name for one in kinds.kinds[controls.KIND].chosen(kinds.owner(log))}
        assert {name for name in found if "/" not in name} == mine
        known = mine & {*OPERATORS, *OURS}
        assert {name: len(found[name]) for name in known if found[name]} == expected
        _records_hold(export, found)
        assert found["documents/controls.pdf"].startswith(b"%PDF")
        listed = json.loads(found["documents/controls.json"])["controls"]
        assert [one["control"] for one in listed] == list(controls.CONTROLS)
        assert all(one["producers"] or one["beside"] for one in listed)
    strangers = opened(packed("org_00000000000000000000000000"))
    assert not any(strangers.get(name) for name in {*OPERATORS, *OURS})


def _records_hold(export: Export, found: dict[str, Any]) -> None:
    """Each record is of its table, and a stranger who counts the log's events comes to the same."""
    log = [json.loads(line)["body"] for line in found["log/events.jsonl"].splitlines()]
    start, end = audit.stamp(export.period_start), audit.stamp(export.period_end)
    for record in json.loads(found["documents/evidence.json"])["records"]:
        name, query = record["producer"], record["source_query"]
        with zipfile.ZipFile(exports.archive(export)) as bundle:
            table = bundle.read(record["artefact"]["path"])
        assert record["artefact"]["sha256"] == hashlib.sha256(table).hexdigest()
        assert record["source_query_hash"] == hashlib.sha256(rfc8785.dumps(query)).hexdigest()
        assert record["population_count"] == len(found[name])
        assert record["result"] == ("listed" if found[name] else "none_in_period")
        assert record["evidence_id"].startswith("evd_") and record["control_refs"]
        assert all(one.startswith("ISO27001:2022/A.") for one in record["control_refs"])
        if chosen := query.get("events"):
            where = {"action": lambda b: b["action"], "actor_type": lambda b: b["actor"]["type"]}
            counted = [
                body["id"]
                for body in log
                if start <= body["ts"] < end
                and all(where[column](body) in those for column, those in chosen.items())
            ]
            assert sorted(counted) == sorted(row["event"] for row in found[name])


def test_a_right_is_listed_while_it_was_held(quarter: Quarter) -> None:
    def during(start: datetime, end: datetime) -> dict[str, str | None]:
        rows = opened(packed(quarter.ours.id, start, end))["access_rights"]
        return {row["role"]: row["ended_at"] for row in rows}

    gone = "2026-03-10T00:00:00.000000Z"
    assert during(JANUARY, APRIL) == {"owner": None, "developer": gone}
    assert during(APRIL, JULY) == {"owner": None}
    for at, roles in (
        (datetime(2026, 1, 20, tzinfo=UTC), 1),
        (datetime(2026, 2, 20, tzinfo=UTC), 2),
    ):
        rows = list(controls.producers["access_rights"].rows(quarter.ours.id, at, at + MOMENT))
        assert len(rows) == roles
        assert all(row[-3] is None for row in rows)  # what ended later was not known then
    spring = opened(packed(quarter.ours.id, APRIL, JULY + DAY))
    assert len(spring["api_keys"]) == 2  # the one that was revoked in July, and the new one
    assert {row["revoked_at"] for row in spring["api_keys"]} == {None, audit.stamp(JULY)}


def test_an_event_that_was_taken_away_is_missed(quarter: Quarter) -> None:
    settle(JULY)
    log = quarter.ours.id
    lost = AuditEvent.objects.get(log_id=log, action="membership.delete")
    assert annex_pack.missing(log, JANUARY, APRIL) == []
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE compliance_auditevent DISABLE TRIGGER append_only_rows")
        cursor.execute("DELETE FROM compliance_auditevent WHERE id = %s", [lost.id])
        cursor.execute("ALTER TABLE compliance_auditevent ENABLE ALWAYS TRIGGER append_only_rows")
    index = LogLeaf.objects.get(event_id=lost.id).index
    assert annex_pack.missing(log, JANUARY, APRIL) == [index]
    producer = controls.producers["access_rights"]
    said = annex_pack.result(producer, 2, annex_pack.missing(log, JANUARY, APRIL))
    assert said == {"result": "incomplete", "missing_indices": [index]}
    assert annex_pack.missing(log, APRIL, JULY) == []
    with pytest.raises(LookupError, match=f"event {index} is not kept"):
        packed(log)
