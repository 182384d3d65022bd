"""Two at once, with real transactions: the rules that a count alone would not keep."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

from compliance import audit
from compliance.models import AuditEvent
from controlplane.tenancy import services
from controlplane.tenancy.errors import Conflict
from controlplane.tenancy.models import ApiKey, Membership, Organization, Role, User

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Run the calls in threads that set off together; returns results and exceptions."""
    results: list[object] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            results[number] = call()
        except Exception as error:
            results[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.fixture
def organization(transactional_db: None) -> Organization:
    first, second = (
        User.objects.create(email=f"{n}@example.eu", password="!", created_at=NOW) for n in "ab"
    )
    organization = services.create_organization(
        actor=audit.SYSTEM, name="ours", region_code="eu-de-1", owner=first, now=NOW
    )
    services.add_member(
        actor=audit.SYSTEM, organization=organization, user=second, role=Role.OWNER, now=NOW
    )
    return organization


def test_two_owners_who_leave_at_once_do_not_both_leave(organization: Organization) -> None:
    def leave(membership: Membership) -> None:
        services.remove_member(actor=audit.SYSTEM, membership=membership, now=NOW)

    first, second = organization.memberships.all()
    results = at_once(lambda: leave(first), lambda: leave(second))
    assert [type(result) for result in results if result] == [Conflict]
    assert organization.memberships.filter(role=Role.OWNER).count() == 1
    assert AuditEvent.objects.filter(action="membership.delete").count() == 1


def test_a_key_revoked_twice_at_once_has_one_event(organization: Organization) -> None:
    project = services.create_project(
        actor=audit.SYSTEM, organization=organization, name="first", now=NOW
    )
    key, _ = services.issue_key(
        actor=audit.SYSTEM, project=project, name="ci", scopes=["read"], now=NOW
    )
    results = at_once(*[lambda: services.revoke_key(actor=audit.SYSTEM, key=key, now=NOW)] * 4)
    assert all(isinstance(result, ApiKey) and result.revoked_at == NOW for result in results)
    assert AuditEvent.objects.filter(action="api_key.revoke").count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_first_events_of_a_month_may_come_at_once() -> None:
    month = datetime(2037, 2, 1, tzinfo=UTC)

    def append() -> str:
        with transaction.atomic():
            return audit.record(
                actor=audit.SYSTEM,
                action="price.create",
                target=audit.Target("price", "prc_1"),
                log=audit.PLATFORM,
                now=month,
            )

    results = at_once(*[append] * 4)
    assert AuditEvent.objects.filter(recorded_at=month).count() == 4, results


@pytest.mark.django_db(transaction=True)
def test_a_crash_between_verb_and_commit_leaves_neither_change_nor_event() -> None:
    class Crash(Exception):
        pass

    with pytest.raises(Crash), transaction.atomic():
        services.create_organization(
            actor=audit.SYSTEM, name="gone", region_code="eu-de-1", owner=None, now=NOW
        )
        raise Crash
    assert not Organization.objects.exists()
    assert not AuditEvent.objects.exists()
