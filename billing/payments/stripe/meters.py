"""Stripe's meters, as an option: what was used, told once for each account, meter and hour.

Only whole seconds go there, as text; never money. Our invoices do not depend on it. What was told
is kept here for good, because Stripe forgets identifiers after a day. Late usage is told as a
further event; what was told too much is taken back within a day, which is all that Stripe allows.
"""

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction
from django.db.models import Sum

from billing.payments.stripe import customers
from billing.payments.stripe.calls import (
    Drop,
    Kind,
    Obj,
    ask,
    never,
    nothing,
    register,
)
from billing.payments.stripe.client import Client
from billing.payments.stripe.models import (
    CallKind,
    CallState,
    StripeCall,
    StripeCustomer,
    StripeMeterEvent,
)
from billing.payments.stripe.problems import Refused

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
METERS = ("device_seconds", "warm_seconds", "asleep_seconds")
SETTLED_AFTER = timedelta(minutes=15)  # usage of an hour arrives a little later
BACK = timedelta(days=34)  # Stripe takes 35; a day of distance
ALARM_AFTER = timedelta(days=7)
CANCELLED_WITHIN = timedelta(hours=23)  # Stripe allows 24
COMPARED = timedelta(days=3)
EVERY = timedelta(minutes=10)

_USED = """
SELECT account_id, meter, date_trunc('hour', bucket, 'UTC'),
    floor(sum((CASE basis WHEN 'credit' THEN -1 ELSE 1 END) * quantity * share) / 1000.0 + 0.5)
FROM billing_usagehour
WHERE bucket >= %s AND bucket < %s AND basis IN ('charge', 'credit')
    AND meter = ANY(%s) AND account_id = ANY(%s)
GROUP BY 1, 2, 3 ORDER BY 3, 1, 2
"""

_Key = tuple[str, str, datetime]  # account, meter, hour


def name(meter: str) -> str:
    """A meter's `event_name` at Stripe."""
    return f"stoa_{meter}"


