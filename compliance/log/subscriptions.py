"""Who is sent a log: heads each day, so that an organization witnesses its own; events to a SIEM.

Delivery is at least once, in order, from a cursor that lies in the database: a batch counts as
taken when the address said so. What cannot be delivered is tried again, later and later.
"""

import json
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q, QuerySet

from compliance import audit, keys, sealing
from compliance.log import ocsf, outbound
from compliance.log.models import Log, LogAnchor, LogCheckpoint, LogLeaf, LogSubscription
from compliance.log.outbound import NotSent, Route
from compliance.models import AuditEvent
from compliance.subjects import ORGANIZATION, Subject

BATCH = 200  # events of one delivery
BATCH_BYTES = 4 << 20
MAX_OF_OWNER = 10
HEADS_EVERY = timedelta(days=1)
LEASE = timedelta(seconds=60)  # beyond the time that a delivery may take
RETRY_MAX_S = 3_600
KINDS = ("heads", "events")
FORMS = ("ocsf", "native")


class Refused(Exception):
    """`field` is what cannot be; the message is for people."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def subscribe(
    *,
    actor: audit.Actor,
    owner: str,
    kind: str,
    via: str,
    address: str,
    now: datetime,
    form: str = "ocsf",
    region: str = "",
) -> tuple[LogSubscription, str]:
    """The subscription, and the secret that its webhooks are signed with, shown this once.

    Events are sent from the first that has no index yet. Raises Refused.
    """
    if kind not in KINDS or form not in FORMS or (via == "mail" and kind != "heads"):
        raise Refused("expected heads or events, the latter not by mail", "kind")
    if via == "syslog" and kind != "events":
        raise Refused("heads are sent to a webhook or by mail", "via")
    try:
        outbound.check(via, address)
    except outbound.BadAddress as error:
        raise Refused(str(error), "address") from None
    secret = "whsec_" + secrets.token_urlsafe(32)
    route = Route(via, address, secret)
    with transaction.atomic():
        if of(owner).count() >= MAX_OF_OWNER:
            raise Refused(f"at most {MAX_OF_OWNER} of one log", "address")
        log = Log.objects.filter(owner=owner, closed_at=None).first()
        made = LogSubscription(
            owner=owner,
            region=region,
            kind=kind,
            via=via,
            host=route.host,
            form=form,
            log_id=log.id if log else "",
            next_index=log.size if log else 0,
            created_at=now,
            next_try_at=now,
        )
        made.sealed = _sealed(made, route)
        made.save(force_insert=True)
        _tell(made, "log.subscribe", actor, now, {"address": address})
    return made, secret


def unsubscribe(*, actor: audit.Actor, subscription: LogSubscription, now: datetime) -> None:
    """Nothing is sent any more, and where to is forgotten."""
    with transaction.atomic():
        ended = LogSubscription.objects.filter(id=subscription.id, ended_at=None)
        if ended.update(ended_at=now, sealed=b""):
            _tell(subscription, "log.unsubscribe", actor, now, {})


def of(owner: str) -> QuerySet[LogSubscription]:
    """Those that are under way, the oldest first."""
    return LogSubscription.objects.filter(owner=owner, ended_at=None).order_by("id")


def deliver_due(now: datetime, enough: Callable[[], bool]) -> int:
    """Each that is due is sent what waits for it; how many deliveries were taken."""
    done = 0
    due = LogSubscription.objects.filter(ended_at=None, next_try_at__lte=now)
    for one in list(due.order_by("next_try_at")[:100]):
        while not enough() and deliver(one, now):
            done += 1
    return done


def deliver(one: LogSubscription, now: datetime) -> bool:
    """One delivery; False if there was nothing to send, it failed, or somebody else is at it."""
    mine = LogSubscription.objects.filter(
        Q(next_try_at__lte=now), id=one.id, ended_at=None, next_index=one.next_index
    )
    if not mine.update(next_try_at=now + LEASE):
        return False
    send = _send_head if one.kind == "heads" else _send_events
    try:
        return send(one, _opened(one), now)
    except (NotSent, keys.KeyDestroyed, keys.KmsAway) as error:
        wait_s = min(RETRY_MAX_S, 10 * 2 ** min(one.failures, 10))
        LogSubscription.objects.filter(id=one.id).update(
            failures=F("failures") + 1,
            failure=str(error)[:200],
            next_try_at=now + timedelta(seconds=wait_s),
        )
        one.refresh_from_db()
        return False


def _sealed(one: LogSubscription, route: Route) -> bytes:
    """Under the organization's data key; the operator's own under the master key."""
    context = f"subscription:{one.id}"
    if one.owner == audit.PLATFORM:
        return sealing.seal(route.dump(), context=context)
    return keys.seal(route.dump(), subject=Subject(ORGANIZATION, one.owner), context=context)


def _opened(one: LogSubscription) -> Route:
    whose, context = Subject(ORGANIZATION, one.owner), f"subscription:{one.id}"
    return Route.load(keys.unseal(one.sealed, subject=whose, context=context))


def _send_head(one: LogSubscription, route: Route, now: datetime) -> bool:
    head = LogCheckpoint.objects.filter(owner=one.owner).order_by("-id").first()
    if head is None:
        _sent(one, now, at=one.sent_at, again=now + timedelta(minutes=1))
        return False
    if route.via == "mail":
        outbound.mail(route, f"Checkpoint of {one.owner}", _LETTER.format(note=head.note))
    else:
        body = {"object": "checkpoint", "id": head.id, "size": head.size, "note": head.note}
        outbound.post(route, json.dumps(body).encode(), delivery=head.id, now=now)
    LogAnchor.objects.create(
        checkpoint_id=head.id, owner=one.owner, kind=route.via, place=route.host, at=now
    )
    _sent(one, now, at=now, again=now + HEADS_EVERY)
    return True


def _send_events(one: LogSubscription, route: Route, now: datetime) -> bool:
    log = _log(one)
    leaves = _waiting(log, one.next_index) if log else []
    if log is None or not leaves:
        again = now
        if log is not None and log.closed_at is not None and one.next_index >= log.size:
            _go_on(one, log)
        _sent(one, now, at=one.sent_at, again=again)
        return False
    events = AuditEvent.objects.in_bulk([event for _, event in leaves], field_name="id")
    batch: list[tuple[AuditEvent, dict[str, object]]] = []
    size = 0
    for index, event_id in leaves:
        event = events[event_id]
        size += len(bytes(event.body)) * 2
        if batch and size > BATCH_BYTES:
            break
        batch.append((event, _said(one.form, event, log.origin, index)))
    if route.via == "syslog":
        outbound.syslog(
            route,
            [
                (event.recorded_at, event.action[:32], event.outcome == "success", json.dumps(said))
                for event, said in batch
            ],
        )
    else:
        body = {
            "object": "log_events",
            "log": log.origin,
            "first": one.next_index,
            "events": [said for _, said in batch],
        }
        delivery = f"{one.id}-{log.number}-{one.next_index}"
        outbound.post(route, json.dumps(body).encode(), delivery=delivery, now=now)
    _sent(one, now, at=now, again=now, index=one.next_index + len(batch), log_id=log.id)
    return True


def _log(one: LogSubscription) -> Log | None:
    if one.log_id:
        return Log.objects.get(id=one.log_id)
    return Log.objects.filter(owner=one.owner).order_by("number").first()


def _go_on(one: LogSubscription, log: Log) -> None:
    """What a closed log's successor has follows."""
    after = Log.objects.filter(owner=one.owner, number__gt=log.number).order_by("number").first()
    if after is not None:
        one.log_id, one.next_index = after.id, 0
        LogSubscription.objects.filter(id=one.id).update(log_id=after.id, next_index=0)


