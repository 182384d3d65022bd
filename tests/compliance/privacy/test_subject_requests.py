"""The register of requests: its clocks, and that each verb refuses what it must."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from compliance import audit
from compliance.models import AuditEvent, SubjectRequest
from compliance.privacy.refusals import Refusal, Wrong
from compliance.subject_requests import clock, services

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
ADA = audit.Actor("user", "usr_01k00000000000000000000000", "session")
OPERATOR = audit.Actor("user", "usr_01k00000000000000000000009", "session")
LOG = "org_01k00000000000000000000000"


def asked(**given: Any) -> SubjectRequest:
    wish = {"actor": ADA, "type": "access", "log": audit.PLATFORM, "subject_id": ADA.id, "now": NOW}
    return services.open_request(**{**wish, **given})


@pytest.mark.parametrize(
    ("received", "due", "extended"),
    [
        ("2026-01-31T23:59:59+00:00", "2026-02-28", "2026-04-30"),
        ("2028-01-31T10:00:00+00:00", "2028-02-29", "2028-04-30"),
        ("2026-03-14T00:00:00+00:00", "2026-04-14", "2026-06-14"),
        ("2026-12-31T10:00:00+00:00", "2027-01-31", "2027-03-31"),
        ("2026-11-30T10:00:00+00:00", "2026-12-30", "2027-02-28"),
        ("2026-01-31T23:30:00-05:00", "2026-03-01", "2026-05-01"),  # in UTC the day after
    ],
)
def test_a_month_is_a_calendar_month(received: str, due: str, extended: str) -> None:
    at = datetime.fromisoformat(received)
    assert clock.due(at) == date.fromisoformat(due)
    assert clock.extended(at) == date.fromisoformat(extended)


def test_the_period_is_a_row_of_a_table_with_its_source() -> None:
    rule = clock.term(NOW)
    assert (rule.months, rule.extension_months) == (1, 2)
    assert "Art. 12(3)" in rule.source
    with pytest.raises(LookupError, match="no period"):
        clock.term(datetime(2018, 5, 24, tzinfo=UTC))


@pytest.mark.django_db
def test_a_request_from_its_receipt_to_its_answer() -> None:
    request = asked(actor=OPERATOR, type="rectification", channel="letter", words="my name is …")
    assert (request.identity, request.due_on) == ("open", date(2026, 4, 14))
    with pytest.raises(Refusal, match="who asks"):
        services.decide(actor=OPERATOR, request=request, decision="granted", now=NOW)
    services.verify(actor=OPERATOR, request=request, confirmed=True, words="passport", now=NOW)
    with pytest.raises(Wrong) as wrong:
        services.extend(actor=OPERATOR, request=request, reason="complexity", words=" ", now=NOW)
    assert wrong.value.field == "words"
    late = NOW + timedelta(days=32)
    with pytest.raises(Refusal, match="before it is over"):
        services.extend(
            actor=OPERATOR, request=request, reason="complexity", words="so many", now=late
        )
    last = NOW + timedelta(days=31)
    extended = services.extend(
        actor=OPERATOR, request=request, reason="complexity", words="so many", now=last
    )
    assert extended.due_on == date(2026, 6, 14)
    with pytest.raises(Refusal, match="first it has to be decided"):
        services.close(actor=OPERATOR, request=request, now=late)
    services.decide(actor=OPERATOR, request=request, decision="granted", now=late)
    assert not services.overdue(datetime(2026, 6, 14, 23, 59, tzinfo=UTC)).exists()
    assert services.overdue(datetime(2026, 6, 15, tzinfo=UTC)).get() == request
    closed = services.close(actor=OPERATOR, request=request, now=late)
    again = services.close(actor=OPERATOR, request=request, now=late + timedelta(days=1))
    assert closed.closed_at == again.closed_at == late
    events = AuditEvent.objects.filter(target_id=request.id).order_by("id")
    verbs = ("open", "verify", "extend", "decide", "close")
    assert [one.action for one in events] == [f"subject_request.{verb}" for verb in verbs]
    assert audit.opening(events[0], "words") == "my name is …"
    assert not any("passport" in str(bytes(one.body)) for one in events)
    with pytest.raises(Refusal, match="is closed"):
        services.verify(actor=OPERATOR, request=request, confirmed=False, now=late)


@pytest.mark.django_db
def test_what_is_wrong_is_refused_and_nothing_is_kept() -> None:
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"type": "telepathy"}, "type"),
        ({"channel": "pigeon"}, "channel"),
        ({"role": "owner"}, "role"),
        ({"received_at": NOW + timedelta(days=1)}, "received_at"),
        ({"received_at": datetime(2018, 1, 1, tzinfo=UTC)}, "received_at"),
        ({"role": "processor"}, "organization"),
        ({"subject_id": ""}, "subject"),
        ({"words": "x" * 1001}, "words"),
    ]
    for given, field in wrongs:
        with pytest.raises(Wrong) as wrong:
            asked(**given)
        assert wrong.value.field == field
    assert not SubjectRequest.objects.exists()
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db
def test_who_asks_for_themselves_is_known_and_a_refusal_has_a_ground() -> None:
    request = asked()
    assert request.identity == "session"
    for decision, ground in (("refused", ""), ("granted", "excessive"), ("refused", "boredom")):
        with pytest.raises(Wrong) as wrong:
            services.decide(
                actor=OPERATOR, request=request, decision=decision, ground=ground, now=NOW
            )
        assert wrong.value.field == "ground"
    services.decide(
        actor=OPERATOR, request=request, decision="refused", ground="excessive", now=NOW
    )
    with pytest.raises(Refusal, match="decided already"):
        services.decide(actor=OPERATOR, request=request, decision="granted", now=NOW)
    assert services.close(actor=OPERATOR, request=request, now=NOW).output == ""


@pytest.mark.django_db
def test_what_was_granted_is_shown_before_it_is_closed() -> None:
    for type_, message in (("access", "no bundle"), ("erasure", "no certificate")):
        request = asked(type=type_)
        services.decide(actor=OPERATOR, request=request, decision="granted", now=NOW)
        with pytest.raises(Refusal, match=message):
            services.close(actor=OPERATOR, request=request, now=NOW)


@pytest.mark.django_db
def test_a_tenants_own_data_subject_is_the_tenants_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(services, "_told", [lambda request, now: told.append(request.log_id)])
    request = asked(actor=OPERATOR, role="processor", subject_id="", log=LOG, channel="mail")
    assert told == [LOG]
    assert (request.subject_id, request.due_on) == ("", date(2026, 4, 14))
