"""Signing in, out, and failing to: each is an event, whoever wrote the view."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.test import Client

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy.models import Role, User

PASSWORD = "correct horse battery"


@pytest.fixture
def ada(ours: Any) -> Iterator[User]:
    user: User = ours.people[Role.OWNER]
    user.set_password(PASSWORD)
    user.save()
    yield user


def last(log: str) -> AuditEvent:
    found = AuditEvent.objects.filter(log_id=log).last()
    assert found
    return found


def test_in_and_out_are_in_the_log_of_ones_organization(ours: Any, ada: User) -> None:
    client = Client()
    assert client.login(username=ada.email.upper(), password=PASSWORD)
    event = last(ours.organization.id)
    assert (event.action, event.actor_id, event.region) == ("session.create", ada.id, "eu-de-1")
    client.logout()
    event = last(ours.organization.id)
    assert (event.action, event.actor_id) == ("session.delete", ada.id)


def test_a_wrong_password_is_an_event_without_the_password(ours: Any, ada: User) -> None:
    assert authenticate(username=ada.email, password="wrong horse") is None
    event = last(ours.organization.id)
    assert (event.action, event.outcome, event.target_id) == ("session.refuse", "denied", ada.id)
    assert audit.opening(event, "email") == ada.email
    assert b"wrong horse" not in bytes(event.body)
    assert ada.email.encode() not in bytes(event.body)


@pytest.mark.django_db
def test_an_unknown_address_is_an_event_of_the_platform() -> None:
    assert authenticate(username="nobody@example.eu", password="x") is None
    event = last(audit.PLATFORM)
    assert (event.action, event.target_id) == ("session.refuse", "unknown")
    assert audit.opening(event, "email") == "nobody@example.eu"


def test_a_deactivated_person_is_refused_as_such(ours: Any, ada: User) -> None:
    User.objects.filter(id=ada.id).update(is_active=False)
    assert authenticate(username=ada.email, password=PASSWORD) is None
    assert b'"reason_code":"inactive"' in bytes(last(ours.organization.id).body)
