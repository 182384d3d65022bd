"""A change of spec is a new version; an earlier one can be gone back to. The verbs for both.

Callers ask `endpoints.access` first. Repeating a verb changes nothing and records nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Max

from compliance import audit
from controlplane.endpoints import (
    engine_versions,
    images,
    preflight,
    rollout_rows,
    sources,
    wishes,
)
from controlplane.endpoints import spec as specs
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion
from controlplane.endpoints.rollout_plan import RolloutPlan
from controlplane.endpoints.spec import EndpointSpec
from controlplane.endpoints.version_spec import FIELDS, spec_of
from controlplane.fleet.models import Pool
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy.errors import NotFound

NOTE_MAX = 200


def change(
    *,
    actor: audit.Actor,
    endpoint: Endpoint,
    changes: Mapping[str, Any],
    now: datetime,
    plan: RolloutPlan | None = None,
    note: str = "",
) -> Endpoint:
    """Make a version with these of FIELDS changed, and roll it out.

    One that is on its way is superseded: what served before it is what this one would go back to.
    Raises Invalid, NotFound, DoesNotFit; TypeError for a field that is none.
    """
    if unknown := changes.keys() - set(FIELDS):
        raise TypeError(f"no part of a version: {', '.join(sorted(unknown))}")
    _check_note(note)
    with transaction.atomic():
        endpoint = wishes.locked(endpoint)
        before, stood = spec_of(endpoint), endpoint.generation
        spec, pool = changed(endpoint, changes)
        after = {name: getattr(spec, name) for name in FIELDS}
        if after == before:
            return endpoint
        newest = endpoint.versions.aggregate(newest=Max("number"))["newest"]
        version = EndpointVersion.objects.create(
            endpoint=endpoint,
            number=newest + 1,
            spec=after,
            created_at=now,
            created_by=actor.id,
            note=note,
            outlook=_outlook(endpoint, before, spec, pool, actor, now),
        )
        rollout_rows.open(endpoint, version, plan or RolloutPlan(), by=actor.id, note=note, now=now)
        wishes.wished(
            endpoint,
            actor,
            "endpoint.update",
            now,
            change=[*_public(before, after), audit.Change("version", stood, version.number)],
            personal=_personal(before, after, note),
        )
    return endpoint


def roll_back(
    *,
    actor: audit.Actor,
    endpoint: Endpoint,
    now: datetime,
    number: int | None = None,
    plan: RolloutPlan | None = None,
    note: str = "",
) -> Endpoint:
    """Go back to a version, by default to the one before: replicas of it that still run are kept.

    Raises NotFound for a version that is none, Invalid where there is none before.
    """
    _check_note(note)
    with transaction.atomic():
        endpoint = wishes.locked(endpoint)
        wanted = rollout_rows.previous(endpoint) if number is None else number
        if wanted is None:
            raise Invalid("there is no version before this one", field="version")
        version = endpoint.versions.filter(number=wanted).first()
        if version is None:
            raise NotFound("version", field="version")
        before = endpoint.generation
        if before == wanted:
            return endpoint
        engine_versions.refuse(version.engine, version.engine_version)
        rollout_rows.open(endpoint, version, plan or RolloutPlan(), by=actor.id, note=note, now=now)
        wishes.wished(
            endpoint,
            actor,
            "endpoint.rollback",
            now,
            change=[audit.Change("version", before, wanted)],
            personal={"note": note} if note else {},
        )
    return endpoint


def differences(one: EndpointVersion, other: EndpointVersion) -> list[tuple[str, Any, Any]]:
    """What differs, as (field, in `one`, in `other`); engine arguments each by itself."""
    found = []
    for name in FIELDS:
        old, new = one.spec.get(name), other.spec.get(name)
        if name != "engine_args":
            found.append((name, old, new))
            continue
        for argument in sorted({*(old or {}), *(new or {})}):
            pair = (old or {}).get(argument), (new or {}).get(argument)
            found.append((f"engine_args.{argument}", *pair))
    return [each for each in found if each[1] != each[2]]


def _outlook(
    endpoint: Endpoint,
    before: Mapping[str, Any],
    spec: EndpointSpec,
    pool: Pool,
    actor: audit.Actor,
    now: datetime,
) -> dict[str, Any] | None:
    """What is predicted of the new version; as of the one before where nothing of that changes.

    What we roll ourselves, off an engine that is blocked, is tried whatever is predicted: it goes
    back by itself. Raises DoesNotFit.
    """
    if all(before[name] == getattr(spec, name) for name in preflight.FIELDS):
        kept: dict[str, Any] | None = endpoint.versions.get(number=endpoint.generation).outlook
        return kept
    predicted = preflight.look if actor == audit.SYSTEM else preflight.check
    return predicted(spec, pool, endpoint.project, now).kept


def changed(endpoint: Endpoint, changes: Mapping[str, Any]) -> tuple[EndpointSpec, Pool]:
    """Its spec in its final form with these of FIELDS changed; it stays in the endpoint's pool.

    Raises Invalid.
    """
    wish = spec_of(endpoint) | dict(changes)
    if "source" not in changes and wish["source"] in (SourceKind.HUB, SourceKind.PATH):
        wish["source"] = ""  # the model's name says which of the two
    if wish["engine_args"].get("tensor_parallel_size") == endpoint.device_count != 1 and (
        wish["device_count"] != endpoint.device_count
    ):
        # It followed from the old count, so it follows from the new one.
        arguments = {k: v for k, v in wish["engine_args"].items() if k != "tensor_parallel_size"}
        wish = {**wish, "engine_args": arguments}
    spec = EndpointSpec(
        name=endpoint.name, pool_id=endpoint.pool_id, adapters=endpoint.adapters, **wish
    )
    checked, pool = specs.check(spec, endpoint.project.organization)
    sources.check_access(endpoint.project, checked.source, checked.model, checked.secret)
    images.check_access(endpoint.project, checked.image)
    return checked, pool


def _check_note(note: str) -> None:
    if len(note) > NOTE_MAX or not note.isprintable():
        raise Invalid(f"expected at most {NOTE_MAX} characters in one line", field="note")


def _public(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[audit.Change]:
    """What an argument is set to may be a person's word, and so may be a name or a path."""
    personal = _personal(before, after, "")
    public = []
    for name in (name for name in FIELDS if before[name] != after[name]):
        old, new = before[name], after[name]
        if name == "engine_args":
            names = sorted(one for one in old | new if old.get(one) != new.get(one))
            public.append(audit.Change(name, None, names))
        elif name == "image":
            public.append(audit.Change(name, images.told(old), images.told(new)))
        elif name not in personal:
            public.append(audit.Change(name, old, new))
    return public


def _personal(before: Mapping[str, Any], after: Mapping[str, Any], note: str) -> dict[str, str]:
    found = {"note": note} if note else {}
    named = all(sources.is_public_name(spec["source"]) for spec in (before, after))
    if before["model"] != after["model"] and not named:
        found["model"] = after["model"]
    if before["secret"] != after["secret"]:
        found["secret"] = after["secret"]
    return found
