"""What an event says, what it hides, and what it refuses to say."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from django.db import IntegrityError, connection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from compliance import audit, context, ids, sealing
from compliance.actions import ACTIONS
from compliance.models import AuditEvent, EventSecret

NOW = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
LOG = "org_00000000000000000000000000"
KEY = audit.Target("api_key", "key_1")
REQUEST = audit.RequestContext(
    "req_1", "POST", "api/v1/api_keys", ip="2001:db8::7", user_agent="curl/8"
)

pytestmark = pytest.mark.django_db


def record(**more: Any) -> AuditEvent:
    wish: dict[str, Any] = {
        "actor": audit.Actor("user", "usr_1", "session"),
        "action": "api_key.create",
        "target": KEY,
        "log": LOG,
        "now": NOW,
    }
    return AuditEvent.objects.get(id=audit.record(**{**wish, **more}))


def body(event: AuditEvent) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(bytes(event.body))
    return said


def test_the_body_says_it_all_and_the_columns_agree() -> None:
    event = record(
        region="eu-de-1",
        outcome="denied",
        reason="quota_exceeded",
        change=[audit.Change("max_replicas", 1, 4)],
        request=REQUEST,
    )
    said = body(event)
    commitments = said.pop("d")
    assert said == {
        "v": 1,
        "id": event.id,
        "log": LOG,
        "ts": "2026-03-14T09:26:53.589793Z",
        "action": "api_key.create",
        "category": "iam",
        "outcome": {"result": "denied", "reason_code": "quota_exceeded"},
        "actor": {"type": "user", "id": "usr_1", "auth": {"method": "session"}},
        "target": [{"type": "api_key", "id": "key_1"}],
        "source": {"region": "eu-de-1"},
        "request": {"id": "req_1", "method": "POST", "route": "api/v1/api_keys"},
        "change": [{"path": "max_replicas", "from": 1, "to": 4}],
    }
    assert len(commitments) == 2
    assert bytes(event.body) == rfc8785.dumps(body(event))
    assert ids.valid(event.id, "evt")
    assert (event.log_id, event.recorded_at, event.action) == (LOG, NOW, "api_key.create")
    assert (event.outcome, event.region, event.request_id) == ("denied", "eu-de-1", "req_1")
    assert (event.actor_id, event.target_id) == ("usr_1", "key_1")


def test_personal_values_stand_outside_and_can_be_opened_until_deleted() -> None:
    event = record(request=REQUEST, personal={"email": "ada@example.eu", "note": ""})
    for value in (b"2001:db8::7", b"curl/8", b"ada@example.eu"):
        assert value not in bytes(event.body)
        for kept in EventSecret.objects.filter(event_id=event.id):
            assert value not in bytes(kept.ciphertext)
    assert audit.opening(event, "email") == "ada@example.eu"
    assert audit.opening(event, "request.ip") == "2001:db8::7"
    assert audit.opening(event, "note") is None
    EventSecret.objects.filter(event_id=event.id).delete()
    assert audit.opening(event, "email") is None
    assert len(body(event)["d"]) == 3


def test_equal_values_have_unequal_commitments() -> None:
    one, other = record(personal={"email": "a@b.eu"}), record(personal={"email": "a@b.eu"})
    assert body(one)["d"] != body(other)["d"]


def test_an_opening_of_another_event_or_value_is_refused() -> None:
    one, other = record(personal={"email": "a@b.eu"}), record(personal={"email": "c@d.eu"})
    theirs = EventSecret.objects.get(event_id=other.id)
    mine = EventSecret.objects.filter(event_id=one.id)
    mine.update(nonce=theirs.nonce, ciphertext=theirs.ciphertext)
    with pytest.raises(sealing.SealBroken):
        audit.opening(one, "email")
    # Whoever holds the master key still cannot make an event have meant something else.
    blob = sealing.seal(b'["salt", "e@f.eu"]', context=f"event:{one.id}:email")
    mine.update(nonce=blob[:12], ciphertext=blob[12:])
    with pytest.raises(sealing.SealBroken):
        audit.opening(one, "email")


def test_the_request_being_served_is_taken_by_itself() -> None:
    token = context.enter(lambda: REQUEST)
    try:
        event = record()
    finally:
        context.leave(token)
    assert body(event)["request"]["id"] == event.request_id == "req_1"
    assert audit.opening(event, "request.user_agent") == "curl/8"
    assert "request" not in body(record())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"action": "api_key.steal"}, "unknown audit action"),
        ({"actor": audit.Actor("robot", "r2")}, "actor type"),
        ({"outcome": "maybe"}, "outcome"),
        ({"reason": "because Bob said so"}, "free text is personal"),
        ({"now": NOW.replace(tzinfo=None)}, "without a zone"),
        ({"change": [audit.Change(f"p{n}", "x" * 500, "") for n in range(40)]}, "16384"),
    ],
)
def test_what_cannot_stand_in_the_log_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        record(**wrong)
    assert not AuditEvent.objects.exists()
    assert not EventSecret.objects.exists()


def test_a_long_value_is_there_by_its_digest() -> None:
    change = body(record(change=[audit.Change("args", None, "x" * 5_000)]))["change"]
    assert change[0]["to"]["bytes"] == 5_002  # with its quotes
    assert len(change[0]["to"]["sha256"]) == 64


def test_the_database_bounds_the_body_too() -> None:
    event = record()
    event.body = b"x" * 16_385
    event.id = ids.new("evt")
    with pytest.raises(IntegrityError, match="auditevent_body_bounded"):
        AuditEvent.objects.bulk_create([event])


def test_reading_back_is_by_log_and_period_in_order() -> None:
    first, second = record(), record()
    record(log=audit.PLATFORM)
    record(now=NOW - timedelta(days=40))
    late = record(now=NOW + timedelta(days=40))
    found = list(audit.events(LOG, NOW, NOW + timedelta(seconds=1)))
    assert [event.id for event in found] == [first.id, second.id]
    assert late in audit.events(LOG, NOW, NOW + timedelta(days=41))
    assert not list(audit.events(LOG, NOW + timedelta(days=40, microseconds=1), NOW))


def test_reading_back_looks_into_the_months_of_the_period_alone() -> None:
    record(now=NOW + timedelta(days=40))
    record()
    query = AuditEvent.objects.filter(
        log_id=LOG, recorded_at__gte=NOW, recorded_at__lt=NOW + timedelta(days=1)
    )
    plan = query.explain()
    assert "compliance_auditevent_2026_03" in plan
    assert "compliance_auditevent_2026_04" not in plan


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_every_action_can_be_recorded_and_is_explained(action: str) -> None:
    assert body(record(action=action))["category"] == ACTIONS[action].category
    assert len(action) <= 64
    assert ACTIONS[action].meaning


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=json_values,
    after=json_values,
    personal=st.dictionaries(
        st.text("abc.", min_size=1, max_size=8),
        st.text(st.characters(codec="utf-8"), max_size=30),
        max_size=3,
    ),
)
def test_the_canonical_body_comes_back_as_it_was(
    before: Any, after: Any, personal: dict[str, str]
) -> None:
    """Whatever a change holds: parse and write again gives the same bytes; openings open."""
    event = record(change=[audit.Change("p", before, after)], personal=personal)
    said = body(event)
    assert rfc8785.dumps(said) == bytes(event.body)
    for side, value in (("from", before), ("to", after)):
        kept = said["change"][0][side]
        assert kept == value or kept == json.dumps(value, sort_keys=True)
    for path, value in personal.items():
        assert audit.opening(event, path) == (value or None)


def test_an_event_costs_few_statements() -> None:
    given: dict[str, Any] = {"actor": audit.SYSTEM, "action": "api_key.create", "target": KEY}
    for _ in range(2):  # the first makes the organization's data key
        with connection.execute_wrapper(counting := Counting()):
            audit.record(**given, log=LOG, now=NOW, request=REQUEST)
    # The month's partition (once committed: no more), the data key, the event, its openings.
    assert counting.statements <= 4


class Counting:
    def __init__(self) -> None:
        self.statements = 0

    def __call__(self, execute: Any, *arguments: Any) -> Any:
        self.statements += 1
        return execute(*arguments)
