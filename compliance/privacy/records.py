"""Records of processing (Art. 30), made of the registry and of what is really switched on.

The operator's own is that of a controller (30(1)), each organization's that of its processor
(30(2)). A room that knows tenants registers what is live for a scope: `register_live`. Whenever the
record differs from its last version the daily task keeps another one (`keep`), so that it can be
said what was processed when.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import rfc8785
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import QuerySet

from compliance import audit, locks
from compliance.privacy import periods, registry
from compliance.privacy.categories import CATEGORIES
from compliance.privacy.models import ProcessingContact, ProcessingVersion
from compliance.privacy.refusals import Wrong
from compliance.privacy.registry import CONTROLLER, NONE, PROCESSOR, SPECIAL

# Who may be named: of the installation, and by an organization for itself.
PARTS = ("controller", "joint_controller", "representative", "dpo")
NOT_NAMED = "not named"
WITHHELD = "withheld: an export with the profile full has it"
_LENGTHS = {"name": 200, "address": 400, "email": 254, "phone": 40}


@dataclass(frozen=True)
class Recipient:
    """Who is sent something, or where it is kept. `country`: ISO 3166-1, or that nobody said."""

    name: str
    receives: str
    country: str
    operator: str = ""


@dataclass(frozen=True)
class Live:
    """What is switched on for a scope. `categories`: those with anything in them, by code, and
    what shows that; `measures`: how it is protected, what is absent too."""

    name: str
    region: str = ""
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    outside: tuple[Recipient, ...] = ()
    measures: tuple[str, ...] = ()


_live: list[Callable[[str], Live]] = []
_scopes: list[Callable[[], Iterable[str]]] = []


def register_live(live: Callable[[str], Live], scopes: Callable[[], Iterable[str]]) -> None:
    """`scopes`: the ids of all organizations; `live` takes one of them, or audit.PLATFORM."""
    _live[:], _scopes[:] = [live], [scopes]


def scopes() -> Iterator[str]:
    yield audit.PLATFORM
    for each in _scopes:
        yield from each()


def current(scope: str, now: datetime) -> dict[str, Any]:
    """The record as it is now; without any time in it, so that the same state is the same text."""
    live = _live[0](scope)
    role = CONTROLLER if scope == audit.PLATFORM else PROCESSOR
    said: dict[str, Any] = {
        "v": 1,
        "record": f"GDPR/30.{1 if role == CONTROLLER else 2}",
        "scope": scope,
        "activities": [
            _activity(code, role, live, now) for code in CATEGORIES if code in live.categories
        ],
        "recipients": [asdict(one) for one in live.recipients],
        "transfers": {
            "recipients": [asdict(one) for one in live.outside],
            "safeguards": "none is recorded" if live.outside else "no transfer is configured",
        },
        "measures": list(live.measures),
        "places": list(live.places),
    }
    if role == CONTROLLER:
        return said | {"contacts": _contacts(scope)}
    processor = _contacts(audit.PLATFORM)
    return said | {"processor": processor, "controller": {"of": live.name} | _contacts(scope)}


def keep(scope: str, now: datetime) -> ProcessingVersion | None:
    """Another version, if the record is not as the last one says; else None. Repeatable."""
    document = rfc8785.dumps(current(scope, now))
    digest = hashlib.sha256(document).hexdigest()
    if (last := newest(scope)) and last.sha256 == digest:
        return None
    with transaction.atomic():
        locks.hold(f"processing.{scope}")
        if (last := newest(scope)) and last.sha256 == digest:
            return None
        number = last.number + 1 if last else 1
        made = ProcessingVersion(
            scope=scope, number=number, sha256=digest, document=document, at=now
        )
        made.event_id = audit.record(
            actor=audit.SYSTEM,
            action="processing.version",
            target=audit.Target("processing_record", made.id),
            log=scope,
            now=now,
            region=_live[0](scope).region,
            change=[
                audit.Change("number", last.number if last else None, number),
                audit.Change("sha256", last.sha256 if last else None, digest),
            ],
        )
        made.save(force_insert=True)
    return made


def keep_all(now: datetime, enough: Callable[[], bool] = lambda: False) -> int:
    """`keep` for the operator, and for those organizations whose hour of the day (UTC) it is."""
    made = 0
    for scope in scopes():
        if enough():
            break
        mine = int(hashlib.sha256(scope.encode()).hexdigest(), 16) % 24 == now.hour
        if mine or scope == audit.PLATFORM or newest(scope) is None:
            made += keep(scope, now) is not None
    return made


def newest(scope: str) -> ProcessingVersion | None:
    return versions(scope).first()


def versions(scope: str) -> QuerySet[ProcessingVersion]:
    """The newest first."""
    return ProcessingVersion.objects.filter(scope=scope).order_by("-number")


def read(version: ProcessingVersion) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bytes(version.document))
    return document


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """What came (`+ …`) and what went (`- …`), a line a fact."""
    old, new = set(_facts(before or {})), set(_facts(after))
    lines = [f"- {one}" for one in old - new] + [f"+ {one}" for one in new - old]
    return sorted(lines, key=lambda line: (line[2:], line))


def without_people(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same without names and addresses of contacts, for exports that open no personal value."""
    masked = dict(document)
    for part in ("contacts", "processor", "controller"):
        if part in masked:
            masked[part] = {
                name: WITHHELD
                if isinstance(one, str) and one != NOT_NAMED
                else dict.fromkeys(one, WITHHELD)
                if isinstance(one, dict)
                else one
                for name, one in masked[part].items()
            }
    return masked


