"""Differences between node records and our clock, for who sees costs and for operators."""

import pytest
from django.test import Client

from billing.meters import metering
from billing.meters.metering import Found, Whose
from billing.meters.models import FindingKind
from compliance.models import AuditEvent
from tests.api.house import NOW, House, post, signed_in

pytestmark = pytest.mark.django_db
SPAN = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}


def found(house: House, key: str = "unproved:1") -> str:
    whose = Whose(house.organization.account_id, house.project.id, house.endpoint.id)
    what = Found(key, FindingKind.UNPROVED, NOW, "90 s", whose=whose, seconds=90, blocks=True)
    [row] = metering.find([what], NOW)
    assert metering.find([what], NOW) == []
    return row.id


def test_who_sees_costs_reads_them_and_an_operator_explains(
    alice: House, mallory: House, operator: Client
) -> None:
    id = found(alice)
    query = SPAN | {"organization": alice.organization.id, "open": "true"}
    client = signed_in(alice.billing)
    [row] = client.get("/api/v1/meter-findings", query).json()["data"]
    assert (row["id"], row["seconds"], row["blocks"]) == (id, 90, True)
    assert signed_in(mallory.owner).get("/api/v1/meter-findings", query).status_code == 404
    assert client.get("/api/v1/meter-findings", SPAN).status_code == 404
    assert post(client, f"/meter-findings/{id}/explain", {"reason": "x"}).status_code == 404
    account = alice.organization.account_id
    assert len(metering.unexplained(account, NOW, NOW.replace(day=3))) == 1
    theirs = operator
    assert [one["id"] for one in theirs.get("/api/v1/meter-findings", SPAN).json()["data"]] == [id]
    answer = post(theirs, f"/meter-findings/{id}/explain", {"reason": "its disk was replaced"})
    assert answer.json()["explanation"] == "its disk was replaced"
    assert post(theirs, f"/meter-findings/{id}/explain", {"reason": "again"}).status_code == 409
    assert metering.unexplained(account, NOW, NOW.replace(day=3)) == []
    assert client.get("/api/v1/meter-findings", query).json()["data"] == []
    event = AuditEvent.objects.get(action="metering.explain")
    assert event.log_id == alice.organization.id
