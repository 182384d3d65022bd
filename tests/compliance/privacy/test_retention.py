"""The schedule: what is published, what operators set, what ends when, what holds keep."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connections

from compliance import audit
from compliance.context import RequestContext
from compliance.models import AuditEvent, EventSecret, RetentionRule, RetentionRun, SubjectRequest
from compliance.privacy import holds, own_retention, periods, retention
from compliance.privacy.refusals import Wrong
from compliance.privacy.rules import DELETE, REDACT, Period
from compliance.privacy.schedule import PUBLISHED
from compliance.subjects import Subject
from tests.billing.dying import Killed
from tests.test_layout import ROOT

DAY = timedelta(days=1)
NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
OPERATOR = audit.Actor("user", "usr_01k00000000000000000000000", "session")
ADA = Subject("person", "usr_01k0000000000000000000000a")
ACME = Subject("organization", "org_01k0000000000000000000000a")
OTHER = Subject("organization", "org_01k0000000000000000000000b")
AT_ADA = audit.Actor("user", ADA.id, "session")
pytestmark = pytest.mark.django_db


def told(log: str, now: datetime, actor: audit.Actor = OPERATOR) -> str:
    """An event with words of a person and a client's address."""
    return audit.record(
        actor=actor,
        action="project.create",
        target=audit.Target("project", "prj_1"),
        log=log,
        now=now,
        personal={"name": "Ada"},
        request=RequestContext(id="req_1", ip="192.0.2.1", user_agent="curl"),
    )


def opened(event_id: str) -> set[str]:
    return set(EventSecret.objects.filter(event_id=event_id).values_list("path", flat=True))


def session(ended: datetime) -> str:
    return Session.objects.create(
        session_key=f"s{ended.timestamp()}", session_data="", expire_date=ended
    ).session_key


def last(code: str) -> RetentionRun:
    run = retention.runs().filter(code=code).first()
    assert run is not None
    return run


def test_each_rule_that_ends_something_is_carried_out_by_somebody() -> None:
    ending = {code for code, rule in PUBLISHED.items() if rule.action in (DELETE, REDACT)}
    assert retention.registered() == ending
    for rule in PUBLISHED.values():
        assert rule.action in (DELETE, REDACT) or rule.ground, f"{rule.code} says no ground"
        if rule.floor and rule.ceiling and rule.period:
            assert rule.floor.length() <= rule.period.length() <= rule.ceiling.length()


def test_the_published_table_is_what_is_printed() -> None:
    lines = (ROOT / "docs" / "privacy.md").read_text().splitlines()
    printed = {line for line in lines if line.startswith("| `")}
    for rule in PUBLISHED.values():
        period = rule.setting or rule.period or "none"
        bounds = f"{rule.floor} to {rule.ceiling}" if rule.floor and not rule.setting else ""
        said = (f"`{rule.code}`", rule.category, rule.basis, period, rule.starts, rule.action)
        assert "| " + " | ".join(map(str, (*said, bounds))) + " |" in printed
    assert len(printed) == len(PUBLISHED)


