"""Requests of data subjects and erasures by the API: who asks, who answers, who sees."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from compliance import exports
from compliance.erasure import executing
from compliance.models import AuditEvent, SubjectRequest
from controlplane.tenancy.models import Notice, User
from tests.api import house
from tests.api.house import House, signed_in
from tests.logs import settle
from tests.signers import running
from workers import control_doctor

REQUESTS, ERASURES = "/api/v1/subject-requests", "/api/v1/erasures"


@pytest.fixture(autouse=True)
def signer(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.VAR = tmp_path
    with running():
        yield


def post(client: Client, path: str, body: Any = None, expect: int = 200) -> Any:
    answer = client.post(path, body or {}, content_type="application/json")
    assert answer.status_code == expect, answer.content
    return answer.json()


def test_a_person_asks_for_themselves_and_takes_the_data_away(
    alice: House, mallory: House, operator: Client
) -> None:
    client = signed_in(alice.billing)
    body = {"type": "access", "words": "everything, please"}
    made = post(client, REQUESTS, body, 201)
    id = made["id"]
    assert (made["subject"], made["identity"], made["role"]) == (
        *(alice.billing.id, "session"),
        "controller",
    )
    assert made["overdue"] is False
    post(client, f"{REQUESTS}/{id}/decide", {"decision": "granted"}, 403)
    for stranger in (signed_in(mallory.owner), signed_in(alice.owner)):
        assert stranger.get(f"{REQUESTS}/{id}").status_code == 404
        post(stranger, f"{REQUESTS}/{id}/export", expect=404)
    post(client, f"{REQUESTS}/{id}/export", expect=202)
    assert client.get(f"{REQUESTS}/{id}/file").status_code == 409
    settle(timezone.now())
    assert exports.build_waiting(timezone.now()) == 1
    answer = client.get(f"{REQUESTS}/{id}/file")
    assert answer.status_code == 200
    assert b"everything, please" in answer.getvalue()
    post(operator, f"{REQUESTS}/{id}/decide", {"decision": "granted"})
    closed = post(operator, f"{REQUESTS}/{id}/close")
    assert closed["output"].startswith("exp_")
    assert client.get(f"{REQUESTS}?open=true").json()["data"] == []
    assert len(client.get(REQUESTS).json()["data"]) == 1


def test_an_owner_asks_for_a_member_and_answers(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    place = {"organization": alice.organization.id, "type": "rectification"}
    made = post(client, REQUESTS, {**place, "subject": alice.billing.id}, 201)
    assert (made["role"], made["log"]) == ("processor", alice.organization.id)
    assert Notice.objects.get().organization == alice.organization
    post(client, REQUESTS, {**place, "subject": mallory.owner.id}, 422)
    post(client, REQUESTS, {"type": "access", "subject": mallory.owner.id}, 404)
    post(signed_in(mallory.owner), REQUESTS, {**place}, 404)
    post(signed_in(alice.billing), REQUESTS, {**place}, 403)
    post(client, f"{REQUESTS}/{made['id']}/verify", {"confirmed": True, "words": "badge"})
    why = {"reason": "complexity", "words": "many systems"}
    extended = post(client, f"{REQUESTS}/{made['id']}/extend", why)
    assert extended["due_on"] > made["due_on"]
    post(client, f"{REQUESTS}/{made['id']}/extend", {"reason": "complexity", "words": ""}, 422)
    refused = {"decision": "refused", "ground": "excessive"}
    post(client, f"{REQUESTS}/{made['id']}/decide", refused)
    assert post(client, f"{REQUESTS}/{made['id']}/close")["closed_at"]


def test_the_operator_enters_letters_and_forwards_them(alice: House, operator: Client) -> None:
    received = (timezone.now() - timedelta(days=40)).isoformat()
    letter = {"type": "objection", "channel": "letter", "received_at": received}
    late = post(operator, REQUESTS, {**letter, "subject": alice.owner.id}, 201)
    assert late["overdue"] is True
    forwarded = post(operator, REQUESTS, {**letter, "organization": alice.organization.id}, 201)
    assert (forwarded["role"], forwarded["subject"]) == ("processor", "")
    assert forwarded["id"] in Notice.objects.get().text
    # The tenant's to answer, and theirs to see.
    post(operator, f"{REQUESTS}/{forwarded['id']}/verify", {"confirmed": True}, 403)
    seen = signed_in(alice.owner).get(REQUESTS).json()["data"]
    assert {one["id"] for one in seen} == {late["id"], forwarded["id"]}
    found = {one.check: one for one in control_doctor.findings(timezone.now())}
    assert found["data subjects"].ok is False
    assert "2 overdue" in found["data subjects"].text
    assert found["erasures"].ok
    post(operator, REQUESTS, {**letter, "subject": "usr_nobody"}, 422)
    post(operator, REQUESTS, {**letter, "type": "telepathy"}, 422)
    assert SubjectRequest.objects.count() == 2


def test_an_erasure_takes_two_of_the_operators_people(
    alice: House, mallory: House, operator: Client
) -> None:
    client = signed_in(alice.billing)
    request = post(client, REQUESTS, {"type": "erasure"}, 201)["id"]
    body = {"subject": alice.billing.id, "request": request}
    post(client, ERASURES, body, 404)
    post(operator, ERASURES, {"subject": alice.owner.id}, 409)  # the only owner
    post(operator, ERASURES, {"subject": mallory.owner.id, "request": request}, 422)
    post(operator, ERASURES, {"subject": "prj_x"}, 422)
    plan = post(operator, ERASURES, body, 201)
    assert {one["store"] for one in plan["steps"]} >= {
        "tenancy.users",
        "compliance.openings/person",
    }
    digest = {"plan_sha256": plan["plan_sha256"]}
    post(operator, f"{ERASURES}/{plan['id']}/approve", digest, 409)
    post(client, f"{ERASURES}/{plan['id']}/approve", digest, 404)
    second = signed_in(house.user("second@stoa.example", operator=True))
    post(second, f"{ERASURES}/{plan['id']}/approve", {"plan_sha256": "0"}, 409)
    post(second, f"{ERASURES}/{plan['id']}/approve", digest)
    assert second.get(f"{ERASURES}/{plan['id']}/certificate").status_code == 404
    assert executing.carry_on(timezone.now()) == 1
    done = operator.get(f"{ERASURES}/{plan['id']}").json()
    assert (done["state"], done["failure"]) == ("issued", "")
    said = operator.get(f"{ERASURES}/{plan['id']}/certificate").json()
    assert said["certificate"]["id"] == done["certificate_id"]
    assert not User.objects.filter(id=alice.billing.id).exists()
    post(operator, f"{REQUESTS}/{request}/decide", {"decision": "granted"})
    closed = post(operator, f"{REQUESTS}/{request}/close")
    assert closed["output"] == done["certificate_id"]
    assert post(operator, f"{ERASURES}/{plan['id']}/verify")["state"] == "issued"


def test_an_organizations_owner_may_approve_its_end(alice: House, operator: Client) -> None:
    plan = post(operator, ERASURES, {"subject": alice.organization.id}, 201)
    owner = signed_in(alice.owner)
    assert [one["id"] for one in owner.get(ERASURES).json()["data"]] == [plan["id"]]
    assert signed_in(alice.billing).get(ERASURES).json()["data"] == []
    digest = {"plan_sha256": plan["plan_sha256"]}
    approved = post(owner, f"{ERASURES}/{plan['id']}/approve", digest)
    assert approved["state"] == "approved"
    # Its engines run: the erasure waits for their end, and the endpoint is deleted at once.
    assert executing.carry_on(timezone.now()) == 0
    alice.endpoint.refresh_from_db()
    assert alice.endpoint.deleted_at
    assert owner.get(f"{ERASURES}/{plan['id']}").json()["state"] == "executing"
    assert AuditEvent.objects.filter(action="endpoint.delete").count() == 1
    alice.replica.released_at = timezone.now()
    alice.replica.save()
    assert executing.carry_on(timezone.now()) == 0
    found = operator.get(f"{ERASURES}/{plan['id']}").json()  # its owner is none any more
    assert found["failure"]  # a machine and a pool are called as the organization was
    columns = [one["column"] for one in found["findings"]["hits"]]
    machines = ["fleet_node.certificate_sha256", "fleet_node.name", "fleet_pool.name"]
    assert sorted(columns) == machines
    looked = post(operator, f"{ERASURES}/{plan['id']}/verify", {"others": columns})
    assert (looked["state"], looked["findings"]["of_others"]) == ("verified", machines)
    assert executing.carry_on(timezone.now()) == 1
    alice.endpoint.refresh_from_db()
    assert alice.endpoint.name == "erased"
    assert alice.endpoint.versions.get().spec["model"] == ""
