"""The verbs of tenancy: one transaction and one audit event each. Callers ask `access` first."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q

from billing import services as billing
from compliance import audit
from controlplane.tenancy import keys, limits, names
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from controlplane.tenancy.models import (
    ApiKey,
    ApiKeySecret,
    Membership,
    Organization,
    Project,
    Role,
    Scope,
    User,
)

MAX_OVERLAP_S = 30 * 86_400


def create_organization(
    *, actor: audit.Actor, name: str, region_code: str, owner: User | None, now: datetime
) -> Organization:
    """A tenant with its account, in a region that the caller has made sure of, and its owner."""
    name = names.check(name, field="name")
    region_code = names.check(region_code, field="region_code", limit=32)
    with transaction.atomic():
        account = billing.open_account(name=name, now=now)
        organization = Organization.objects.create(
            name=name, region_code=region_code, account=account, created_at=now
        )
        audit.record(
            actor=actor,
            action="organization.create",
            target=audit.Target("organization", organization.id),
            log=organization.id,
            now=now,
            region=region_code,
            change=[audit.Change("account_id", None, account.id)],
            personal={"name": name},
        )
        if owner is not None:
            add_member(actor=actor, organization=organization, user=owner, role=Role.OWNER, now=now)
    return organization


def create_project(
    *, actor: audit.Actor, organization: Organization, name: str, now: datetime
) -> Project:
    name = names.check(name, field="name")
    with transaction.atomic():
        try:
            with transaction.atomic():
                project = Project.objects.create(
                    organization=organization, name=name, created_at=now
                )
        except IntegrityError:
            message = f"a project named {name!r} exists already"
            raise Conflict(message, code="name_taken", field="name") from None
        audit.record(
            actor=actor,
            action="project.create",
            target=audit.Target("project", project.id),
            log=organization.id,
            now=now,
            region=organization.region_code,
            personal={"name": name},
        )
    return project


def create_user(
    *,
    actor: audit.Actor,
    email: str,
    password: str,
    now: datetime,
    is_operator: bool = False,
) -> User:
    """A login. The address is kept in lower case: people type it in any."""
    email = email.strip().lower()
    try:
        validate_email(email)
        if len(email) > 254:
            raise ValidationError("too long")
    except ValidationError:
        raise Invalid("this is no e-mail address", code="invalid_email", field="email") from None
    _check_password(password)
    with transaction.atomic():
        try:
            with transaction.atomic():
                user = User.objects.create_user(
                    email, password, is_operator=is_operator, created_at=now
                )
        except IntegrityError:
            message = "this e-mail address has a login already"
            raise Conflict(message, code="email_taken", field="email") from None
        audit.record(
            actor=actor,
            action="user.create",
            target=audit.Target("user", user.id),
            log=audit.PLATFORM,
            now=now,
            change=[audit.Change("is_operator", None, is_operator)],
            personal={"email": email},
        )
    return user


def set_password(*, actor: audit.Actor, user: User, password: str, now: datetime) -> None:
    """Replace it; whoever is signed in with the old one is signed out."""
    _check_password(password)
    with transaction.atomic():
        user.set_password(password)
        user.save(update_fields=["password"])
        audit.record(
            actor=actor,
            action="user.set_password",
            target=audit.Target("user", user.id),
            log=audit.PLATFORM,
            now=now,
        )


def add_member(
    *, actor: audit.Actor, organization: Organization, user: User, role: str, now: datetime
) -> Membership:
    role = _role(role)
    with transaction.atomic():
        try:
            with transaction.atomic():
                membership = Membership.objects.create(
                    organization=organization, user=user, role=role, created_at=now
                )
        except IntegrityError:
            message = "this person is a member already"
            raise Conflict(message, code="member_already", field="user") from None
        _record_member(actor, "membership.create", membership, organization, now, None, role)
    return membership


def change_role(
    *, actor: audit.Actor, membership: Membership, role: str, now: datetime
) -> Membership:
    """Another role for a member; the same role again changes nothing. The last owner stays."""
    role = _role(role)
    with transaction.atomic():
        membership = _locked(membership)
        before = membership.role
        if before == role:
            return membership
        if before == Role.OWNER:
            _keep_an_owner(membership)
        membership.role = role
        membership.save(update_fields=["role"])
        organization = membership.organization
        _record_member(actor, "membership.change_role", membership, organization, now, before, role)
    return membership


def remove_member(*, actor: audit.Actor, membership: Membership, now: datetime) -> None:
    with transaction.atomic():
        membership = _locked(membership)
        if membership.role == Role.OWNER:
            _keep_an_owner(membership)
        organization = membership.organization
        _record_member(
            actor, "membership.delete", membership, organization, now, membership.role, None
        )
        membership.delete()


def issue_key(
    *,
    actor: audit.Actor,
    project: Project,
    name: str,
    scopes: Sequence[str],
    now: datetime,
    expires_at: datetime | None = None,
    **settings: Any,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which nobody can show again. `settings` are limits.KEY_SETTINGS."""
    name = names.check(name, field="name")
    if expires_at is not None and expires_at <= now:
        raise Invalid("expires_at lies in the past", code="invalid_expiry", field="expires_at")
    settings = limits.checked(settings, limits.KEY_SETTINGS)
    minted = keys.mint()
    with transaction.atomic():
        key = ApiKey.objects.create(
            project=project,
            name=name,
            prefix=minted.prefix,
            scopes=_scopes(scopes),
            expires_at=expires_at,
            created_at=now,
            created_by=actor.id,
            **settings,
        )
        _add_secret(key, minted, now)
        expiry = audit.stamp(expires_at) if expires_at else None
        audit.record(
            actor=actor,
            action="api_key.create",
            target=audit.Target("api_key", key.id),
            log=project.organization_id,
            now=now,
            region=project.organization.region_code,
            change=[
                audit.Change("project_id", None, project.id),
                audit.Change("scopes", None, list(key.scopes)),
                audit.Change("allowed_models", None, list(key.allowed_models)),
                audit.Change("expires_at", None, expiry),
                *(
                    audit.Change(name, None, value)
                    for name, value in settings.items()
                    if value and name != "allowed_models"
                ),
            ],
            personal={"name": name},
        )
    return key, minted.secret


