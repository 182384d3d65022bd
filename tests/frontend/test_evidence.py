"""Exports and audit events on their page."""

import html
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone

from compliance import audit, exports
from compliance.log import signing
from compliance.models import AuditEvent, Export
from controlplane.tenancy import sign_in
from tests.api.house import House, signed_in
from tests.logs import settle
from tests.signers import running


def test_an_export_from_asking_to_the_file(alice: House) -> None:
    client = signed_in(alice.owner)
    body = {
        "organization": alice.organization.id,
        "since": "2026-11-01",
        "until": "2026-11-30",
        "reason": "a quarter",
        "kind": "audit_log",
        "profile": "pseudonymised",
    }
    assert client.post("/evidence", body).headers["location"] == "/evidence"
    export = Export.objects.get()
    assert (export.period_start, export.period_end) == (
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
    )
    waiting = client.get("/evidence").content.decode()
    assert "building" in waiting
    assert 'hx-trigger="every 2s"' in waiting
    with running():
        settle(timezone.now())
        exports.build_waiting(timezone.now())
        assert signing.vkey() in html.unescape(client.get("/evidence").content.decode())
    table = client.get("/evidence/exports", {"log": alice.organization.id})
    text = table.content.decode()
    assert "complete" in text
    assert "hx-trigger" not in text
    file = f"/api/v1/exports/{export.id}/file"
    assert f'href="{file}"' in text
    downloaded = client.get(file)
    assert downloaded.status_code == 200
    downloaded.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [("until", "2026-10-01"), ("since", "soon"), ("reason", ""), ("reason", "bell\x07")],
)
def test_a_refusal_stands_beside_its_field(alice: House, field: str, value: str) -> None:
    client = signed_in(alice.owner)
    body = {"since": "2026-11-01", "until": "2026-11-02", "reason": "kept words"}
    chosen = {"kind": "records", "profile": "full"}
    named = {"organization": alice.organization.id, **chosen, **body, field: value}
    answer = client.post("/evidence", named)
    assert answer.status_code == 422
    assert f'id="id_{field}_error"' in answer.content.decode()
    assert not Export.objects.exists()
    if field != "reason":
        assert b'value="kept words"' in answer.content


def test_events_are_listed_filtered_and_paged(alice: House) -> None:
    client = signed_in(alice.owner)
    for _ in range(60):
        sign_in.signed_in(user=alice.owner)
    first = client.get("/evidence").content.decode()
    assert first.count("session.create</code>") == 50
    assert alice.owner.email in first
    oldest = AuditEvent.objects.filter(log_id=alice.organization.id).order_by("-id")[49]
    older = client.get("/evidence", {"before": oldest.id}).content.decode()
    assert "organization.create</code>" in older
    only = client.get("/evidence", {"action": "endpoint.create"}).content.decode()
    assert "endpoint.create</code>" in only
    assert "session.create</code>" not in only
    event = AuditEvent.objects.get(log_id=alice.organization.id, action="endpoint.create")
    day = event.recorded_at.date().isoformat()
    found = {"target": event.target_id, "outcome": "success", "since": day}
    for wanted, there in (({}, True), ({"until": day}, False), ({"actor": "usr_x"}, False)):
        text = client.get("/evidence", found | wanted).content.decode()
        assert ("endpoint.create</code>" in text) is there, wanted


def test_an_export_of_this_month_can_be_had_from_the_costs(alice: House) -> None:
    client = signed_in(alice.owner)
    now = timezone.now()
    assert b"/file" not in client.get("/costs").content
    export = exports.request(
        actor=audit.Actor("user", alice.owner.id, "session"),
        log=alice.organization.id,
        reason="x",
        start=now - timedelta(days=40),
        end=now + timedelta(days=1),
        now=now,
    )
    with running():
        settle(now)
        exports.build(export.id, now)
    assert f"/api/v1/exports/{export.id}/file" in client.get("/costs").content.decode()
    assert b"/file" not in signed_in(alice.billing).get("/costs").content


def test_the_operator_has_the_own_log_exported(alice: House, operator: Client) -> None:
    looks = AuditEvent.objects.filter(log_id="platform", action="log.read")
    text = operator.get("/operator/evidence").content.decode()
    assert "log.read</code>" in text
    assert looks.count() == 1
    dates = {"since": "2026-01-01", "until": "2026-02-01"}
    wish = {**dates, "kind": "audit_log", "profile": "full", "reason": "yearly audit"}
    assert operator.post("/operator/evidence", wish).status_code == 302
    assert Export.objects.get().log_id == "platform"
    assert "yearly audit" in operator.get("/evidence/exports?log=platform").content.decode()
    owner = signed_in(alice.owner)
    assert owner.get("/operator/evidence").status_code == 404
    assert owner.get("/evidence/exports?log=platform").status_code == 404
