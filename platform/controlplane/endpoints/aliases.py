"""Other names for a project's endpoints, such as what an agent suite asks for by default.

An alias shadows nothing: a name is an endpoint's or an alias's, and whoever makes one of either
holds the project's row meanwhile. Targets are names: what is deleted is passed over, and found
again when an endpoint of that name is there again.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from compliance import audit
from controlplane.endpoints.errors import Invalid, NameTaken
from controlplane.endpoints.models import Alias, Endpoint
from controlplane.tenancy import events
from controlplane.tenancy.errors import NotFound
from controlplane.tenancy.models import Project

FALLBACKS = ("no_capacity", "context_overflow")
MAX_TARGETS = 8
MAX_ALIASES = 200  # of one project

# As other people's models are called; a colon would part an adapter from its endpoint.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_ID = re.compile(r"[a-z]{2,4}_[0-9a-z]{26}")


def create_alias(
    *,
    actor: audit.Actor,
    project: Project,
    name: str,
    targets: Sequence[str],
    now: datetime,
    fallback_on: Sequence[str] = ("no_capacity",),
) -> Alias:
    """Raises Invalid, and NameTaken where the project has an endpoint or an alias of the name."""
    if not _NAME.fullmatch(name) or _ID.fullmatch(name):
        message = "a name has 1 to 100 of letters, digits and . _ - / inside, and is no id"
        raise Invalid(message, code="invalid_name", field="name")
    passed_on = _fallbacks(fallback_on)
    with transaction.atomic():
        _hold(project)
        if Endpoint.objects.filter(project=project, name=name, deleted_at=None).exists():
            raise NameTaken(f"the project has an endpoint {name} already", field="name")
        refuse_shadow(project, name)
        if project.aliases.count() >= MAX_ALIASES:
            raise Invalid(f"a project has at most {MAX_ALIASES} aliases", field="name")
        alias = Alias.objects.create(
            project=project,
            name=name,
            targets=_targets(project, targets),
            fallback_on=passed_on,
            created_at=now,
        )
        change = [audit.Change("fallback_on", None, passed_on)]
        _record(alias, actor, "alias.create", now, change)
    return alias


def update_alias(
    *,
    actor: audit.Actor,
    alias: Alias,
    now: datetime,
    targets: Sequence[str] | None = None,
    fallback_on: Sequence[str] | None = None,
) -> Alias:
    """What is None stays; the same again changes nothing. Raises Invalid, NotFound."""
    with transaction.atomic():
        alias = _locked(alias)
        before = alias.targets, alias.fallback_on
        if targets is not None:
            alias.targets = _targets(alias.project, targets)
        if fallback_on is not None:
            alias.fallback_on = _fallbacks(fallback_on)
        if (alias.targets, alias.fallback_on) == before:
            return alias
        alias.save(update_fields=["targets", "fallback_on"])
        change = [audit.Change("fallback_on", before[1], alias.fallback_on)]
        _record(alias, actor, "alias.update", now, change if change[0].after != before[1] else [])
    return alias


def delete_alias(*, actor: audit.Actor, alias: Alias, now: datetime) -> None:
    """Raises NotFound where it is deleted already."""
    with transaction.atomic():
        alias = _locked(alias)
        _record(alias, actor, "alias.delete", now, [])
        alias.delete()


def refuse_shadow(project: Project, name: str) -> None:
    """In a transaction, before an endpoint or an alias gets the name. Raises NameTaken."""
    _hold(project)
    if Alias.objects.filter(project=project, name=name).exists():
        raise NameTaken(f"the project has an alias {name} already", field="name")


def _hold(project: Project) -> None:
    Project.objects.select_for_update(no_key=True).get(id=project.id)


def _locked(alias: Alias) -> Alias:
    rows = Alias.objects.select_related("project__organization").filter(id=alias.id)
    found = rows.select_for_update(no_key=True, of=("self",)).first()
    if found is None:
        raise NotFound("alias")
    return found


def _targets(project: Project, targets: Sequence[str]) -> list[str]:
    if not 1 <= len(targets) <= MAX_TARGETS or len(set(targets)) < len(targets):
        message = f"targets are 1 to {MAX_TARGETS} endpoints, each once"
        raise Invalid(message, code="invalid_targets", field="targets")
    rows = Endpoint.objects.filter(project=project, deleted_at=None)
    there = {endpoint.name: endpoint for endpoint in rows}
    for target in targets:
        name, colon, adapter = target.partition(":")
        endpoint = there.get(name)
        if endpoint is None or (colon and adapter not in {a["name"] for a in endpoint.adapters}):
            message = f"{target!r:.80} is no endpoint, or endpoint:adapter, of the project"
            raise Invalid(message, code="invalid_targets", field="targets")
    return list(targets)


def _fallbacks(events: Sequence[str]) -> list[str]:
    if not set(events) <= set(FALLBACKS):
        message = f"fallback_on is a list of {', '.join(FALLBACKS)}"
        raise Invalid(message, code="invalid_fallback", field="fallback_on")
    return [one for one in FALLBACKS if one in events]


def _record(
    alias: Alias, actor: audit.Actor, action: str, now: datetime, change: Sequence[audit.Change]
) -> None:
    target = audit.Target("alias", alias.id)
    personal = {"name": alias.name, "targets": ", ".join(alias.targets)}
    events.record(
        alias.project, target, action, actor=actor, now=now, change=change, personal=personal
    )
