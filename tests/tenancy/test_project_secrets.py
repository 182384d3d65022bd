"""Secrets come in and stay in: sealed, rotated, told of, and never shown."""

import base64
import json
from typing import Any

import pytest
from django.conf import settings as house

from compliance import audit, sealing
from compliance.models import AuditEvent, EventSecret
from controlplane.tenancy import project_secrets
from controlplane.tenancy.errors import Conflict, Invalid
from controlplane.tenancy.models import ProjectSecret
from tests.tenancy.conftest import NOW, Tenant

TOKEN = "hf_canary_123"
WHO = audit.Actor("user", "usr_01k00000000000000000000000", "session")


def key(number: int) -> str:
    return base64.urlsafe_b64encode(bytes([number]) * 32).decode()


def made(tenant: Tenant, name: str = "default", kind: str = "hub", **value: str) -> ProjectSecret:
    return project_secrets.create_secret(
        actor=WHO,
        project=tenant.project,
        kind=kind,
        name=name,
        value=value or {"token": TOKEN},
        now=NOW,
    )


def stored(secret: ProjectSecret) -> ProjectSecret:
    return ProjectSecret.objects.select_related("project__organization").get(pk=secret.pk)


def test_a_value_is_sealed_and_bound_to_its_row(ours: Tenant) -> None:
    secret, other = made(ours), made(ours, "other", token="hf_other")
    assert project_secrets.unsealed(stored(secret)) == {"token": TOKEN}
    assert TOKEN.encode() not in bytes(stored(secret).sealed)
    ProjectSecret.objects.filter(pk=other.pk).update(sealed=secret.sealed)
    with pytest.raises(sealing.SealBroken):
        project_secrets.unsealed(stored(other))


def test_no_event_holds_a_value(ours: Tenant) -> None:
    secret = made(ours)
    project_secrets.replace_secret(actor=WHO, secret=secret, value={"token": f"{TOKEN}b"}, now=NOW)
    target = audit.Target("replica", "rep_1")
    node = audit.Actor("node", "node_1", "certificate")
    told = project_secrets.deliver_secret(actor=node, secret=stored(secret), target=target, now=NOW)
    assert told == {"token": f"{TOKEN}b"}
    assert stored(secret).used_at == NOW
    project_secrets.delete_secret(actor=WHO, secret=stored(secret), now=NOW)
    events = AuditEvent.objects.filter(action__startswith="secret.")
    assert [e.action for e in events.order_by("id")] == [
        *("secret.create", "secret.replace", "secret.deliver", "secret.delete")
    ]
    bodies = json.dumps([bytes(e.body).decode() for e in events])
    assert TOKEN not in bodies
    by_id = {event.id: event for event in events}
    openings = [
        audit.unsealed(kept, by_id[kept.event_id])[1].encode()
        for kept in EventSecret.objects.filter(event_id__in=by_id)
    ]
    assert openings  # of the name, which a person typed
    assert not [one for one in openings if TOKEN.encode() in one]
    assert not ProjectSecret.objects.exists()


def test_keys_rotate_by_their_ids(ours: Tenant, settings: Any) -> None:
    first = made(ours)
    assert first.key_id == "organization"
    old = made(ours, "old")  # as it was before there were data keys
    plain, context = json.dumps({"token": TOKEN}).encode(), f"project_secret:{old.pk}"
    sealed = sealing.seal(plain, context=context)
    ProjectSecret.objects.filter(pk=old.pk).update(key_id="master", sealed=sealed)
    assert project_secrets.unsealed(stored(old)) == {"token": TOKEN}
    assert project_secrets.reseal_secrets(actor=audit.SYSTEM, now=NOW) == 1
    assert stored(old).key_id == "organization"
    project_secrets.delete_secret(actor=WHO, secret=stored(old), now=NOW)
    settings.SECRETS_KEYS = {"k1": key(1)}
    second = made(ours, "two")
    settings.SECRETS_KEYS = {"k2": key(2), "k1": key(1)}
    assert made(ours, "three").key_id == "k2"
    assert project_secrets.unsealed(stored(second)) == {"token": TOKEN}
    assert project_secrets.reseal_secrets(actor=audit.SYSTEM, now=NOW) == 2
    assert project_secrets.reseal_secrets(actor=audit.SYSTEM, now=NOW) == 0
    settings.SECRETS_KEYS = {"k2": key(2)}
    for secret in (first, second):
        assert stored(secret).key_id == "k2"
        assert project_secrets.unsealed(stored(secret)) == {"token": TOKEN}
    settings.SECRETS_KEYS = {"k3": key(3)}  # the key is lost, and with it the values
    with pytest.raises(sealing.SealBroken):
        project_secrets.unsealed(stored(first))
    assert house.MASTER_KEY not in bytes(stored(first).sealed).decode(errors="replace")


S3 = {"endpoint_url": "https://s3.eu.example/", "access_key_id": "a", "secret_access_key": "b"}


@pytest.mark.parametrize(
    ("kind", "value", "complaint"),
    [
        ("hub", {}, "has a token of"),
        ("hub", {"token": "a\nb"}, "has a token of"),
        ("hub", {"token": "a", "more": "b"}, "not more"),
        ("ftp", {"token": "a"}, "kind is one of"),
        ("s3", {**S3, "endpoint_url": "http://169.254.169.254"}, "the operator allows these"),
        ("registry", {"host": "r.example", "username": "u"}, "has a password of"),
    ],
)
def test_what_is_no_secret(ours: Any, settings: Any, kind: str, value: Any, complaint: str) -> None:
    settings.S3_ENDPOINTS = ["https://s3.eu.example"]
    with pytest.raises(Invalid, match=complaint):
        project_secrets.create_secret(
            actor=WHO, project=ours.project, kind=kind, name="x", value=value, now=NOW
        )


def test_an_s3_service_is_one_that_the_operator_allows(ours: Tenant, settings: Any) -> None:
    settings.S3_ENDPOINTS = ["https://s3.eu.example"]
    value = project_secrets.unsealed(made(ours, kind="s3", **S3))
    assert value == {**S3, "endpoint_url": "https://s3.eu.example", "region": "us-east-1"}


def test_names_are_one_for_each_kind_and_project(ours: Tenant, theirs: Tenant) -> None:
    first = made(ours)
    made(theirs)
    made(ours, kind="registry", host="r.example", username="u", password="p")
    with pytest.raises(Conflict):
        made(ours)
    assert project_secrets.find(ours.project, "hub", "") == first
    assert project_secrets.find(ours.project, "hub", "none") is None
