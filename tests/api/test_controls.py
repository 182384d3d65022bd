"""`/api/v1/controls`: the list, and what one control shows of a period or as of a moment."""

from datetime import timedelta

import pytest
from django.utils import timezone

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy import services
from tests.api.house import House, signed_in

pytestmark = pytest.mark.django_db


def test_controls_are_listed_and_asked_one_by_one(alice: House) -> None:
    client, ours = signed_in(alice.owner), {"organization": alice.organization.id}
    listed = client.get("/api/v1/controls", ours).json()
    assert len(listed["controls"]) == 93
    by_id = {one["control"]: one for one in listed["controls"]}
    assert by_id["A.6.3"]["evidence"] == "organisational" and by_id["A.6.3"]["beside"]
    assert "access_rights" in by_id["A.5.18"]["producers"]

    now = timezone.now()
    early = {"since": (now - timedelta(days=4000)).isoformat()}
    path = "/api/v1/controls/A.5.18"
    found = client.get(path, {**ours, **early}).json()
    rights = next(one for one in found["records"] if one["producer"] == "access_rights")
    assert rights["population_count"] == len(rights["rows"]) >= 2
    assert (rights["result"], rights["source_query"]["log"]) == ("listed", alice.organization.id)
    gone = alice.organization.memberships.get(user=alice.billing)
    services.remove_member(actor=audit.SYSTEM, membership=gone, now=now)
    for at, more in ((now - timedelta(seconds=1), 1), (now + timedelta(seconds=1), 0)):
        rows = client.get(path, {**ours, "as_of": at.isoformat()}).json()["records"]
        held = next(one for one in rows if one["producer"] == "access_rights")["rows"]
        assert [row["membership"] == gone.id for row in held].count(True) == more

    assert client.get(path, ours).status_code == 422
    assert client.get(path, {**ours, "as_of": "yesterday"}).json()["field"] == "as_of"
    assert client.get("/api/v1/controls/A.8.99", {**ours, **early}).status_code == 404
    assert client.get(path, {"log": "platform", **early}).status_code == 404


def test_the_operators_log_is_the_operators(alice: House) -> None:
    alice.owner.is_operator = True
    alice.owner.save()
    client = signed_in(alice.owner)
    since = (timezone.now() - timedelta(days=4000)).isoformat()
    found = client.get("/api/v1/controls/A.8.2", {"log": "platform", "since": since}).json()
    assert {"identities", "privileged_acts"} <= {one["producer"] for one in found["records"]}
    assert AuditEvent.objects.filter(action="log.read", actor_id=alice.owner.id).exists()
