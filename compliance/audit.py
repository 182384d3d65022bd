"""The audit log: one event for each verb, in the verb's own transaction.

    audit.record(actor=actor, action="api_key.revoke", target=audit.Target("api_key", key.id),
                 log=organization.id, now=now, change=[audit.Change("revoked", False, True)])

The body is canonical JSON (RFC 8785) of at most 16 KiB. Personal values (addresses, e-mail,
free text, names that people typed) go in `personal`: the body keeps a salted commitment of each,
SHA-256 of JCS([salt, path, value]) as in SD-JWT (RFC 9901), and the opening is sealed, under a key
of the person's or organization's own (`keys`), in a row of its own that may be deleted.
"""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rfc8785
from django.db import transaction

from compliance import context, ids, partitions, sealing, tombstones
from compliance.actions import ACTIONS
from compliance.context import RequestContext
from compliance.keys import boxes
from compliance.keys.kms import KeyDestroyed
from compliance.models import AuditEvent, EventSecret
from compliance.stamps import stamp
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject

__all__ = [
    "PLATFORM",
    "SYSTEM",
    "Actor",
    "Change",
    "RequestContext",
    "Target",
    "commitment",
    "events",
    "opening",
    "record",
    "stamp",
    "subject_of",
    "unsealed",
]

PLATFORM = "platform"
TABLE = "compliance_auditevent"
OF_ACTOR = "request."  # how paths begin that say where the actor's request came from
MAX_BODY_BYTES = 16_384
MAX_VALUE_BYTES = 1_024
ACTOR_TYPES = frozenset({"user", "api_key", "node", "system"})
OUTCOMES = frozenset({"success", "denied", "failure"})
_CODE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

Json = str | int | float | bool | list[Any] | dict[str, Any] | None


@dataclass(frozen=True)
class Actor:
    """Who did it: a pseudonymous id, never a name. `auth` says how, e.g. session, key, mtls."""

    type: str
    id: str
    auth: str = ""


@dataclass(frozen=True)
class Target:
    type: str
    id: str


@dataclass(frozen=True)
class Change:
    """One field, before and after. Never personal, never secret: it stands in the log for good."""

    path: str
    before: Json
    after: Json


SYSTEM = Actor("system", "system")


def record(
    *,
    actor: Actor,
    action: str,
    target: Target,
    log: str,
    now: datetime,
    region: str = "",
    outcome: str = "success",
    reason: str = "",
    change: Iterable[Change] = (),
    personal: Mapping[str, str] | None = None,
    request: RequestContext | None = None,
) -> str:
    """Append an event to `log` and return its id.

    `reason` is a code (`name_taken`); words of a person belong in `personal`, path to value.
    The request defaults to the one being served. Raises ValueError on an unknown action, actor
    type or outcome, on a reason that is no code, and on a body beyond 16 KiB.
    """
    _refuse_nonsense(actor, action, outcome, reason)
    request = request or context.current()
    openings = _openings(personal or {}, request)
    event_id = ids.new("evt")
    body: dict[str, Any] = {
        "v": 1,
        "id": event_id,
        "log": log,
        "ts": stamp(now),
        "action": action,
        "category": ACTIONS[action].category,
        "outcome": {"result": outcome} | ({"reason_code": reason} if reason else {}),
        "actor": _actor(actor),
        "target": [{"type": target.type, "id": target.id}],
        "d": sorted(commitment(salt, path, value) for path, salt, value in openings),
    }
    changes = _changes(change)
    optional = {"source": _region(region), "request": _request(request), "change": changes}
    canonical = _canonical(body | {name: value for name, value in optional.items() if value})
    event = AuditEvent(
        id=event_id,
        log_id=log,
        recorded_at=now,
        action=action,
        outcome=outcome,
        actor_type=actor.type,
        actor_id=actor.id,
        target_type=target.type,
        target_id=target.id,
        region=region,
        request_id=request.id if request else "",
        body=canonical,
    )
    with transaction.atomic(savepoint=False):
        partitions.provide(TABLE, now)
        AuditEvent.objects.bulk_create([event])
        EventSecret.objects.bulk_create(_sealed(event, openings))
        tombstones.note(event, changes)
    return event_id


def events(log: str, start: datetime, end: datetime) -> Iterator[AuditEvent]:
    """The events of a log with start <= recorded_at < end, oldest first, in bounded memory."""
    found = AuditEvent.objects.filter(log_id=log, recorded_at__gte=start, recorded_at__lt=end)
    return found.order_by("id").iterator(chunk_size=1_000)


def opening(event: AuditEvent, path: str) -> str | None:
    """The personal value at `path`, or None if there is none (any more).

    Raises SealBroken if the sealed value was altered or is not the one that the event commits to,
    and KmsAway.
    """
    kept = EventSecret.objects.filter(event_id=event.id, path=path).first()
    if kept is None:
        return None
    try:
        salt, value = unsealed(kept, event)
    except KeyDestroyed:
        return None
    if commitment(salt, path, value) not in json.loads(bytes(event.body))["d"]:
        raise sealing.SealBroken(path)
    return value


