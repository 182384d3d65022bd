"""The page of personal data: record, holds, schedule, runs."""

import pytest
from django.test import Client
from django.utils import timezone

from compliance.models import AuditEvent, Hold
from compliance.privacy import records, retention
from tests.api.house import House, signed_in


@pytest.mark.django_db
def test_the_page_shows_places_lifts_and_names(alice: House, mallory: House) -> None:
    client, log = signed_in(alice.owner), alice.organization.id
    records.keep(log, timezone.now())
    retention.run(timezone.now())
    empty = client.get("/privacy").content.decode()
    for words in ("Files and batches", "audit_opening", "Version 1", "Nothing yet", "absent"):
        assert words in empty
    body = {"log": log, "subject": alice.owner.id, "reason": "a claim"}
    assert client.post("/privacy/holds", {**body, "subject": "x"}).status_code == 422
    assert client.post("/privacy/holds", body).headers["location"] == "/privacy"
    hold = Hold.objects.get()
    assert "a claim" in client.get("/privacy").content.decode()
    client.post(f"/privacy/holds/{hold.id}/lift", {"reason": ""})
    assert Hold.objects.filter(lifted_at=None).exists()
    client.post(f"/privacy/holds/{hold.id}/lift", {"reason": "settled"})
    assert not Hold.objects.filter(lifted_at=None).exists()
    named = {"log": log, "part": "dpo", "name": "Dora", "email": "dpo@example.eu"}
    assert client.post("/privacy/contacts", named).status_code == 302
    assert client.post("/privacy/contacts", {**named, "email": "x"}).status_code == 422
    assert "Dora" in client.get("/privacy").content.decode()
    assert signed_in(mallory.owner).post("/privacy/holds", body).status_code == 404
    assert signed_in(mallory.owner).post(f"/privacy/holds/{hold.id}/lift", body).status_code == 404
    actions = AuditEvent.objects.filter(log_id=log).values_list("action", flat=True)
    assert {"hold.place", "hold.lift", "processing.configure"} <= set(actions)


@pytest.mark.django_db
def test_the_operators_page_is_the_operators(alice: House, operator: Client) -> None:
    retention.run(timezone.now())
    page = operator.get("/operator/privacy").content.decode()
    assert "GDPR/30.1" in page and "network_trace" in page
    assert signed_in(alice.owner).get("/operator/privacy").status_code == 404
