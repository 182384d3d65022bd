"""The outbox: what is to be asked of Stripe is sent, once, whatever dies or breaks in between.

A call is leased in one transaction, sent in none, and answered in another. Whoever dies in between
leaves it to be sent again with the same key, under which Stripe keeps the first result. It may
forget that after a day; from then on what an earlier attempt made is looked for before anything is
sent. So nothing is done twice, and nothing that was wanted is lost while Stripe is away.
"""

import logging
import random
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F

from billing.payments.stripe.calls import KINDS, Drop, NotYet, Obj
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import CallState, StripeCall
from billing.payments.stripe.problems import Declined, Refused, Stuck, Unavailable

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)  # longer than any request may take
BACKOFF_MIN = timedelta(seconds=5)
BACKOFF_MAX = timedelta(hours=1)
# Stripe keeps results for 24 hours at least; we stop trusting in that a little earlier.
KEPT = timedelta(hours=23)
# Where waiting calls are older than this, somebody should know.
OVERDUE = timedelta(hours=6)


def deliver(client: Client, now: datetime, limit: int = 50) -> int:
    """Sends what is due, the oldest first; returns how many were closed. Safe side by side.

    After an answer that did not come the rest waits for the next time: Stripe is away.
    """
    closed = 0
    for id in due(now, limit):
        try:
            closed += attempt(client, id, now)
        except Unavailable:
            break
    return closed


def due(now: datetime, limit: int) -> list[str]:
    rows = StripeCall.objects.filter(state=CallState.WAITING, next_at__lte=now)
    return list(rows.order_by("next_at", "id").values_list("id", flat=True)[:limit])


def attempt(client: Client, id: str, now: datetime) -> bool:
    """One attempt at one call; whether it is closed now. Raises Unavailable."""
    call = _lease(id, now)
    if call is None or call.state != CallState.WAITING:
        return call is not None
    try:
        answer = _ask(client, call, now)
    except Declined as declined:
        _close(call, CallState.REFUSED, now, refusal=declined, answer=declined.intent)
    except Refused as refused:
        log.error("Stripe refuses %s (%s): %s", call.id, call, refused)
        _close(call, CallState.REFUSED, now, refusal=refused)
    except Unavailable as problem:
        _later(call, problem, now)
        raise
    else:
        _close(call, CallState.DONE, now, answer=answer)
    return True


def overdue(now: datetime) -> int:
    """How many calls have waited for too long since they were first sent."""
    rows = StripeCall.objects.filter(state=CallState.WAITING, attempts__gt=0)
    return rows.filter(first_sent_at__lt=now - OVERDUE).count()


def _lease(id: str, now: datetime) -> StripeCall | None:
    """The call, its parameters fixed, for us alone until the lease ends; None: another has it."""
    with transaction.atomic():
        rows = StripeCall.objects.select_for_update(skip_locked=True)
        call = rows.filter(pk=id, state=CallState.WAITING, next_at__lte=now).first()
        if call is None:
            return None
        try:
            if call.body is None:
                call.body = KINDS[call.kind].prepare(call, now)
        except NotYet as reason:
            call.next_at = now + BACKOFF_MIN
            call.problem = str(reason)[:500]
            call.save(update_fields=["next_at", "problem"])
            return None
        except Drop as reason:
            KINDS[call.kind].refused(call, reason, now)
            _mark(call, CallState.DROPPED, now, problem=str(reason))
            return call
        call.attempts += 1
        call.first_sent_at = call.first_sent_at or now
        call.next_at = now + LEASE
        call.save(update_fields=["body", "attempts", "first_sent_at", "next_at"])
    return call


def _ask(client: Client, call: StripeCall, now: datetime) -> Obj:
    kind = KINDS[call.kind]
    assert call.body is not None and call.first_sent_at is not None
    forgotten = call.first_sent_at <= now - KEPT
    if call.attempts > 1 and (forgotten or call.stuck):
        if (found := kind.find(client, call)) is not None:
            return found
        if call.stuck:
            # Its first attempt is over, with an error that Stripe keeps, and made nothing.
            StripeCall.objects.filter(pk=call.pk).update(
                generation=F("generation") + 1, stuck=False
            )
            call.refresh_from_db(fields=["generation", "stuck"])
    return kind.send(client, _ordered(call.body), call.key)


def _ordered(value: Any) -> Any:
    """The same bytes each time: the database keeps no order of members, and Stripe compares."""
    if isinstance(value, dict):
        return {name: _ordered(one) for name, one in sorted(value.items())}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _later(call: StripeCall, problem: Unavailable, now: datetime) -> None:
    """Back-off with jitter. A kept error is looked into at the next attempt."""
    doubled = BACKOFF_MIN * 2 ** min(call.attempts - 1, 12)
    wait = min(doubled, BACKOFF_MAX) * random.uniform(0.5, 1.0)
    log.warning("Stripe gave no answer to %s (%s): %s", call.id, call, problem)
    StripeCall.objects.filter(pk=call.pk, state=CallState.WAITING).update(
        next_at=now + wait,
        problem=str(problem)[:500],
        stuck=isinstance(problem, Stuck),
    )


def _close(
    call: StripeCall,
    state: CallState,
    now: datetime,
    *,
    answer: Obj | None = None,
    refusal: Refused | None = None,
) -> None:
    """What follows and the mark that it is done, in one transaction; once."""
    with transaction.atomic():
        held = StripeCall.objects.select_for_update().get(pk=call.pk)
        if held.state != CallState.WAITING:
            return
        kind = KINDS[held.kind]
        if refusal is not None:
            kind.refused(held, refusal, now)
        elif answer is not None:
            kind.done(held, answer, now)
        _mark(held, state, now, result=str((answer or {}).get("id", "")), problem=refusal)


def _mark(
    call: StripeCall, state: CallState, now: datetime, *, result: str = "", problem: object = None
) -> None:
    call.state = state
    call.closed_at = now
    call.result_id = result[:128]
    call.problem = str(problem or "")[:500]
    call.save(update_fields=["state", "closed_at", "result_id", "problem"])