def make(client: Client) -> list[str]:
    """Makes the meters that Stripe does not have yet; their names."""
    there = {meter["event_name"] for meter in client.meters()}
    made = [name(meter) for meter in METERS if name(meter) not in there]
    for each in made:
        params = {
            "event_name": each,
            "display_name": each.replace("_", " "),
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
        client.create_meter(params, f"stoa-meter-{each}")
    return made


def tell(now: datetime) -> int:
    """Writes what Stripe's meters have yet to be told of hours that are over; how many events."""
    used, told = _used(now), _told(now)
    written = 0
    for key in sorted(used.keys() | told.keys()):
        change = used.get(key, 0) - told.get(key, 0)
        if change > 0:
            written += _add(key, told.get(key, 0), change, now)
        elif change < 0:
            _take_back(key, now)
    return written


def give_up(now: datetime) -> int:
    """Closes what Stripe takes no more, and says so: it is for a person. Returns how many."""
    rows = StripeMeterEvent.objects.filter(sent_at=None, given_up_at=None, canceled_at=None)
    late = rows.filter(hour__lt=now - ALARM_AFTER, hour__gte=now - BACK).count()
    if late:
        log.error("%s events for Stripe's meters have waited for more than 7 days", late)
    old = list(rows.filter(hour__lt=now - BACK).values_list("identifier", flat=True))
    for identifier in old:
        log.error("%s is too old for Stripe's meter: it is left out", identifier)
    with transaction.atomic():
        StripeMeterEvent.objects.filter(pk__in=old).update(given_up_at=now)
        calls = StripeCall.objects.filter(
            kind=CallKind.METER, subject_id__in=old, state=CallState.WAITING
        )
        calls.update(state=CallState.DROPPED, closed_at=now, problem="too old for Stripe's meter")
    return len(old)


def differences(client: Client, now: datetime) -> Iterator[str]:
    """What Stripe's sums of past days say, against what it was told; and what it never took."""
    if not client.configuration.meters:
        return
    end = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    ids = {meter["event_name"]: meter["id"] for meter in client.meters()}
    for meter in METERS:
        if name(meter) not in ids:
            yield f"Stripe has no active meter of the event {name(meter)}"
            continue
        for customer in StripeCustomer.objects.exclude(customer_id=""):
            there = _sum(client, ids[name(meter)], customer.customer_id, end - COMPARED, end)
            ours = _sum_told(customer.account_id, meter, end - COMPARED, end)
            if there != ours:
                yield (
                    f"Stripe's meter counts {there} {meter} of {customer.account_id} in the three"
                    f" days to {end:%Y-%m-%d}, and was told {ours}"
                )
    if left := StripeMeterEvent.objects.filter(given_up_at__gt=now - COMPARED).count():
        yield f"{left} events were too old for Stripe's meters"


def _used(now: datetime) -> dict[_Key, int]:
    end = (now - SETTLED_AFTER).replace(minute=0, second=0, microsecond=0)
    start = end - BACK + HOUR
    known = list(
        StripeCustomer.objects.exclude(customer_id="").values_list("account_id", flat=True)
    )
    with connection.cursor() as cursor:
        cursor.execute(_USED, [start, end, list(METERS), known])
        return {(row[0], row[1], row[2]): int(row[3]) for row in cursor}


def _told(now: datetime) -> dict[_Key, int]:
    rows = StripeMeterEvent.objects.filter(hour__gte=now - BACK + HOUR, canceled_at=None)
    sums = rows.values_list("account_id", "meter", "hour").annotate(total=Sum("quantity"))
    return {(account, meter, hour): int(total) for account, meter, hour, total in sums}


def _identifier(key: _Key, before: int, change: int) -> str:
    """At most 64 characters (Stripe takes 100): the same for the same step from `before`."""
    account, meter, hour = key
    generation = StripeMeterEvent.objects.filter(account_id=account, meter=meter, hour=hour).count()
    text = f"{hour.astimezone(UTC).isoformat()}|{generation}|{before}|{change}"
    return f"{account}:{meter}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _add(key: _Key, before: int, change: int, now: datetime) -> bool:
    account, meter, hour = key
    with transaction.atomic():
        made = StripeMeterEvent(
            identifier=_identifier(key, before, change),
            account_id=account,
            meter=meter,
            hour=hour,
            quantity=change,
            created_at=now,
        )
        if StripeMeterEvent.objects.filter(pk=made.pk).exists():
            return False  # another worker tells it
        made.save(force_insert=True)
        ask(CallKind.METER, made.identifier, account, now=now)
    return True


def _take_back(key: _Key, now: datetime) -> None:
    """Cancels what was told of the hour, to be told anew; later than a day that is impossible."""
    account, meter, hour = key
    with transaction.atomic():
        rows = StripeMeterEvent.objects.select_for_update().filter(
            account_id=account, meter=meter, hour=hour, canceled_at=None
        )
        events = list(rows)
        if any(one.sent_at is None or one.sent_at < now - CANCELLED_WITHIN for one in events):
            return
        for event in events:
            event.canceled_at = now
            event.save(update_fields=["canceled_at"])
            ask(CallKind.METER_CANCEL, event.identifier, account, now=now)


def _sum(client: Client, meter_id: str, customer: str, start: datetime, end: datetime) -> int:
    rows = client.meter_summaries(
        meter_id,
        customer=customer,
        start_time=int(start.timestamp()),
        end_time=int(end.timestamp()),
    )
    return sum(int(one["aggregated_value"]) for one in rows)


def _sum_told(account_id: str, meter: str, start: datetime, end: datetime) -> int:
    rows = StripeMeterEvent.objects.filter(
        account_id=account_id, meter=meter, hour__gte=start, hour__lt=end, canceled_at=None
    ).exclude(sent_at=None)
    return int(rows.aggregate(total=Sum("quantity"))["total"] or 0)


def _prepare(call: StripeCall, now: datetime) -> Obj:
    event = StripeMeterEvent.objects.get(pk=call.subject_id)
    if event.hour < now - BACK:
        raise Drop("too old for Stripe's meter")
    return {
        "event_name": name(event.meter),
        "identifier": event.identifier,
        "timestamp": int(event.hour.timestamp()),
        "payload": {
            "stripe_customer_id": customers.of(event.account_id),
            "value": str(event.quantity),
        },
    }


def _send(client: Client, params: Obj, key: str) -> Obj:
    """An identifier that Stripe still knows is one that it has counted."""
    try:
        return client.create_meter_event(params, key)
    except Refused as refused:
        if refused.reason == "duplicate_meter_event" or "already exists" in str(refused):
            return {"id": params["identifier"]}
        raise


def _find(client: Client, call: StripeCall) -> Obj | None:
    """Whether the hour's sum at Stripe has this event in it already."""
    event = StripeMeterEvent.objects.get(pk=call.subject_id)
    ids = {meter["event_name"]: meter["id"] for meter in client.meters()}
    meter_id, customer = ids.get(name(event.meter)), customers.of(event.account_id)
    if meter_id is None:
        return None
    there = _sum(client, meter_id, customer, event.hour, event.hour + HOUR)
    others = _sum_told(event.account_id, event.meter, event.hour, event.hour + HOUR)
    return {"id": event.identifier} if there >= others + event.quantity else None


def _done(call: StripeCall, _answer: Obj, now: datetime) -> None:
    StripeMeterEvent.objects.filter(pk=call.subject_id, sent_at=None).update(sent_at=now)


def _refused(call: StripeCall, _refusal: Refused | Drop, now: datetime) -> None:
    StripeMeterEvent.objects.filter(pk=call.subject_id, sent_at=None).update(given_up_at=now)


register(CallKind.METER, Kind(_prepare, _send, _find, _done, _refused))


def _prepare_cancel(call: StripeCall, _now: datetime) -> Obj:
    event = StripeMeterEvent.objects.get(pk=call.subject_id)
    cancel = {"identifier": event.identifier}
    return {"event_name": name(event.meter), "type": "cancel", "cancel": cancel}


def _send_cancel(client: Client, params: Obj, key: str) -> Obj:
    return client.cancel_meter_event(params, key)


register(CallKind.METER_CANCEL, Kind(_prepare_cancel, _send_cancel, never, nothing, nothing))
