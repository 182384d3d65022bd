"""A person is erased: planned, approved by somebody else, done, looked for, and told of."""

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.sessions.backends.db import SessionStore
from pytest_django import Settings

from compliance import audit, exports
from compliance.bundles import stoa_verify
from compliance.context import RequestContext
from compliance.erasure import certifying, executing, planning, searching
from compliance.erasure.models import Erasure, State
from compliance.log import signing
from compliance.models import AuditEvent, EventSecret, Tombstone
from compliance.privacy import holds, stores
from compliance.privacy.refusals import Refusal
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.tenancy import notices, services
from controlplane.tenancy.models import ApiKey, Membership, Notice, Role, User
from tests.logs import settle
from tests.signers import running
from tests.tenancy.conftest import NOW, Tenant

OPERATOR = audit.Actor("user", "usr_01k00000000000000000000009", "session")
SECOND = audit.Actor("user", "usr_01k00000000000000000000008", "session")
LATER = NOW + timedelta(minutes=1)
IP, BROWSER = "203.0.113.77", "CanaryBrowser/7"


@pytest.fixture(autouse=True)
def signer(settings: Settings, tmp_path: Path) -> Iterator[None]:
    settings.VAR = tmp_path
    with running():
        yield


def planted(tenant: Tenant) -> Subject:
    """A developer who has left something of themselves in each place."""
    user = tenant.people[Role.DEVELOPER]
    actor = audit.Actor("user", user.id, "session")
    services.issue_key(
        actor=actor, project=tenant.project, name="canary-laptop", scopes=["read"], now=NOW
    )
    for log in (tenant.organization.id, audit.PLATFORM):
        audit.record(
            actor=actor,
            action="session.create",
            target=audit.Target("user", user.id),
            log=log,
            now=NOW,
            request=RequestContext("req_1", ip=IP, user_agent=BROWSER),
        )
    notices.tell(
        tenant.organization,
        subject="a key leaked",
        text=f"ask {user.email.upper()} about it",
        about=audit.Target("api_key", tenant.key.id),
        key="leak",
        now=NOW,
    )
    session = SessionStore()
    session["_auth_user_id"] = user.id
    session.save()
    return Subject(PERSON, user.id)


def approved(subject: Subject, **more: Any) -> Erasure:
    given = {"actor": OPERATOR, "subject": subject, "log": audit.PLATFORM, "now": NOW, **more}
    erasure = planning.plan(**given)
    return planning.approve(actor=SECOND, erasure=erasure, plan_sha256=erasure.plan_sha256, now=NOW)


def by_store(erasure: Erasure) -> dict[str, dict[str, Any]]:
    return {one.store: one.outcome for one in erasure.steps.all() if one.outcome}


def test_a_person_is_erased_and_a_certificate_says_so(ours: Tenant) -> None:
    subject = planted(ours)
    address = ours.people[Role.DEVELOPER].email
    erasure = approved(subject)
    assert executing.carry_on(LATER) == 1
    erasure.refresh_from_db()
    assert erasure.state == State.ISSUED
    assert not User.objects.filter(id=subject.id).exists()
    assert not Membership.objects.filter(user_id=subject.id).exists()
    assert not Notice.objects.filter(text__icontains=address).exists()
    key = ApiKey.objects.get(name__startswith="key sk-")
    assert (key.created_by, key.usable(LATER)) == ("erased", True)
    hits, tables = searching.search([address, IP, BROWSER, "canary-laptop"])
    assert hits == []
    assert tables > 100
    for store in stores.of(subject):
        outcome = by_store(erasure)[store.name]
        assert outcome["action"] == "keep" or store.find(subject).rows == 0
    said = json.loads(bytes(erasure.certificate or b""))
    assert subject.id not in str(said)
    assert said["subject"]["sha256"] == certifying.hashed(subject.id)
    assert said["verification"]["hits"] == said["verification"]["left"] == []
    assert erasure.signature.splitlines()[1:3] == [
        certifying.KIND,
        hashlib.sha256(bytes(erasure.certificate or b"")).hexdigest(),
    ]
    assert executing.carry_on(LATER) == 0  # nothing is done twice
    assert AuditEvent.objects.filter(action="erasure.certify").count() == 2  # each log of theirs