def rotate_key(
    *, actor: audit.Actor, key: ApiKey, overlap_s: int, now: datetime
) -> tuple[ApiKey, str]:
    """A new secret under the same id; the secrets before it end `overlap_s` from now at the latest.

    Raises Invalid, and Conflict for a key that may not be used any more.
    """
    if not 0 <= overlap_s <= MAX_OVERLAP_S:
        message = f"overlap_s is from 0 to {MAX_OVERLAP_S} seconds"
        raise Invalid(message, code="invalid_overlap", field="overlap_s")
    minted, until = keys.mint(), now + timedelta(seconds=overlap_s)
    with transaction.atomic():
        rows = ApiKey.objects.select_related("project__organization")
        key = rows.select_for_update(no_key=True, of=("self",)).get(id=key.id)
        if not key.usable(now):
            raise Conflict("the API key is revoked or has expired", code="key_ended")
        before = key.secrets.filter(Q(expires_at=None) | Q(expires_at__gt=until))
        before.update(expires_at=until)
        key.prefix = minted.prefix
        key.save(update_fields=["prefix"])
        secret = _add_secret(key, minted, now)
        audit.record(
            actor=actor,
            action="api_key.rotate",
            target=audit.Target("api_key", key.id),
            log=key.project.organization_id,
            now=now,
            region=key.project.organization.region_code,
            change=[
                audit.Change("secret_id", None, secret.id),
                audit.Change("overlap_s", None, overlap_s),
            ],
        )
    return key, minted.secret


def revoke_key(*, actor: audit.Actor, key: ApiKey, now: datetime) -> ApiKey:
    """The key ends now. Revoking it again changes nothing and leaves no second event."""
    with transaction.atomic():
        revoked = ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=now)
        key = ApiKey.objects.select_related("project__organization").get(id=key.id)
        if revoked:
            audit.record(
                actor=actor,
                action="api_key.revoke",
                target=audit.Target("api_key", key.id),
                log=key.project.organization_id,
                now=now,
                region=key.project.organization.region_code,
                change=[audit.Change("revoked_at", None, audit.stamp(now))],
            )
    return key


def _check_password(password: str) -> None:
    try:
        validate_password(password)
    except ValidationError as error:
        message = " ".join(error.messages)
        raise Invalid(message, code="weak_password", field="password") from None


def _role(role: str) -> str:
    if role not in Role.values:
        message = f"role is one of {', '.join(Role.values)}"
        raise Invalid(message, code="invalid_role", field="role")
    return role


def _scopes(scopes: Sequence[str]) -> list[str]:
    if not scopes or any(scope not in Scope.values for scope in scopes):
        message = f"scopes is a list of {', '.join(Scope.values)}, at least one"
        raise Invalid(message, code="invalid_scopes", field="scopes")
    return [scope for scope in Scope.values if scope in scopes]


def _add_secret(key: ApiKey, minted: keys.Minted, now: datetime) -> ApiKeySecret:
    return ApiKeySecret.objects.create(
        key=key, prefix=minted.prefix, hash=minted.hash, created_at=now
    )


def _locked(membership: Membership) -> Membership:
    """The membership as it is now, with its organization locked: owners are counted in turn."""
    organization = Organization.objects.select_for_update().get(id=membership.organization_id)
    found = Membership.objects.filter(id=membership.id).first()
    if found is None:
        raise NotFound("membership")
    found.organization = organization
    return found


def _keep_an_owner(leaving: Membership) -> None:
    owners = Membership.objects.filter(organization=leaving.organization, role=Role.OWNER)
    if not owners.exclude(id=leaving.id).exists():
        message = "an organization needs an owner: make another one first"
        raise Conflict(message, code="last_owner")


def _record_member(
    actor: audit.Actor,
    action: str,
    membership: Membership,
    organization: Organization,
    now: datetime,
    before: str | None,
    after: str | None,
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("membership", membership.id),
        log=organization.id,
        now=now,
        region=organization.region_code,
        change=[
            audit.Change(
                "user_id",
                membership.user_id if before else None,
                membership.user_id if after else None,
            ),
            audit.Change("role", before, after),
        ],
    )
