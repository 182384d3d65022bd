"""Records of processing, holds and the schedule, as people and programs reach them."""

import json
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from compliance import audit, exports
from compliance.models import AuditEvent, Export, Hold, ProcessingVersion
from compliance.privacy import holds, records, retention
from compliance.subjects import Subject
from controlplane.batches import files
from controlplane.batches.models import Batch, File
from tests.api.house import House, post, signed_in, with_key
from tests.logs import settle
from tests.signers import running

pytestmark = pytest.mark.django_db


def codes(document: dict[str, Any]) -> set[str]:
    return {one["code"] for one in document["activities"]}


def put(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.put(f"/api/v1{path}", body, content_type="application/json")


def test_what_is_switched_on_is_in_the_record_and_each_change_is_a_version(alice: House) -> None:
    log, now = alice.organization.id, timezone.now()
    first = records.keep(log, now)
    assert first is not None and records.keep(log, now) is None
    document = records.read(first)
    assert codes(document) >= {"people", "access", "operation", "content", "usage", "evidence"}
    assert not codes(document) & {"invoicing", "payments", "machines", "catalogue", "models"}
    content = next(one for one in document["activities"] if one["code"] == "content")
    assert content["special_categories_possible"] and content["because"]
    assert content["systems"] == sorted(content["systems"]) != []
    Batch.objects.all().delete()
    for file in File.objects.all():
        files.delete(actor=audit.SYSTEM, file=file, now=now)
    second = records.keep(log, now + timedelta(days=1))
    assert second is not None and second.number == 2
    assert "content" not in codes(records.read(second))
    changes = records.difference(document, records.read(second))
    assert "- activities[content].code: content" in changes
    assert not [line for line in changes if line.startswith("+")]
    upload = files.begin(actor=audit.SYSTEM, project=alice.project, now=now)
    upload.write(b"{}\n")
    third = records.keep(log, now + timedelta(days=2))
    assert third is not None and "content" in codes(records.read(third))
    told = AuditEvent.objects.filter(log_id=log, action="processing.version")
    assert told.count() == ProcessingVersion.objects.filter(scope=log).count() == 3


def test_the_operators_record_has_what_article_30_asks_for(operator: Client) -> None:
    client = operator
    body = {"log": "platform", "name": "Example AG", "email": "privacy@example.eu"}
    assert put(client, "/processing-contacts/controller", body).status_code == 200
    assert put(client, "/processing-contacts/controller", body).status_code == 200
    assert AuditEvent.objects.filter(action="processing.configure").count() == 1
    for bad in ({"email": "x"}, {"name": "a\0"}, {"name": "", "phone": "1"}):
        assert put(client, "/processing-contacts/dpo", body | bad).status_code == 422
    assert put(client, "/processing-contacts/boss", body).status_code == 422
    said = client.get("/api/v1/processing-records/current", {"log": "platform"}).json()
    assert said["contacts"]["controller"]["name"] == "Example AG"
    assert said["contacts"]["dpo"] == records.NOT_NAMED
    for one in said["activities"]:
        assert one["purposes"] and one["legal_basis"] and one["subjects"] and one["data"]
        assert one["erased_after"] and all(rule["period"] for rule in one["erased_after"])
    assert said["transfers"] == {"recipients": [], "safeguards": "no transfer is configured"}
    assert any("second factor" in one and "absent" in one for one in said["measures"])


def test_a_bundle_has_the_versions_and_names_nobody_unless_asked(alice: House) -> None:
    client, log = signed_in(alice.owner), alice.organization.id
    body = {"organization": log, "name": "Alice Canary", "email": "alice@example.eu"}
    assert put(client, "/processing-contacts/dpo", body).status_code == 200
    assert records.keep_all(timezone.now()) == 2  # the operator's first, and Alice's
    retention.run(timezone.now())
    made: dict[str, Export] = {}
    now = timezone.now()
    holds.place(
        actor=audit.SYSTEM, subject=Subject("organization", log), log=log, reason="Canary", now=now
    )
    for kind, profile in (
        ("processing_records", "full"),
        ("processing_records", "pseudonymised"),
        ("retention", "pseudonymised"),
    ):
        made[f"{kind} {profile}"] = exports.request(
            actor=audit.SYSTEM,
            log=log,
            reason="an audit",
            start=now - timedelta(days=1),
            end=now + timedelta(days=1),
            now=timezone.now(),
            kind=kind,
            profile=profile,
        )
    with running():
        settle(timezone.now())
        assert exports.build_waiting(timezone.now()) == 3
        assert exports.build_waiting(timezone.now()) == 0
    for name, export in made.items():
        export.refresh_from_db()
        assert export.completed_at, export.failure
        with zipfile.ZipFile(exports.archive(export)) as bundle:
            names = set(bundle.namelist())
            whole = b"".join(bundle.read(one) for one in names if "log/" not in one)
            if name.startswith("retention"):
                assert b"audit_opening" in whole and b"hld_" in whole and b"Canary" not in whole
                continue
            (document,) = [one for one in names if "processing-record-" in one]
            said = json.loads(bundle.read(document))
            assert (b"Alice Canary" in whole) is (profile_of(name) == "full")
            assert said["record"]["scope"] == log and said["number"] == 1


def profile_of(name: str) -> str:
    return name.split()[1]


def test_owners_hold_their_own_and_operators_everything(
    alice: House, mallory: House, operator: Client
) -> None:
    client, home = signed_in(alice.owner), alice.organization.id
    body = {"organization": home, "subject": alice.owner.id, "reason": "a claim"}
    made = post(client, "/legal-holds", body)
    assert made.status_code == 201 and holds.held(Subject("person", alice.owner.id))
    for wrong in (mallory.owner.id, mallory.organization.id, "x"):
        assert post(client, "/legal-holds", {**body, "subject": wrong}).status_code == 422
    assert post(client, "/legal-holds", {**body, "reason": ""}).status_code == 422
    assert post(signed_in(alice.billing), "/legal-holds", body).status_code == 403
    strangers = signed_in(mallory.owner)
    assert post(strangers, "/legal-holds", body).status_code == 404
    path = f"/legal-holds/{made.json()['id']}"
    assert strangers.get(f"/api/v1{path}").status_code == 404
    assert post(strangers, f"{path}/lift", {"reason": "mine"}).status_code == 404
    assert client.get("/api/v1/legal-holds", {"organization": home}).json()["data"]
    assert post(client, f"{path}/lift", {"reason": "it is over"}).json()["lifted_at"]
    assert not holds.held(Subject("person", alice.owner.id))
    ours = {"log": "platform", "subject": mallory.organization.id, "reason": "a court asks"}
    assert post(client, "/legal-holds", ours).status_code == 404
    assert post(operator, "/legal-holds", ours).status_code == 201
    assert Hold.objects.filter(lifted_at=None).get().log == audit.PLATFORM


def test_the_schedule_is_shown_and_operators_change_it(alice: House, operator: Client) -> None:
    retention.run(timezone.now())
    whose = {"organization": alice.organization.id}
    client, operators = signed_in(alice.owner), operator
    rules = client.get("/api/v1/retention-rules", whose).json()["data"]
    assert {one["code"] for one in rules} >= {"audit_opening", "file", "voucher"}
    assert with_key(alice.secret).get("/api/v1/retention-rules", whose).status_code == 403
    change = {"amount": 36, "unit": "months", "reason": "our insurer asks"}
    assert put(client, "/retention-rules/audit_opening", change).status_code == 404
    assert put(operators, "/retention-rules/nothing", change).status_code == 404
    assert put(operators, "/retention-rules/quote", change).status_code == 422
    done = put(operators, "/retention-rules/audit_opening", change)
    assert done.status_code == 200 and done.json()["period"] == "36 months"
    runs = operators.get("/api/v1/retention-runs", {"log": "platform"}).json()["data"]
    assert {"rule", "done", "held", "failed", "before"} <= runs[0].keys()
    assert client.get("/api/v1/retention-runs", whose).json()["data"] == []