def test_bundles_say_why_openings_are_gone_and_carry_the_certificate(ours: Tenant) -> None:
    subject = planted(ours)
    erasure = approved(subject)
    executing.carry_on(LATER)
    erasure.refresh_from_db()
    settle(LATER)
    for kind, about in (("audit_log", ""), ("erasure_certificate", erasure.certificate_id)):
        export = exports.request(
            actor=OPERATOR,
            log=ours.organization.id,
            kind=kind,
            about=about,
            profile="full",
            reason="yearly audit",
            start=NOW - timedelta(days=1),
            end=LATER + timedelta(seconds=1),
            now=LATER + timedelta(seconds=1),
        )
        settle(LATER + timedelta(seconds=1))
        exports.build(export.id, LATER + timedelta(seconds=1))
        key = stoa_verify.Vkey.parse(signing.vkey())
        report = stoa_verify.verify(exports.archive(export), stoa_verify.Options([key]))
        assert report.exit_code() == stoa_verify.OK, report.checks
    assert report.facts["openings"]["redacted"] > 0


def test_another_person_approves_what_was_planned_and_nothing_else(ours: Tenant) -> None:
    subject = planted(ours)
    erasure = planning.plan(actor=OPERATOR, subject=subject, log=audit.PLATFORM, now=NOW)
    themselves = audit.Actor("user", subject.id, "session")
    for actor, digest, message in (
        (OPERATOR, erasure.plan_sha256, "another person"),
        (themselves, erasure.plan_sha256, "another person"),
        (SECOND, "0" * 64, "not the plan"),
    ):
        with pytest.raises(Refusal, match=message):
            planning.approve(actor=actor, erasure=erasure, plan_sha256=digest, now=NOW)
    with pytest.raises(Refusal, match="is planned"):
        executing.execute(erasure=erasure, now=NOW)
    digest = erasure.plan_sha256
    planning.approve(actor=SECOND, erasure=erasure, plan_sha256=digest, now=NOW)
    actor = audit.Actor("user", subject.id, "session")
    services.issue_key(actor=actor, project=ours.project, name="one", scopes=["read"], now=NOW)
    with pytest.raises(Refusal, match="has changed"):
        executing.execute(erasure=erasure, now=LATER)
    erasure.refresh_from_db()
    assert erasure.state == State.SUPERSEDED
    assert User.objects.filter(id=subject.id).exists()
    assert not Tombstone.objects.filter(action="erasure.execute").exists()


def test_a_hold_stops_an_erasure_that_was_approved(ours: Tenant) -> None:
    subject = planted(ours)
    erasure = approved(subject)
    words = {"log": audit.PLATFORM, "reason": "a lawsuit", "now": NOW}
    hold = holds.place(actor=OPERATOR, subject=subject, **words)  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="a legal hold stands"):
        approved(subject)
    with pytest.raises(Refusal, match="a legal hold stands") as refused:
        executing.execute(erasure=erasure, now=LATER)
    assert refused.value.code == "held"
    assert executing.carry_on(LATER) == 0
    assert User.objects.filter(id=subject.id).exists()
    holds.lift(actor=OPERATOR, hold=hold, reason="it is settled", now=LATER)
    assert executing.carry_on(LATER) == 1


def test_the_last_owner_stays_until_there_is_another(ours: Tenant) -> None:
    owner = Subject(PERSON, ours.people[Role.OWNER].id)
    with pytest.raises(Refusal, match="only owner") as refused:
        planning.plan(actor=OPERATOR, subject=owner, log=audit.PLATFORM, now=NOW)
    assert refused.value.code == "last_owner"
    other = Membership.objects.get(user=ours.people[Role.ADMIN])
    services.change_role(actor=OPERATOR, membership=other, role=Role.OWNER, now=NOW)
    assert planning.plan(actor=OPERATOR, subject=owner, log=audit.PLATFORM, now=NOW)


