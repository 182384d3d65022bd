"""Verbs of tenancy: what they do, what they refuse, and the event that each leaves."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.db import transaction

from compliance import audit
from compliance.models import AuditEvent, EventSecret
from controlplane.tenancy import keys, services
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from controlplane.tenancy.models import ApiKey, Membership, Organization, Project, Role, User

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
PASSWORD = "correct horse battery"


@pytest.fixture
def owner(db: None) -> User:
    return services.create_user(
        actor=audit.SYSTEM, email="Ada@Example.EU", password=PASSWORD, now=NOW
    )


@pytest.fixture
def organization(owner: User) -> Organization:
    return services.create_organization(
        actor=audit.SYSTEM, name="Ada's", region_code="eu-de-1", owner=owner, now=NOW
    )


@pytest.fixture
def project(organization: Organization) -> Project:
    return services.create_project(
        actor=audit.SYSTEM, organization=organization, name="first", now=NOW
    )


def actions(log: str) -> list[str]:
    return [event.action for event in AuditEvent.objects.filter(log_id=log).order_by("id")]


def test_an_organization_has_an_account_an_owner_and_its_log(
    organization: Organization, owner: User
) -> None:
    assert organization.account.name == "Ada's"
    assert Membership.objects.get(organization=organization).role == Role.OWNER
    assert actions(organization.id) == ["organization.create", "membership.create"]
    event = AuditEvent.objects.get(log_id=organization.id, action="membership.create")
    assert {"path": "user_id", "from": None, "to": owner.id} in json.loads(bytes(event.body))[
        "change"
    ]


def test_addresses_are_lower_case_and_sign_in_takes_any(owner: User) -> None:
    assert owner.email == "ada@example.eu"
    assert User.objects.get_by_natural_key("ADA@example.EU ") == owner


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00b", "\u202egnp.exe", "x" * 101])
def test_a_bad_name_is_refused_by_its_field(organization: Organization, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        services.create_project(actor=audit.SYSTEM, organization=organization, name=name, now=NOW)
    assert (caught.value.field, caught.value.code) == ("name", "invalid_name")
    assert not Project.objects.exists()
    assert "project.create" not in actions(organization.id)


def test_a_project_name_is_taken_once(project: Project) -> None:
    with pytest.raises(Conflict) as caught:
        services.create_project(
            actor=audit.SYSTEM, organization=project.organization, name="first", now=NOW
        )
    assert caught.value.code == "name_taken"
    assert Project.objects.count() == 1


@pytest.mark.parametrize(
    ("email", "password", "field"),
    [("nobody", PASSWORD, "email"), ("a@b.eu", "short", "password"), ("a\0@b.eu", "x", "email")],
)
@pytest.mark.django_db
def test_a_bad_login_is_refused_by_its_field(email: str, password: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        services.create_user(actor=audit.SYSTEM, email=email, password=password, now=NOW)
    assert caught.value.field == field
    assert not User.objects.exists()


def test_an_address_has_one_login(owner: User) -> None:
    with pytest.raises(Conflict):
        services.create_user(actor=audit.SYSTEM, email="ADA@EXAMPLE.EU", password=PASSWORD, now=NOW)


def test_the_last_owner_stays(organization: Organization, owner: User) -> None:
    sole = Membership.objects.get(organization=organization)
    with pytest.raises(Conflict, match="needs an owner"):
        services.remove_member(actor=audit.SYSTEM, membership=sole, now=NOW)
    with pytest.raises(Conflict, match="needs an owner"):
        services.change_role(actor=audit.SYSTEM, membership=sole, role=Role.ADMIN, now=NOW)
    other = services.create_user(
        actor=audit.SYSTEM, email="b@example.eu", password=PASSWORD, now=NOW
    )
    second = services.add_member(
        actor=audit.SYSTEM, organization=organization, user=other, role=Role.AUDITOR, now=NOW
    )
    with pytest.raises(Conflict, match="member already"):
        services.add_member(
            actor=audit.SYSTEM, organization=organization, user=other, role=Role.OWNER, now=NOW
        )
    services.change_role(actor=audit.SYSTEM, membership=second, role=Role.OWNER, now=NOW)
    services.remove_member(actor=audit.SYSTEM, membership=sole, now=NOW)
    assert [one.user for one in organization.memberships.all()] == [other]
    assert actions(organization.id)[-3:] == [
        "membership.create",
        "membership.change_role",
        "membership.delete",
    ]
    with pytest.raises(NotFound):
        services.remove_member(actor=audit.SYSTEM, membership=sole, now=NOW)


def test_the_same_role_again_is_no_event(organization: Organization) -> None:
    sole = Membership.objects.get(organization=organization)
    before = actions(organization.id)
    services.change_role(actor=audit.SYSTEM, membership=sole, role=Role.OWNER, now=NOW)
    assert actions(organization.id) == before


def test_a_key_is_shown_once_and_kept_as_a_hash(project: Project) -> None:
    key, secret = services.issue_key(
        actor=audit.SYSTEM, project=project, name="ci", scopes=["read", "inference"], now=NOW
    )
    key.refresh_from_db()
    assert secret.startswith(f"{key.prefix}-")
    assert bytes(key.secrets.get().hash) == keys.digest(secret)
    assert key.scopes == ["inference", "read"]
    assert keys.authenticate_key(secret, NOW) == key


def test_no_secret_is_in_the_audit_log(project: Project) -> None:
    """Neither in a body nor in an opening: the whole key, its secret part, the password."""
    _, secret = services.issue_key(
        actor=audit.SYSTEM, project=project, name="ci", scopes=["read"], now=NOW
    )
    events = {event.id: event for event in AuditEvent.objects.all()}
    bodies = b"".join(bytes(event.body) for event in events.values())
    assert b"api_key.create" in bodies
    for kept in EventSecret.objects.all():
        bodies += "".join(audit.unsealed(kept, events[kept.event_id])).encode()
    assert b"ada@example.eu" in bodies  # the openings were looked at
    for word in (secret, secret[len("sk-stoa-12345678-") :], PASSWORD, "argon2"):
        assert word.encode() not in bodies


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read", "root"]}, "scopes"),
        ({"expires_at": NOW}, "expires_at"),
        ({"expires_at": NOW - timedelta(days=1)}, "expires_at"),
        ({"allowed_models": ["ok", "a\tb"]}, "allowed_models"),
        ({"allowed_models": [str(n) for n in range(101)]}, "allowed_models"),
        ({"name": ""}, "name"),
    ],
)
def test_a_bad_key_request_is_refused(
    project: Project, wrong: dict[str, object], field: str
) -> None:
    wish: dict[str, object] = {"name": "ci", "scopes": ["read"], **wrong}
    with pytest.raises(Invalid) as caught:
        services.issue_key(actor=audit.SYSTEM, project=project, now=NOW, **wish)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not ApiKey.objects.exists()


def test_revoking_twice_is_one_event_and_keeps_the_first_time(project: Project) -> None:
    key, secret = services.issue_key(
        actor=audit.SYSTEM, project=project, name="ci", scopes=["read"], now=NOW
    )
    services.revoke_key(actor=audit.SYSTEM, key=key, now=NOW)
    again = services.revoke_key(actor=audit.SYSTEM, key=key, now=NOW + timedelta(hours=1))
    assert again.revoked_at == NOW
    assert actions(project.organization_id).count("api_key.revoke") == 1
    assert keys.authenticate_key(secret, NOW) is None


@pytest.mark.django_db
def test_the_event_goes_when_the_verb_is_rolled_back() -> None:
    class Crash(Exception):
        pass

    with pytest.raises(Crash), transaction.atomic():
        services.create_organization(
            actor=audit.SYSTEM, name="gone", region_code="eu-de-1", owner=None, now=NOW
        )
        assert AuditEvent.objects.exists()
        raise Crash
    assert not Organization.objects.exists()
    assert not AuditEvent.objects.exists()
    assert not EventSecret.objects.exists()
