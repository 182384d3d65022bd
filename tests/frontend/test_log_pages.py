"""The console's pages of controls and of where a log is sent."""

import html

import pytest

from compliance.models import AuditEvent, LogSubscription
from tests.api.house import House, signed_in

pytestmark = pytest.mark.django_db


def test_a_log_is_sent_somewhere_until_somebody_ends_it(alice: House, mallory: House) -> None:
    client = signed_in(alice.owner)
    wish = {
        "organization": alice.organization.id,
        "kind": "events",
        "via": "webhook",
        "form": "ocsf",
        "address": "https://siem.example.eu/in?token=hush",
    }
    refused = client.post("/log-subscriptions", {**wish, "address": "http://siem.example.eu"})
    assert refused.status_code == 422 and b'id="id_address_error"' in refused.content
    made = client.post("/log-subscriptions", wish)
    assert made.status_code == 200 and b"whsec_" in made.content
    one = LogSubscription.objects.get(owner=alice.organization.id)
    later = client.get("/log-subscriptions").content
    assert b"siem.example.eu" in later and b"whsec_" not in later and b"hush" not in later

    end = f"/log-subscriptions/{one.id}/end"
    assert signed_in(mallory.owner).post(end).status_code == 404
    assert signed_in(alice.billing).post(end).status_code == 403
    assert signed_in(alice.billing).post("/log-subscriptions", wish).status_code == 403
    assert client.get(end).status_code == 200
    assert client.post(end).headers["location"] == "/log-subscriptions"
    assert client.get(end).status_code == 404
    told = AuditEvent.objects.filter(log_id=alice.organization.id, target_id=one.id).order_by("id")
    assert [event.action for event in told] == ["log.subscribe", "log.unsubscribe"]


def test_the_operator_s_log_is_sent_by_operators(alice: House) -> None:
    client = signed_in(alice.owner)
    wish = {"kind": "heads", "via": "webhook", "form": "ocsf", "address": "https://w.example.eu/h"}
    assert client.post("/operator/subscriptions", wish).status_code == 404
    assert client.get("/operator/controls").status_code == 404
    alice.owner.is_operator = True
    alice.owner.save()
    assert client.post("/operator/subscriptions", wish).status_code == 200
    one = LogSubscription.objects.get(owner="platform")
    assert client.post(f"/log-subscriptions/{one.id}/end").headers["location"] == (
        "/operator/subscriptions"
    )


def test_controls_say_what_they_have_and_what_not(alice: House) -> None:
    client = signed_in(alice.owner)
    page = html.unescape(client.get("/evidence/controls").content.decode())
    assert page.count("<tr>") == 93 + 4
    assert "access_rights" in page and "organisational" in page
    assert "privileged_acts" not in page  # of the operator's log alone
    alice.owner.is_operator = True
    alice.owner.save()
    assert "privileged_acts" in client.get("/operator/controls").content.decode()