@pytest.mark.parametrize(
    ("period", "now", "before"),
    [
        (Period(13, "months"), "2026-03-31T12:00:00Z", "2025-02-28T12:00:00Z"),
        (Period(8, "years", True), "2034-12-31T23:59:59Z", "2026-01-01T00:00:00Z"),
        (Period(8, "years", True), "2035-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (Period(24, "hours"), "2026-03-29T03:00:00+02:00", "2026-03-28T01:00:00Z"),
    ],
)
def test_a_period_is_over_to_the_day(period: Period, now: str, before: str) -> None:
    """An invoice of 15 March 2026 (DE): kept to the end of 2034."""
    assert period.before(datetime.fromisoformat(now)) == datetime.fromisoformat(before)


def test_the_published_schedule_is_installed_once_and_follows_the_settings(settings: Any) -> None:
    assert periods.in_force("quote", NOW).period == Period(30, "days")  # before the first pass
    assert periods.sync(NOW) == len(PUBLISHED)
    assert periods.sync(NOW + DAY) == 0
    settings.FILES_KEPT_S = 7 * 86_400
    assert periods.sync(NOW + DAY) == 2  # files, and batches with them
    assert periods.in_force("file", NOW).period == Period(30, "days")
    assert periods.in_force("file", NOW + DAY).period == Period(7, "days")
    event = AuditEvent.objects.filter(action="retention.publish").order_by("id").last()
    assert event is not None and b'"from":"30 days","path":"file","to":"7 days"' in event.body


def test_an_operator_sets_a_period_within_bounds_from_a_day_on() -> None:
    periods.sync(NOW)
    asked: dict[str, Any] = {"actor": OPERATOR, "now": NOW, "reason": "we look back a year"}
    for amount, unit in ((25, "years"), (1, "months"), (1, "w"), (-1, "years")):
        with pytest.raises(Wrong) as refused:
            periods.change(code="audit_opening", amount=amount, unit=unit, **asked)
        assert refused.value.field == "amount"
    for code in ("file", "ledger", "nothing"):
        with pytest.raises(Wrong):
            periods.change(code=code, amount=3, unit="days", **asked)
    change = {"code": "audit_opening", "amount": 12, "unit": "months", **asked}
    for _ in range(2):
        periods.change(**change, effective_from=NOW + DAY)
    assert AuditEvent.objects.filter(action="retention.change").count() == 1
    assert periods.in_force("audit_opening", NOW).period == Period(24, "months")
    assert periods.in_force("audit_opening", NOW + DAY).period == Period(12, "months")
    with pytest.raises(Wrong, match="later change"):
        periods.change(**{**change, "amount": 36})
    assert periods.sync(NOW + 2 * DAY) == 0  # what an operator set stays
    assert RetentionRule.objects.filter(code="audit_opening").count() == 2


def test_openings_go_on_their_day_and_the_log_says_so() -> None:
    ours, operators = told(ACME.id, NOW), told(audit.PLATFORM, NOW)
    whole = {"name", "request.ip", "request.user_agent"}
    retention.run(NOW + 90 * DAY)
    assert opened(ours) == whole
    retention.run(NOW + 91 * DAY)
    assert opened(ours) == {"name"} == opened(operators)
    two_years = datetime(2028, 3, 14, 9, 26, 53, tzinfo=UTC)
    retention.run(two_years)
    assert opened(ours) == {"name"}
    retention.run(two_years + DAY)
    assert opened(ours) == set() and opened(operators) == {"name"}
    retention.run(two_years + 366 * DAY)
    assert opened(operators) == set()
    assert AuditEvent.objects.filter(id=ours).exists()
    mine = AuditEvent.objects.filter(log_id=ACME.id, action="retention.run").order_by("id")
    assert [event.target_type for event in mine] == ["erasure"] * 2
    assert own_retention.erasures([ours])[ours].certified_by == mine[0].id
    assert own_retention.erasures([mine[1].id]) == {}


def test_a_hold_keeps_what_is_due_until_it_is_lifted() -> None:
    held, free = told(ACME.id, NOW), told(OTHER.id, NOW)
    adas = told(OTHER.id, NOW, AT_ADA)
    placed = [
        holds.place(actor=OPERATOR, subject=one, log=ACME.id, reason="case 7", now=NOW)
        for one in (ACME, ADA, ACME)
    ]
    assert placed[0].id == placed[2].id
    assert holds.held(ACME) and not holds.held(OTHER)
    later = datetime(2028, 3, 15, 12, tzinfo=UTC)
    retention.run(later)
    assert (opened(held), opened(free), opened(adas)) == (opened(adas), set(), opened(adas))
    assert len(opened(held)) == 3
    run = last("audit_opening")
    assert (run.held, run.complete) == (8, True)  # with the words of the two holds
    event = AuditEvent.objects.get(id=run.event_id)
    assert b'{"from":null,"path":"held","to":8}' in bytes(event.body)
    for hold in placed:
        holds.lift(actor=OPERATOR, hold=hold, reason="case closed", now=later)
    retention.run(later + DAY)
    assert opened(held) == set() == opened(adas)
    assert AuditEvent.objects.filter(action="hold.place").count() == 2
    assert AuditEvent.objects.filter(action="hold.lift").count() == 2
    for reason in ("", "x", "a\0b", "x" * 501):
        with pytest.raises(Wrong):
            holds.place(actor=OPERATOR, subject=ACME, log=ACME.id, reason=reason, now=NOW)
    with pytest.raises(Wrong):
        wrong = Subject("person", ACME.id)
        holds.place(actor=OPERATOR, subject=wrong, log=ACME.id, reason="case 7", now=NOW)


def test_rows_end_a_day_after_and_quiet_rules_leave_one_row_a_day() -> None:
    second = timedelta(seconds=1)
    late, soon = session(NOW - DAY - second), session(NOW - DAY + second)
    assert retention.run(NOW) == 1
    assert list(Session.objects.values_list("session_key", flat=True)) == [soon] != [late]
    run = last("session")
    assert (run.done, run.held, run.failed, run.complete) == (1, 0, 0, True)
    assert run.before == NOW - DAY and AuditEvent.objects.get(id=run.event_id)
    rows = RetentionRun.objects.count()
    assert rows == len(retention.registered())
    retention.run(NOW + timedelta(minutes=5))
    assert RetentionRun.objects.count() == rows
    retention.run(NOW + DAY)
    assert RetentionRun.objects.count() == 2 * rows


def test_the_register_of_requests_ends_five_years_after_each_was_closed() -> None:
    def closed(at: datetime | None, subject: Subject) -> str:
        return SubjectRequest.objects.create(
            type="access",
            role="controller",
            subject_id=subject.id,
            log_id=audit.PLATFORM,
            channel="console",
            received_at=NOW,
            opened_by="",
            identity="open",
            due_on=NOW.date(),
            term="",
            closed_at=at,
        ).id

    later = datetime(2031, 3, 15, 9, 26, 53, tzinfo=UTC)
    gone, stays = closed(NOW, OTHER), closed(NOW + DAY, OTHER)
    still, kept = closed(None, OTHER), closed(NOW, ADA)
    holds.place(actor=OPERATOR, subject=ADA, log=audit.PLATFORM, reason="a claim", now=NOW)
    retention.carry_out("request_register", later)
    left = set(SubjectRequest.objects.values_list("id", flat=True))
    assert left == {stays, still, kept} and gone not in left
    assert (last("request_register").done, last("request_register").held) == (1, 1)


def test_what_is_killed_in_the_middle_is_gone_on_with_and_told_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "LIMIT", 2)
    for number in range(5):
        session(NOW - 2 * DAY - timedelta(seconds=number))
    deaths, step = [Killed], retention._Pass._step

    def dies(self: retention._Pass) -> retention.Outcome:
        outcome = step(self)
        if deaths and Session.objects.count() == 1:
            raise deaths.pop()
        return outcome

    monkeypatch.setattr(retention._Pass, "_step", dies)
    with pytest.raises(Killed):
        retention.carry_out("session", NOW)
    assert Session.objects.count() == 3  # the second transaction did not happen
    retention.carry_out("session", NOW)
    assert not Session.objects.exists()
    found = list(RetentionRun.objects.filter(code="session").order_by("id"))
    assert [(run.done, run.complete) for run in found] == [(2, False), (2, False), (1, True)]


def test_one_that_breaks_is_told_stops_nobody_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(**_: Any) -> int:
        raise RuntimeError("no")

    monkeypatch.setitem(retention._executors, "notice", retention._Registered(breaks, False))
    session(NOW - 2 * DAY)
    retention.run(NOW)
    assert not Session.objects.exists()
    assert last("notice").failed == 1
    assert AuditEvent.objects.get(id=last("notice").event_id).outcome == "failure"
    retention.run(NOW + timedelta(minutes=30))
    assert RetentionRun.objects.filter(code="notice").count() == 1
    retention.run(NOW + timedelta(minutes=61))
    assert RetentionRun.objects.filter(code="notice").count() == 2


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_do_it_once() -> None:
    for number in range(50):
        session(NOW - 2 * DAY - timedelta(seconds=number))
    done: list[int] = []

    def work() -> None:
        done.append(retention.run(NOW))
        connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert sum(done) == 50
    assert sum(RetentionRun.objects.filter(code="session").values_list("done", flat=True)) == 50
