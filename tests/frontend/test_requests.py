"""Requests in the console: one's own, the clock in sight, and answers of those who may."""

from datetime import timedelta

from django.test import Client
from django.utils import timezone

from compliance import audit
from compliance.models import Erasure, SubjectRequest
from compliance.subject_requests import services
from tests.api import house
from tests.api.house import House, signed_in


def test_a_person_without_any_permission_asks_for_themselves(alice: House) -> None:
    client = signed_in(alice.billing)
    assert "Of whom" not in client.get("/requests").content.decode()
    answer = client.post("/requests", {"type": "access", "words": "all of it"})
    request = SubjectRequest.objects.get()
    assert answer["location"] == f"/requests/{request.id}"
    text = client.get(answer["location"]).content.decode()
    assert request.due_on.isoformat() in text
    assert "Build a bundle" in text
    assert "Note it" not in text
    assert client.post(f"/requests/{request.id}", {"verb": "granted"}).status_code == 403
    assert client.post(f"/requests/{request.id}/export").status_code == 302
    assert "being built" in client.get(f"/requests/{request.id}").content.decode()
    assert client.get(f"/requests/{request.id}/file").status_code == 302
    assert signed_in(alice.owner).get(f"/requests/{request.id}").status_code == 404


def test_the_operator_sees_what_is_overdue_and_answers(alice: House, operator: Client) -> None:
    request = services.open_request(
        actor=audit.SYSTEM,
        type="rectification",
        log=audit.PLATFORM,
        subject_id=alice.billing.id,
        channel="letter",
        received_at=timezone.now() - timedelta(days=40),
        now=timezone.now(),
    )
    assert "overdue" in operator.get("/requests").content.decode()
    page = f"/requests/{request.id}"
    wrong = operator.post(page, {"verb": "refused"})
    assert wrong.status_code == 422
    assert "is refused for one of" in wrong.content.decode()
    late = operator.post(page, {"verb": "extend", "reason": "complexity", "words": "much"})
    assert "before it is over" in late.content.decode()
    for verb in ("confirm", "granted", "close"):
        assert operator.post(page, {"verb": verb, "words": "seen"}).status_code == 302
    request.refresh_from_db()
    assert (request.identity, request.decision) == ("confirmed", "granted")
    assert request.closed_at
    assert "overdue" not in operator.get("/requests").content.decode()


def test_an_erasure_is_planned_by_one_and_approved_by_another(
    alice: House, operator: Client
) -> None:
    refused = operator.post("/erasures/plan", {"subject": alice.owner.id}, follow=True)
    assert "only owner" in refused.content.decode()
    assert signed_in(alice.owner).post("/erasures/plan", {"subject": "x"}).status_code == 404
    answer = operator.post("/erasures/plan", {"subject": alice.billing.id})
    erasure = Erasure.objects.get()
    assert answer["location"] == f"/erasures/{erasure.id}"
    text = operator.get(answer["location"]).content.decode()
    assert "Approve this plan" in text
    assert "tenancy.users" in text
    digest = {"plan_sha256": erasure.plan_sha256}
    same = operator.post(f"/erasures/{erasure.id}", digest, follow=True)
    assert "another person has to approve" in same.content.decode()
    second = signed_in(house.user("second@stoa.example", operator=True))
    assert second.post(f"/erasures/{erasure.id}", digest).status_code == 302
    erasure.refresh_from_db()
    assert erasure.state == "approved"
    assert signed_in(alice.owner).get(f"/erasures/{erasure.id}").status_code == 404