def test_a_kill_between_any_two_steps_leaves_what_is_gone_on_with(
    ours: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = planted(ours)
    erasure = approved(subject)
    steps = len(stores.of(subject))
    done, left, real = 0, 0, executing._do

    class Killed(BaseException):
        pass

    def mortal(*given: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(*given)

    monkeypatch.setattr(executing, "_do", mortal)
    for _ in range(steps):
        left = 1
        try:
            executing.execute(erasure=erasure, now=LATER)
        except Killed:
            done += 1
    assert done == steps - 1
    erasure.refresh_from_db()
    assert erasure.state == State.EXECUTED
    assert AuditEvent.objects.filter(action="erasure.execute").count() == 1
    executing.carry_on(LATER)
    erasure.refresh_from_db()
    assert erasure.state == State.ISSUED


def test_what_is_still_there_keeps_the_certificate_back(
    ours: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that stands where no store knows of it is found, and told as a failure."""
    subject = planted(ours)
    address = ours.people[Role.DEVELOPER].email
    erasure = approved(subject)
    executing.execute(erasure=erasure, now=LATER)
    ours.project.run_policy = {"note": f"belongs to {address}"}
    ours.project.save()
    assert executing.carry_on(LATER) == 0
    erasure.refresh_from_db()
    assert erasure.state == State.EXECUTED
    assert erasure.findings["hits"] == [{"column": "tenancy_project.run_policy", "rows": 1}]
    told = AuditEvent.objects.get(action="erasure.verify")
    assert told.outcome == "failure"
    ours.project.run_policy = None
    ours.project.save()
    assert executing.verify(erasure=erasure, now=LATER).state == State.VERIFIED


def test_a_restored_database_is_erased_again(ours: Tenant) -> None:
    """As `tombstones.replay` does it before anything opens: the subject is there again."""
    subject = planted(ours)
    erasure = approved(subject)
    executing.carry_on(LATER)
    stone = Tombstone.objects.get(action="erasure.execute")
    User.objects.create(id=subject.id, email="back@ours.eu", password="!", created_at=NOW)
    audit.record(
        actor=audit.Actor("user", subject.id),
        action="session.create",
        target=audit.Target("user", subject.id),
        log=audit.PLATFORM,
        now=NOW,
        request=RequestContext("req_2", ip=IP),
    )
    assert executing.replay(stone, LATER)
    assert not executing.replay(stone, LATER)
    assert not User.objects.filter(id=subject.id).exists()
    theirs = AuditEvent.objects.filter(actor_id=subject.id).values("id")
    assert not EventSecret.objects.filter(event_id__in=theirs).exists()
    assert erasure.id == stone.target_id


def test_another_persons_values_stay(ours: Tenant, theirs: Tenant) -> None:
    """Who made somebody's login goes, and what was noted of that somebody does not."""
    subject = planted(ours)
    actor = audit.Actor("user", subject.id, "session")
    made = services.create_user(
        actor=actor, email="eve@example.eu", password="long enough, too", now=NOW
    )
    approved(subject)
    executing.carry_on(LATER)
    event = AuditEvent.objects.get(action="user.create", target_id=made.id)
    assert audit.opening(event, "email") == "eve@example.eu"
    assert Membership.objects.filter(organization=theirs.organization).count() == 5


def test_an_organizations_names_go_and_its_ids_stay(ours: Tenant, theirs: Tenant) -> None:
    subject = Subject(ORGANIZATION, ours.organization.id)
    approved(subject, log=subject.id, region="eu-de-1")
    executing.carry_on(LATER)
    erasure = Erasure.objects.get()
    assert erasure.state == State.ISSUED, (erasure.failure, erasure.findings)
    ours.organization.refresh_from_db()
    assert ours.organization.name == f"erased {subject.id}"
    assert not ApiKey.objects.filter(project=ours.project).exists()
    assert not Membership.objects.filter(organization=ours.organization).exists()
    assert ApiKey.objects.filter(project=theirs.project).exists()
    assert Membership.objects.filter(organization=theirs.organization).count() == 5
