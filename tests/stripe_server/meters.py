"""Meters: what was used, as Stripe counts it. It checks customers later, and tells by events."""

from tests.stripe_server.problems import invalid, missing
from tests.stripe_server.store import DAY_S, Obj, Store

PAST_S = 35 * DAY_S
FUTURE_S = 300


def create(store: Store, params: Obj) -> Obj:
    if any(store.all("billing.meter", event_name=params["event_name"])):
        raise invalid("A meter of this event_name exists.", param="event_name")
    return store.make(
        "billing.meter",
        "mtr",
        status="active",
        **{
            "value_settings": {"event_payload_key": "value"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        }
        | params,
    )


def listing(store: Store, params: Obj) -> Obj:
    return store.page("billing.meter", params, "/v1/billing/meters", status=params.get("status"))


def record(store: Store, params: Obj) -> Obj:
    meter = _meter(store, params["event_name"])
    payload = params["payload"]
    value = payload.get(meter["value_settings"]["event_payload_key"])
    if value is None or not value.isdecimal():
        raise invalid(f"Invalid value in payload: {value!r}", param="payload")
    at = params.get("timestamp", store.now())
    if not store.now() - PAST_S <= at <= store.now() + FUTURE_S:
        message = "The timestamp must be within the past 35 days or up to 5 minutes in the future."
        raise invalid(message, code="timestamp_out_of_range", param="timestamp")
    identifier = params.get("identifier") or f"auto-{store.now()}-{len(list(store.all('meter')))}"
    if len(identifier) > 100:
        raise invalid("identifier: at most 100 characters", param="identifier")
    for known in store.all("billing.meter_event", identifier=identifier):
        if known["created"] > store.now() - DAY_S:
            message = f"An event already exists with identifier {identifier}."
            raise invalid(message, code="duplicate_meter_event", param="identifier")
    made = store.make(
        "billing.meter_event",
        "mevt",
        event_name=params["event_name"],
        identifier=identifier,
        payload=payload,
        timestamp=at,
    )
    customer = payload.get(meter["customer_mapping"]["event_payload_key"], "")
    if customer not in store.objects["customer"]:
        made["_lost"] = True
        reason = {"error_count": 1, "error_types": [{"code": "meter_event_customer_not_found"}]}
        report = {"object": "billing.meter_error_report", "meter": meter["id"], "reason": reason}
        store.emit("v1.billing.meter.error_report_triggered", report)
    return made


def adjust(store: Store, params: Obj) -> Obj:
    identifier = (params.get("cancel") or {}).get("identifier")
    found = next(iter(store.all("billing.meter_event", identifier=identifier)), None)
    if found is None or found["event_name"] != params["event_name"]:
        raise missing("meter event", str(identifier), "cancel[identifier]")
    if found["created"] < store.now() - DAY_S:
        raise invalid("Events can be cancelled within 24 hours.", param="cancel[identifier]")
    found["_lost"] = True
    return store.make(
        "billing.meter_event_adjustment",
        "mea",
        status="pending",
        event_name=params["event_name"],
        type="cancel",
        cancel={"identifier": identifier},
    )


def summaries(store: Store, params: Obj, id: str) -> Obj:
    """One sum over the whole range, or one of each hour or day."""
    meter = store.get("billing.meter", id)
    step = {"hour": 3600, "day": DAY_S}.get(params.get("value_grouping_window", ""), 0)
    sums: dict[int, int] = {}
    for event in store.all("billing.meter_event", event_name=meter["event_name"]):
        at = event["timestamp"]
        if (
            event.get("_lost")
            or event["payload"].get("stripe_customer_id") != params["customer"]
            or not params["start_time"] <= at < params["end_time"]
        ):
            continue
        start = at - at % step if step else params["start_time"]
        sums[start] = sums.get(start, 0) + int(event["payload"]["value"])
    data = [
        {
            "id": f"mtrsum_{start}",
            "object": "billing.meter_event_summary",
            "aggregated_value": float(total),
            "start_time": start,
            "end_time": start + step if step else params["end_time"],
            "meter": id,
        }
        for start, total in sorted(sums.items(), reverse=True)
    ]
    limit = params.get("limit", 10)
    if "starting_after" in params:
        ids = [one["id"] for one in data]
        data = data[ids.index(params["starting_after"]) + 1 :]
    return {
        "object": "list",
        "url": f"/v1/billing/meters/{id}/event_summaries",
        "has_more": len(data) > limit,
        "data": data[:limit],
    }


def _meter(store: Store, event_name: str) -> Obj:
    for meter in store.all("billing.meter", event_name=event_name, status="active"):
        return meter
    message = f"No active meter found for event name {event_name}"
    raise invalid(message, code="no_meter", param="event_name")
