"""The verbs of the register: one transaction and one audit event each. Callers ask who may."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from compliance import audit
from compliance.erasure.models import Erasure, State
from compliance.models import Export
from compliance.privacy.refusals import Refusal, Wrong
from compliance.privacy.registry import CONTROLLER, PROCESSOR
from compliance.subject_requests import clock
from compliance.subject_requests.models import SubjectRequest

TYPES = ("access", "rectification", "erasure", "restriction", "portability", "objection")
ROLES = (CONTROLLER, PROCESSOR)
CHANNELS = ("console", "mail", "letter", "phone", "other")
# How somebody was recognized: by a session of their own, by what they showed, or not.
IDENTITIES = ("open", "session", "confirmed", "failed")
EXTENSIONS = ("complexity", "number_of_requests")
DECISIONS = ("granted", "partly", "refused")
GROUNDS = {
    "manifestly_unfounded": "the request is manifestly unfounded (Art. 12(5))",
    "excessive": "the request is excessive, in particular repeated (Art. 12(5))",
    "not_identified": "it could not be shown who asks (Art. 11(2), 12(2), 12(6))",
    "legal_obligation": "a law demands that the data is kept (Art. 17(3)(b))",
    "legal_claims": "the data is needed for legal claims (Art. 17(3)(e), 21(1))",
    "rights_of_others": "it would harm rights of others (Art. 15(4), 20(4))",
    "not_applicable": "what this right supposes is not so",
}
MAX_WORDS = 1000
# A clock that runs a little ahead of ours is no lie.
_AHEAD = timedelta(minutes=5)

Told = Callable[[SubjectRequest, datetime], None]
_told: list[Told] = []


def on_forwarded(tell: Told) -> None:
    """Who tells a tenant of a request that is the tenant's to answer, in `open_request`'s own
    transaction."""
    _told.append(tell)


def open_request(
    *,
    actor: audit.Actor,
    type: str,
    log: str,
    now: datetime,
    subject_id: str = "",
    role: str = CONTROLLER,
    channel: str = "console",
    received_at: datetime | None = None,
    words: str = "",
    region: str = "",
) -> SubjectRequest:
    """Enters a request; from its receipt on its clock runs. Raises Wrong.

    Whoever asks for themselves, signed in, is recognized by that. `words`: what was said.
    """
    received = now if received_at is None else received_at
    words = _words(words)
    due, term = _checked(type, role, channel, log, subject_id, received, now)
    themselves = subject_id == actor.id and actor.type == "user"
    with transaction.atomic():
        request = SubjectRequest.objects.create(
            type=type,
            role=role,
            subject_id=subject_id,
            log_id=log,
            region=region,
            channel=channel,
            received_at=received,
            opened_by=actor.id,
            identity="session" if themselves else "open",
            verified_at=now if themselves else None,
            due_on=due,
            term=term,
        )
        changes = [
            audit.Change("type", None, type),
            audit.Change("role", None, role),
            audit.Change("channel", None, channel),
            audit.Change("received_at", None, audit.stamp(received)),
            audit.Change("identity", None, request.identity),
            audit.Change("due_on", None, due.isoformat()),
        ]
        _record(request, "open", actor, now, changes, words)
        if role == PROCESSOR:
            for tell in _told:
                tell(request, now)
    return request


def verify(
    *, actor: audit.Actor, request: SubjectRequest, confirmed: bool, now: datetime, words: str = ""
) -> SubjectRequest:
    """Whether it was shown who asks; `words`: by what. Raises Refusal, Wrong."""
    words = _words(words)
    with transaction.atomic():
        request = _open(request)
        identity = "confirmed" if confirmed else "failed"
        if request.decision:
            raise Refusal("decided", "this request is decided already")
        if request.identity == identity:
            return request
        before, request.identity, request.verified_at = request.identity, identity, now
        request.save(update_fields=["identity", "verified_at"])
        change = audit.Change("identity", before, identity)
        _record(request, "verify", actor, now, [change], words)
    return request


def extend(
    *, actor: audit.Actor, request: SubjectRequest, reason: str, words: str, now: datetime
) -> SubjectRequest:
    """Takes further months, within the first period and once; whoever asked is told `words`.

    Raises Refusal, Wrong.
    """
    _among(reason, EXTENSIONS, "reason")
    words = _words(words)
    if not words:
        raise Wrong("invalid_words", "say to whoever asked why it takes longer", "words")
    with transaction.atomic():
        request = _open(request)
        if request.extended_at is not None:
            if request.extension_reason == reason:
                return request
            raise Refusal("extended", "the period was extended already")
        if now.astimezone(UTC).date() > request.due_on:
            raise Refusal("too_late", "a period is extended before it is over")
        before, request.due_on = request.due_on, clock.extended(request.received_at)
        request.extended_at, request.extension_reason = now, reason
        request.save(update_fields=["due_on", "extended_at", "extension_reason"])
        changes = [
            audit.Change("due_on", before.isoformat(), request.due_on.isoformat()),
            audit.Change("extension_reason", None, reason),
        ]
        _record(request, "extend", actor, now, changes, words)
    return request


def decide(
    *,
    actor: audit.Actor,
    request: SubjectRequest,
    decision: str,
    now: datetime,
    ground: str = "",
    words: str = "",
) -> SubjectRequest:
    """What is done about it; what is not granted has a ground. Raises Refusal, Wrong."""
    _among(decision, DECISIONS, "decision")
    words = _words(words)
    if (decision == "granted") == bool(ground) or (ground and ground not in GROUNDS):
        message = f"a request is refused for one of {', '.join(GROUNDS)}, and granted for none"
        raise Wrong("invalid_ground", message, "ground")
    with transaction.atomic():
        request = _open(request)
        if request.decision:
            if (request.decision, request.refusal_ground) == (decision, ground):
                return request
            raise Refusal("decided", "this request is decided already")
        known = request.identity in ("session", "confirmed")
        if decision != "refused" and not known and request.role == CONTROLLER:
            raise Refusal("not_identified", "first it has to be known who asks")
        request.decision, request.refusal_ground = decision, ground
        request.decided_at, request.decided_by = now, actor.id
        request.save(update_fields=["decision", "refusal_ground", "decided_at", "decided_by"])
        changes = [audit.Change("decision", None, decision)]
        changes += [audit.Change("ground", None, ground)] if ground else []
        _record(request, "decide", actor, now, changes, words)
    return request


def close(*, actor: audit.Actor, request: SubjectRequest, now: datetime) -> SubjectRequest:
    """It is answered. What was granted and leaves something to show is shown by it: an erasure by
    its certificate, access and portability by a bundle that was built since. Raises Refusal."""
    with transaction.atomic():
        request = _locked(request)
        if request.closed_at is not None:
            return request
        if not request.decision:
            raise Refusal("undecided", "first it has to be decided")
        request.output, request.closed_at = _output(request), now
        request.save(update_fields=["output", "closed_at"])
        late = now.astimezone(UTC).date() > request.due_on
        changes = [audit.Change("late", None, late)]
        changes += [audit.Change("output", None, request.output)] if request.output else []
        _record(request, "close", actor, now, changes, "")
    return request


def overdue(now: datetime) -> QuerySet[SubjectRequest]:
    """Not answered, though their last day is over."""
    today = now.astimezone(UTC).date()
    return SubjectRequest.objects.filter(closed_at=None, due_on__lt=today).order_by("due_on", "id")


def _checked(
    type: str,
    role: str,
    channel: str,
    log: str,
    subject_id: str,
    received: datetime,
    now: datetime,
) -> tuple[date, str]:
    """The last day for an answer, and the edition of the table that says so. Raises Wrong."""
    _among(type, TYPES, "type")
    _among(role, ROLES, "role")
    _among(channel, CHANNELS, "channel")
    if received > now + _AHEAD:
        raise Wrong("invalid_received_at", "it cannot have been received later", "received_at")
    if role == PROCESSOR and log == audit.PLATFORM:
        raise Wrong("invalid_organization", "say whose data it is about", "organization")
    if role == CONTROLLER and not subject_id:
        raise Wrong("invalid_subject", "say who asks", "subject")
    try:
        return clock.due(received), clock.term(received).version
    except LookupError as error:
        raise Wrong("invalid_received_at", str(error), "received_at") from error


def _output(request: SubjectRequest) -> str:
    if request.decision == "refused" or request.role == PROCESSOR or not request.subject_id:
        return ""
    if request.type == "erasure":
        erased = Erasure.objects.filter(subject_id=request.subject_id, state=State.ISSUED)
        done = erased.filter(issued_at__gte=request.received_at).first()
        if done is None:
            raise Refusal("not_erased", "the erasure has no certificate yet")
        return done.certificate_id
    if request.type in ("access", "portability"):
        built = Export.objects.filter(kind="data_subject", about=request.subject_id)
        bundle = built.filter(created_at__gte=request.received_at, failure="")
        found = bundle.exclude(completed_at=None).first()
        if found is None:
            raise Refusal("not_exported", "no bundle with this person's data was built yet")
        return found.id
    return ""


def _locked(request: SubjectRequest) -> SubjectRequest:
    return SubjectRequest.objects.select_for_update().get(id=request.id)


def _open(request: SubjectRequest) -> SubjectRequest:
    found = _locked(request)
    if found.closed_at is not None:
        raise Refusal("closed", "this request is closed")
    return found


def _among(value: str, known: tuple[str, ...], field: str) -> None:
    if value not in known:
        raise Wrong(f"invalid_{field}", f"{field} is one of {', '.join(known)}", field)


def _words(text: str) -> str:
    text = text.strip()
    if len(text) > MAX_WORDS or "\0" in text:
        raise Wrong("invalid_words", f"at most {MAX_WORDS} characters of text", "words")
    return text


def _record(
    request: SubjectRequest,
    verb: str,
    actor: audit.Actor,
    now: datetime,
    changes: list[audit.Change],
    words: str,
) -> None:
    audit.record(
        actor=actor,
        action=f"subject_request.{verb}",
        target=audit.Target("subject_request", request.id),
        log=request.log_id,
        region=request.region,
        now=now,
        change=changes,
        personal={"words": words},
    )
