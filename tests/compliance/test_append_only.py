"""The five ways to alter the log with SQL, each refused, whoever tries."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.db import DatabaseError, IntegrityError, ProgrammingError, connection, transaction

from compliance import audit, grants, partitions
from compliance.models import AuditEvent

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
PARTITION = "compliance_auditevent_2026_03"
ATTEMPTS = {
    "update": "UPDATE compliance_auditevent SET outcome = 'denied'",
    "delete": "DELETE FROM compliance_auditevent",
    "truncate": "TRUNCATE compliance_auditevent",
    "update partition": f"UPDATE {PARTITION} SET outcome = 'denied'",
    "delete in partition": f"DELETE FROM {PARTITION}",
    "truncate partition": f"TRUNCATE {PARTITION}",
}


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def event(db: None) -> AuditEvent:
    target = audit.Target("price", "prc_1")
    event_id = audit.record(
        actor=audit.SYSTEM, action="price.create", target=target, log=audit.PLATFORM, now=NOW
    )
    return AuditEvent.objects.get(id=event_id)


@pytest.fixture(params=["origin", "replica"])
def replication_role(request: pytest.FixtureRequest, db: None) -> Iterator[str]:
    """In the mode `replica` ordinary triggers do not fire: these must."""
    execute(f"SET LOCAL session_replication_role = {request.param}")
    yield request.param
    execute("SET LOCAL session_replication_role = origin")


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_even_a_superuser_is_refused(
    event: AuditEvent, replication_role: str, attempt: str
) -> None:
    with pytest.raises(IntegrityError, match="rows are only added"), transaction.atomic():
        execute(ATTEMPTS[attempt])
    assert AuditEvent.objects.get(id=event.id).outcome == "success"


@pytest.mark.parametrize(
    "attempt",
    [
        *ATTEMPTS,
        "ALTER TABLE compliance_auditevent DISABLE TRIGGER append_only_rows",
        f"ALTER TABLE compliance_auditevent DETACH PARTITION {PARTITION}",
        f"DROP TABLE {PARTITION}",
        "SET session_replication_role = replica",
        "SELECT stoa_make_append_only('django_session')",
        "SELECT stoa_ensure_partition('django_session', '2026-03-01')",
    ],
)
def test_the_running_role_is_refused(event: AuditEvent, attempt: str) -> None:
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        execute(ATTEMPTS.get(attempt, attempt))
    assert isinstance(caught.value, ProgrammingError)  # not permitted, or not its table
    assert AuditEvent.objects.get(id=event.id).outcome == "success"


def test_each_partition_has_both_triggers_always_on(event: AuditEvent) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT i.inhrelid::regclass::text, array_agg(t.tgname::text || t.tgenabled::text)"
            " FROM pg_inherits i LEFT JOIN pg_trigger t ON t.tgrelid = i.inhrelid"
            " WHERE i.inhparent = 'compliance_auditevent'::regclass GROUP BY 1"
        )
        found: dict[str, list[str]] = dict(cursor.fetchall())
    assert PARTITION in found
    for triggers in found.values():
        assert set(triggers) == {"append_only_rowsA", "append_only_truncateA", "queue_leafA"}


@pytest.mark.django_db
def test_months_are_made_once_and_ahead() -> None:
    """Across the turn of a year, in another zone, and again."""
    late = datetime.fromisoformat("2031-12-31T23:30:00-03:00")  # already January in UTC
    for _ in range(2):
        partitions.ensure("compliance_auditevent", late, months_ahead=1)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relname LIKE 'compliance_auditevent_203%'"
            " AND relkind = 'r' ORDER BY 1"
        )
        names = [name for (name,) in cursor.fetchall()]
    assert names == ["compliance_auditevent_2032_01", "compliance_auditevent_2032_02"]


@pytest.mark.django_db
def test_upkeep_finds_every_partitioned_table() -> None:
    assert "compliance_auditevent" in partitions.ensure_all(NOW)


def test_the_running_role_may_add_a_month_through_the_function(db: None) -> None:
    """After a long sleep the first event makes its own month; no upkeep came first."""
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
    later = datetime(2035, 7, 1, tzinfo=UTC)
    audit.record(
        actor=audit.SYSTEM,
        action="price.create",
        target=audit.Target("price", "prc_1"),
        log=audit.PLATFORM,
        now=later,
        personal={"note": "kept apart"},
    )
    assert AuditEvent.objects.filter(recorded_at=later).count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_month_made_in_a_rolled_back_transaction_is_made_again() -> None:
    at = datetime(2036, 5, 1, tzinfo=UTC)

    def append() -> None:
        audit.record(
            actor=audit.SYSTEM,
            action="price.create",
            target=audit.Target("price", "prc_1"),
            log=audit.PLATFORM,
            now=at,
        )

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        append()
        _ = 1 / 0
    assert not AuditEvent.objects.exists()
    append()
    append()
    assert AuditEvent.objects.count() == 2