def _waiting(log: Log, start: int) -> list[tuple[int, str]]:
    rows = LogLeaf.objects.filter(log_id=log.id, index__gte=start, index__lt=start + BATCH)
    return list(rows.order_by("index").values_list("index", "event_id"))


def _said(form: str, event: AuditEvent, origin: str, index: int) -> dict[str, object]:
    body = bytes(event.body)
    if form == "ocsf":
        time_ms = int(event.recorded_at.timestamp() * 1000)
        return ocsf.event(body, origin=origin, index=index, time_ms=time_ms)
    return {"log": origin, "index": index, "body": body.decode()}


def _sent(
    one: LogSubscription,
    now: datetime,
    *,
    at: datetime | None,
    again: datetime,
    index: int | None = None,
    log_id: str = "",
) -> None:
    one.sent_at, one.next_try_at, one.failures, one.failure = at, again, 0, ""
    if index is not None:
        one.next_index, one.log_id = index, log_id
    one.save(
        update_fields=("sent_at", "next_try_at", "failures", "failure", "next_index", "log_id")
    )


def _tell(
    one: LogSubscription,
    action: str,
    actor: audit.Actor,
    now: datetime,
    personal: dict[str, str],
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("log_subscription", one.id),
        log=one.owner,
        now=now,
        region=one.region,
        change=[audit.Change("kind", None, one.kind), audit.Change("via", None, one.via)],
        personal=personal,
    )


_LETTER = """This is the signed head of your organization's audit log. Please keep it.

Whoever has it can check, with any later bundle and the published key, that nothing that stood in
the log on this day was altered or taken away since.

{note}
"""
