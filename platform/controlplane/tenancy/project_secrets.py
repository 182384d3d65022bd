"""What a project gives us for its sources and containers. It comes in, and never out by this door.

Values are sealed under the newest of STOA_SECRETS_KEYS, or where there is none under the
organization's data key, and bound to their row; `unsealed` is for the one who hands them to a node
that fetches. No event, log line, list or export holds a value.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from compliance import audit, keys, sealing
from compliance.subjects import ORGANIZATION, Subject
from controlplane.tenancy import events, names
from controlplane.tenancy.errors import Conflict, Invalid
from controlplane.tenancy.models import Project, ProjectSecret

DEFAULT = "default"  # the name of the one that is used where none is named
MAX_VALUE = 4096
DATA_KEY = "organization"  # the key id of what the organization's data key seals

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Kind(StrEnum):
    HUB = "hub"
    S3 = "s3"
    REGISTRY = "registry"
    ENV = "env"  # of containers, as an environment variable


# What each kind is made of; those in _OPTIONAL may be left out.
PARTS: dict[str, tuple[str, ...]] = {
    Kind.HUB: ("token",),
    Kind.S3: ("endpoint_url", "access_key_id", "secret_access_key", "region"),
    Kind.REGISTRY: ("host", "username", "password"),
    Kind.ENV: ("value",),
}
_OPTIONAL = {"region": "us-east-1"}


def create_secret(
    *,
    actor: audit.Actor,
    project: Project,
    kind: str,
    name: str,
    value: Mapping[str, str],
    now: datetime,
) -> ProjectSecret:
    """Keep a new one. Raises Invalid, and Conflict where the project has one of that name."""
    name = names.check(name, field="name", limit=63)
    if not _NAME.fullmatch(name):
        message = "a name has 1 to 63 of a-z, 0-9 and inner dashes"
        raise Invalid(message, code="invalid_name", field="name")
    secret = ProjectSecret(
        project=project,
        kind=kind,
        name=name,
        created_at=now,
        changed_at=now,
        created_by=actor.id,
    )
    _seal(secret, _checked(kind, value))
    with transaction.atomic():
        try:
            with transaction.atomic():
                secret.save(force_insert=True)
        except IntegrityError:
            message = f"the project has a {kind} secret of this name already"
            raise Conflict(message, code="name_taken", field="name") from None
        change = [audit.Change("kind", None, kind)]
        _tell(secret, "secret.create", actor, now, change=change, personal={"name": name})
    return secret


def replace_secret(
    *, actor: audit.Actor, secret: ProjectSecret, value: Mapping[str, str], now: datetime
) -> ProjectSecret:
    """A new value under the same name: whatever names it uses the new one from now on."""
    with transaction.atomic():
        secret = _ROWS.select_for_update(of=("self",)).get(pk=secret.pk)
        _seal(secret, _checked(secret.kind, value))
        secret.changed_at = now
        secret.save(update_fields=["sealed", "key_id", "changed_at"])
        _tell(secret, "secret.replace", actor, now)
    return secret


def delete_secret(*, actor: audit.Actor, secret: ProjectSecret, now: datetime) -> None:
    """Its value is gone with the row; sources that it opened are closed to the project."""
    with transaction.atomic():
        _tell(secret, "secret.delete", actor, now)
        secret.delete()


def deliver_secret(
    *, actor: audit.Actor, secret: ProjectSecret, target: audit.Target, now: datetime
) -> dict[str, str]:
    """The value, for a node that fetches `target`; each time leaves an event."""
    value = unsealed(secret)
    with transaction.atomic():
        ProjectSecret.objects.filter(pk=secret.pk).update(used_at=now)
        change = [audit.Change("for", None, target.id)]
        _tell(secret, "secret.deliver", actor, now, change=change)
    return value


def unsealed(secret: ProjectSecret) -> dict[str, str]:
    """Raises sealing.SealBroken, also where its key is none of ours any more; KeyDestroyed,
    KmsAway."""
    context = _context(secret)
    if secret.key_id == DATA_KEY:
        plain = keys.unseal(secret.sealed, subject=_owner(secret), context=context)
    elif (key := _keys().get(secret.key_id)) is None:
        raise sealing.SealBroken(context)
    else:
        plain = sealing.unseal(bytes(secret.sealed), context=context, key=key)
    value: dict[str, str] = json.loads(plain)
    return value


def reseal_secrets(*, actor: audit.Actor, now: datetime) -> int:
    """Seal what is under an older key anew under the newest; how many there were."""
    newest = _newest()
    with transaction.atomic():
        old = list(_ROWS.select_for_update(of=("self",)).exclude(key_id=newest))
        for secret in old:
            _seal(secret, unsealed(secret))
            secret.save(update_fields=["sealed", "key_id"])
        if old:
            audit.record(
                actor=actor,
                action="secret.reseal",
                target=audit.Target("key", newest),
                log=audit.PLATFORM,
                now=now,
                change=[audit.Change("count", None, len(old))],
            )
    return len(old)


def find(project: Project, kind: str, name: str) -> ProjectSecret | None:
    """The one of that name; without a name the default, if there is one."""
    rows = _ROWS.filter(project=project, kind=kind, name=name or DEFAULT)
    return rows.first()


_ROWS: QuerySet[ProjectSecret] = ProjectSecret.objects.select_related("project__organization")


def named(text: object) -> bool:
    """Whether a secret could have this name."""
    return isinstance(text, str) and bool(_NAME.fullmatch(text))


def _keys() -> dict[str, str]:
    """Key id to key, the newest first; the master key sealed what is from before data keys."""
    return {**settings.SECRETS_KEYS, "master": settings.MASTER_KEY}


def _newest() -> str:
    return next(iter(settings.SECRETS_KEYS), DATA_KEY)


def _owner(secret: ProjectSecret) -> Subject:
    return Subject(ORGANIZATION, secret.project.organization_id)


def _seal(secret: ProjectSecret, value: Mapping[str, str]) -> None:
    secret.key_id = _newest()
    plain, context = json.dumps(dict(value)).encode(), _context(secret)
    if secret.key_id == DATA_KEY:
        secret.sealed = keys.seal(plain, subject=_owner(secret), context=context)
    else:
        secret.sealed = sealing.seal(plain, context=context, key=_keys()[secret.key_id])


def _context(secret: ProjectSecret) -> str:
    return f"project_secret:{secret.pk}"


def _checked(kind: str, value: Mapping[str, str]) -> dict[str, str]:
    if kind not in PARTS:
        raise Invalid(f"kind is one of {', '.join(PARTS)}", code="invalid_kind", field="kind")
    parts = PARTS[kind]
    found = {name: str(value.get(name) or _OPTIONAL.get(name, "")).strip() for name in parts}
    if unknown := value.keys() - set(parts):
        message = f"a {kind} secret has {', '.join(parts)}; not {', '.join(sorted(unknown))[:80]}"
        raise Invalid(message, code="invalid_value", field="value")
    for name, text in found.items():
        if not text or len(text) > MAX_VALUE or not (text.isascii() and text.isprintable()):
            message = f"a {kind} secret has a {name} of 1 to {MAX_VALUE} printable characters"
            raise Invalid(message, code="invalid_value", field="value")
    if kind == Kind.S3:
        found["endpoint_url"] = s3_service(found["endpoint_url"])
    return found


def s3_service(url: str) -> str:
    """The address of an S3 service that the operator allows; nodes call no other. Invalid else."""
    allowed = [one.rstrip("/") for one in settings.S3_ENDPOINTS]
    if (url := url.rstrip("/")) not in allowed:
        known = ", ".join(allowed) or "none"
        message = f"the operator allows these S3 services: {known} (STOA_S3_ENDPOINTS)"
        raise Invalid(message, code="s3_service_not_allowed", field="value")
    return url


def _tell(
    secret: ProjectSecret, action: str, actor: audit.Actor, now: datetime, **facts: Any
) -> None:
    target = audit.Target("secret", secret.id)
    events.record(secret.project, target, action, actor=actor, now=now, **facts)
