"""What a gateway lets through: limits of keys, projects and organizations, and a key's networks.

The verbs change only what they are given; the same again changes nothing and leaves no event.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Model, QuerySet

from billing.models import Subject
from billing.spending import budgets
from compliance import audit
from controlplane.tenancy import names, run_policies
from controlplane.tenancy.errors import Conflict, Invalid
from controlplane.tenancy.models import ApiKey, Organization, Project

RATES = (
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "concurrency",
)
PROJECT_SETTINGS = (*RATES, "run_policy")
MAX_RATE = 2**31 - 1
MAX_PRIORITY = 100  # and -100
MAX_NETWORKS = 100
MAX_ALLOWED_MODELS = 100

_Row = TypeVar("_Row", bound=Model)


def checked(settings: Mapping[str, Any], possible: Sequence[str]) -> dict[str, Any]:
    """The settings as they are kept. Raises Invalid with the field, TypeError for others."""
    if unknown := settings.keys() - set(possible):
        raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
    return {name: _CHECKS[name](value, name) for name, value in settings.items()}


def update_key(*, actor: audit.Actor, key: ApiKey, now: datetime, **settings: Any) -> ApiKey:
    """Raises Invalid, and Conflict for a key that is revoked."""
    wanted = checked(settings, KEY_SETTINGS)
    with transaction.atomic():
        key = _locked(ApiKey.objects.select_related("project__organization"), key)
        if key.revoked_at is not None:
            raise Conflict("the API key is revoked", code="key_revoked")
        project = key.project
        _change(key, wanted, actor, "api_key", project.organization, now)
    return key


def update_project(
    *, actor: audit.Actor, project: Project, now: datetime, **settings: Any
) -> Project:
    """Raises Invalid."""
    wanted = checked(settings, PROJECT_SETTINGS)
    with transaction.atomic():
        project = _locked(Project.objects.select_related("organization"), project)
        _change(project, wanted, actor, "project", project.organization, now)
        if "run_policy" in wanted:
            # A budget, so that it holds over all gateways and workers.
            calls = (wanted["run_policy"] or {}).get("max_calls")
            home = project.organization
            owner = budgets.Owner(home.id, home.region_code, Subject.ROOT, project.id)
            budgets.limit_calls(actor=actor, owner=owner, calls=calls, now=now)
    return project


def update_organization(
    *, actor: audit.Actor, organization: Organization, now: datetime, **settings: Any
) -> Organization:
    """Raises Invalid."""
    wanted = checked(settings, RATES)
    with transaction.atomic():
        organization = _locked(Organization.objects.all(), organization)
        _change(organization, wanted, actor, "organization", organization, now)
    return organization


def _locked(rows: "QuerySet[_Row]", row: "_Row") -> "_Row":
    return rows.select_for_update(no_key=True, of=("self",)).get(pk=row.pk)


def _change(
    row: Model,
    wanted: Mapping[str, Any],
    actor: audit.Actor,
    kind: str,
    organization: Organization,
    now: datetime,
) -> None:
    changes = [
        audit.Change(name, getattr(row, name), value)
        for name, value in wanted.items()
        if value != getattr(row, name)
    ]
    if not changes:
        return
    for change in changes:
        setattr(row, change.path, change.after)
    row.save(update_fields=[change.path for change in changes])
    audit.record(
        actor=actor,
        action=f"{kind}.update",
        target=audit.Target(kind, str(row.pk)),
        log=organization.id,
        now=now,
        region=organization.region_code,
        change=changes,
    )


def _rate(value: int | None, field: str) -> int | None:
    if value is not None and not 1 <= value <= MAX_RATE:
        message = f"{field} is at least 1, or null for no limit"
        raise Invalid(message, code="invalid_limit", field=field)
    return value


def _priority(value: int, field: str) -> int:
    if abs(value) > MAX_PRIORITY:
        message = f"{field} is from -{MAX_PRIORITY} to {MAX_PRIORITY}"
        raise Invalid(message, code="invalid_priority", field=field)
    return value


def _networks(given: Sequence[str], field: str) -> list[str]:
    if len(given) > MAX_NETWORKS:
        message = f"{field} has more than {MAX_NETWORKS} entries"
        raise Invalid(message, code="invalid_networks", field=field)
    found = []
    for text in given:
        try:
            if "%" in text:  # a zone means something on one machine only
                raise ValueError("a zone")
            found.append(str(ipaddress.ip_network(text.strip())))
        except ValueError:
            message = f"{text!r:.60} is no network: expected such as 192.0.2.0/24 or 2001:db8::/32"
            raise Invalid(message, code="invalid_networks", field=field) from None
    return list(dict.fromkeys(found))


def _allowed_models(allowed: Sequence[str], field: str) -> list[str]:
    if len(allowed) > MAX_ALLOWED_MODELS:
        message = f"{field} has more than {MAX_ALLOWED_MODELS} entries"
        raise Invalid(message, code="invalid_allowed_models", field=field)
    return list(dict.fromkeys(names.check(one, field=field) for one in allowed))


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(RATES, _rate),
    "priority": _priority,
    "networks": _networks,
    "allowed_models": _allowed_models,
}
KEY_SETTINGS = tuple(_CHECKS)
_CHECKS["run_policy"] = run_policies.checked