def configure(
    *,
    actor: audit.Actor,
    scope: str,
    part: str,
    name: str,
    now: datetime,
    address: str = "",
    email: str = "",
    phone: str = "",
    region: str = "",
) -> ProcessingContact | None:
    """Name who answers for processing; no name: nobody is named any more. Raises Wrong."""
    given = _checked(part, name=name, address=address, email=email, phone=phone)
    with transaction.atomic():
        locks.hold(f"processing.contact.{scope}")
        known = ProcessingContact.objects.filter(scope=scope, part=part).first()
        same = given if known is None else {key: getattr(known, key) for key in given}
        if (known is None and not given["name"]) or (known is not None and same == given):
            return known
        made = None
        if given["name"]:
            said = {**given, "changed_at": now, "changed_by": actor.id}
            made, _ = ProcessingContact.objects.update_or_create(
                scope=scope, part=part, defaults=said
            )
        elif known is not None:
            known.delete()
        audit.record(
            actor=actor,
            action="processing.configure",
            target=audit.Target("processing_contact", part),
            log=scope,
            now=now,
            region=region,
            change=[audit.Change("named", known is not None, made is not None)],
            personal={key: value for key, value in given.items() if value},
        )
    return made


def contacts(scope: str) -> dict[str, ProcessingContact]:
    return {one.part: one for one in ProcessingContact.objects.filter(scope=scope)}


def _checked(part: str, **given: str) -> dict[str, str]:
    if part not in PARTS:
        raise Wrong("invalid", f"it is one of {', '.join(PARTS)}", "part")
    found = {key: " ".join(value.split()) for key, value in given.items()}
    for key, value in found.items():
        if len(value) > _LENGTHS[key] or not value.isprintable():
            raise Wrong("invalid", f"at most {_LENGTHS[key]} printable characters", key)
    if found["email"]:
        try:
            validate_email(found["email"])
        except ValidationError:
            raise Wrong("invalid", "this is no address for mail", "email") from None
    if not found["name"] and any(found.values()):
        raise Wrong("invalid", "whose are these? Say a name", "name")
    return found


def _contacts(scope: str) -> dict[str, Any]:
    named = contacts(scope)
    return {
        part: {key: getattr(named[part], key) for key in _LENGTHS if getattr(named[part], key)}
        if part in named
        else NOT_NAMED
        for part in PARTS
    }


def _activity(code: str, role: str, live: Live, now: datetime) -> dict[str, Any]:
    """A category as the registry has it: of its tables those in this role, or all of them where
    the role has none."""
    category = CATEGORIES[code]
    tables = [one for one in registry.everything() if one.category == code]
    mine = [one for one in tables if one.role == role] or tables
    rules = sorted({one.retention for one in mine})
    return {
        "code": code,
        "title": category.title,
        "purposes": sorted({one.purpose for one in mine}),
        "legal_basis": sorted({one.basis for one in mine}),
        "subjects": list(category.subjects),
        "data": category.data,
        "special_categories_possible": any(one.at(SPECIAL) for one in mine),
        "because": list(live.categories[code]),
        "erased_after": [_limit(rule, now) for rule in rules],
        "systems": sorted(one.name for one in mine if set(one.columns.values()) != {NONE}),
    }


def _limit(code: str, now: datetime) -> dict[str, str]:
    rule = periods.in_force(code, now).rule
    said = {"rule": code, "from": rule.starts, "action": rule.action}
    return said | {"period": str(rule.period) if rule.period else "none"} | _ground(rule.ground)


def _ground(ground: str) -> dict[str, str]:
    return {"ground": ground} if ground else {}


def _facts(value: Any, path: str = "") -> Iterator[str]:
    """Leaves as lines; a list's parts by what they are called, not by their place."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _facts(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for one in value:
            name = one.get("code") or one.get("rule") or one.get("name") if _named(one) else None
            yield from _facts(one, f"{path}[{name}]") if name else _facts(one, path)
    else:
        yield f"{path}: {value}"


def _named(one: Any) -> bool:
    return isinstance(one, Mapping)