def unsealed(kept: EventSecret, event: AuditEvent) -> tuple[str, str]:
    """Salt and value. Raises SealBroken, KeyDestroyed, KmsAway."""
    blob = bytes(kept.nonce) + bytes(kept.ciphertext)
    context = _seal_context(kept.event_id, kept.path)
    if (subject := subject_of(event, kept.path)) is None:
        opened = sealing.unseal(blob, context=context)
    else:
        opened = boxes.unseal(blob, subject=subject, context=context)
    salt, value = json.loads(opened)
    return str(salt), str(value)


def subject_of(event: AuditEvent, path: str) -> Subject | None:
    """Under whose data key the value at `path` lies. Where the request came from is the actor's;
    all else of the person who was acted upon, or who acted; where it is no person's, of the log's
    organization; None: the installation's master key."""
    people = [(event.target_type, event.target_id), (event.actor_type, event.actor_id)]
    for kind, id in people[1:] if path.startswith(OF_ACTOR) else people:
        if kind == "user" and id.startswith(PREFIXES[PERSON]):
            return Subject(PERSON, id)
    if event.log_id.startswith(PREFIXES[ORGANIZATION]):
        return Subject(ORGANIZATION, event.log_id)
    return None


def commitment(salt: str, path: str, value: str) -> str:
    """What the body says in place of a personal value: base64url SHA-256 of JCS([s, p, v])."""
    digest = hashlib.sha256(rfc8785.dumps([salt, path, value])).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _refuse_nonsense(actor: Actor, action: str, outcome: str, reason: str) -> None:
    if action not in ACTIONS:
        raise ValueError(f"unknown audit action {action!r}: add it to compliance.actions")
    if actor.type not in ACTOR_TYPES or outcome not in OUTCOMES:
        raise ValueError(f"unknown actor type {actor.type!r} or outcome {outcome!r}")
    if reason and not _CODE.fullmatch(reason):
        raise ValueError(f"{reason!r} is no reason code: free text is personal")


def _openings(
    personal: Mapping[str, str], request: RequestContext | None
) -> list[tuple[str, str, str]]:
    """(path, fresh salt, value) of each personal value that is there."""
    values = dict(personal)
    if request:
        values |= {"request.ip": request.ip, "request.user_agent": request.user_agent}
    return [(path, secrets.token_urlsafe(16), value) for path, value in values.items() if value]


def _actor(actor: Actor) -> dict[str, Any]:
    said: dict[str, Any] = {"type": actor.type, "id": actor.id}
    return said | {"auth": {"method": actor.auth}} if actor.auth else said


def _region(region: str) -> dict[str, str]:
    return {"region": region} if region else {}


def _request(request: RequestContext | None) -> dict[str, str]:
    if request is None:
        return {}
    said = {"id": request.id, "method": request.method, "route": request.route}
    return {name: value for name, value in said.items() if value}


def _changes(changes: Iterable[Change]) -> list[dict[str, Any]]:
    return [
        {"path": one.path, "from": _bounded(one.before), "to": _bounded(one.after)}
        for one in changes
    ]


def _bounded(value: Json) -> Json:
    """The value as canonical JSON can carry it; too long a one is there by its digest.

    Numbers beyond the exact range of a double, as people may send them, become their own text.
    """
    try:
        canonical = rfc8785.dumps(value)
        exact = rfc8785.dumps(json.loads(canonical)) == canonical
    except ValueError:
        exact = False
    if not exact:
        value = json.dumps(value, sort_keys=True)
        canonical = rfc8785.dumps(value)
    if len(canonical) <= MAX_VALUE_BYTES:
        return value
    return {"sha256": hashlib.sha256(canonical).hexdigest(), "bytes": len(canonical)}


def _canonical(body: dict[str, Any]) -> bytes:
    canonical = rfc8785.dumps(body)
    if len(canonical) > MAX_BODY_BYTES:
        raise ValueError(f"an audit event of {len(canonical)} bytes: 16384 is the limit")
    return canonical


def _sealed(event: AuditEvent, openings: list[tuple[str, str, str]]) -> Iterator[EventSecret]:
    """None of a subject whose keys were destroyed: of whom was erased nothing more is kept."""
    whose: dict[Subject | None, dict[str, bytes]] = {}
    for path, salt, value in openings:
        plain = json.dumps([salt, value]).encode()
        whose.setdefault(subject_of(event, path), {})[path] = plain
    for subject, values in whose.items():
        contexts = {_seal_context(event.id, path): plain for path, plain in values.items()}
        try:
            if subject is None:
                blobs = {one: sealing.seal(plain, context=one) for one, plain in contexts.items()}
            else:
                blobs = boxes.seal_all(contexts, subject=subject)
        except KeyDestroyed:
            continue
        for path, blob in zip(values, blobs.values(), strict=True):
            nonce, ciphertext = blob[: sealing.NONCE_BYTES], blob[sealing.NONCE_BYTES :]
            yield EventSecret(event_id=event.id, path=path, nonce=nonce, ciphertext=ciphertext)


def _seal_context(event_id: str, path: str) -> str:
    return f"event:{event_id}:{path}"
