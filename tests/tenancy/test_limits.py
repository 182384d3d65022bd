"""Limits of keys, projects and organizations: what they may be, and what changing them leaves."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy import limits, services
from controlplane.tenancy.errors import Conflict, Invalid
from controlplane.tenancy.models import ApiKey
from tests.tenancy.conftest import Tenant

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


def changes(action: str) -> list[list[dict[str, Any]]]:
    events = AuditEvent.objects.filter(action=action).order_by("id")
    return [json.loads(bytes(event.body))["change"] for event in events]


def test_only_what_changes_is_changed_and_told(ours: Tenant) -> None:
    key = ours.key
    limits.update_key(actor=audit.SYSTEM, key=key, requests_per_minute=60, priority=0, now=NOW)
    limits.update_key(actor=audit.SYSTEM, key=key, concurrency=4, priority=-5, now=NOW)
    limits.update_key(actor=audit.SYSTEM, key=key, concurrency=4, requests_per_minute=60, now=NOW)
    key = limits.update_key(actor=audit.SYSTEM, key=key, requests_per_minute=None, now=NOW)
    assert (key.requests_per_minute, key.concurrency, key.priority) == (None, 4, -5)
    assert changes("api_key.update") == [
        [{"path": "requests_per_minute", "from": None, "to": 60}],
        [
            {"path": "concurrency", "from": None, "to": 4},
            {"path": "priority", "from": 0, "to": -5},
        ],
        [{"path": "requests_per_minute", "from": 60, "to": None}],
    ]


def test_projects_and_organizations_have_the_same_limits(ours: Tenant) -> None:
    rates = {name: number for number, name in enumerate(limits.RATES, start=1)}
    project = limits.update_project(actor=audit.SYSTEM, project=ours.project, now=NOW, **rates)
    organization = limits.update_organization(
        actor=audit.SYSTEM, organization=ours.organization, now=NOW, **rates
    )
    for found in (project, organization):
        found.refresh_from_db()
        assert [getattr(found, name) for name in limits.RATES] == [1, 2, 3, 4]
    assert len(changes("project.update")) == len(changes("organization.update")) == 1


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        *(({name: value}, name) for name in limits.RATES for value in (0, -1, 2**31)),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"networks": ["10.0.0.1/8"]}, "networks"),
        ({"networks": ["0.0.0.0/0", "somewhere"]}, "networks"),
        ({"networks": ["10.0.0.0/33"]}, "networks"),
        ({"networks": ["fe80::1%eth0"]}, "networks"),
        ({"networks": [f"10.0.0.{n}" for n in range(101)]}, "networks"),
        ({"allowed_models": ["a\tb"]}, "allowed_models"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(ours: Tenant, wrong: dict[str, Any], field: str) -> None:
    for attempt in (
        lambda: limits.update_key(actor=audit.SYSTEM, key=ours.key, now=NOW, **wrong),
        lambda: services.issue_key(
            actor=audit.SYSTEM, project=ours.project, name="x", scopes=["read"], now=NOW, **wrong
        ),
    ):
        with pytest.raises(Invalid) as caught:
            attempt()
        assert caught.value.field == field
    assert ApiKey.objects.count() == 1
    assert changes("api_key.update") == []


def test_networks_are_kept_in_one_form(ours: Tenant) -> None:
    given = ["192.0.2.7", "10.0.0.0/8", " 10.0.0.0/8", "2001:DB8:0::/32"]
    key, _ = services.issue_key(
        actor=audit.SYSTEM, project=ours.project, name="n", scopes=["inference"], now=NOW,
        networks=given, concurrency=3,
    )  # fmt: skip
    key.refresh_from_db()
    assert key.networks == ["192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32"]
    told = {one["path"]: one["to"] for one in changes("api_key.create")[-1]}
    assert (told["networks"], told["concurrency"]) == (key.networks, 3)
    assert "priority" not in told


def test_nothing_else_is_changed_this_way(ours: Tenant) -> None:
    with pytest.raises(TypeError, match="scopes"):
        limits.update_key(actor=audit.SYSTEM, key=ours.key, now=NOW, scopes=["manage"])
    with pytest.raises(TypeError, match="priority"):
        limits.update_project(actor=audit.SYSTEM, project=ours.project, now=NOW, priority=1)


def test_a_revoked_key_stays_as_it_was(ours: Tenant) -> None:
    services.revoke_key(actor=audit.SYSTEM, key=ours.key, now=NOW)
    later = NOW + timedelta(hours=1)
    with pytest.raises(Conflict):
        limits.update_key(actor=audit.SYSTEM, key=ours.key, concurrency=4, now=later)
