"""What the two running roles may do, tried as them."""

from collections.abc import Iterator
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction
from pytest_django import Settings

from compliance import grants

INBOX = (
    "INSERT INTO billing_usageinbox (request_id, gateway_id, key_id, project_id, endpoint_id,"
    " replica_id, operation, opened_at, closed_at, status, finish, counted_by, input_tokens,"
    " cached_tokens, output_tokens) VALUES ('r', 'g', 'k', 'p', 'e', 'r', 'chat', now(), now(),"
    " 200, 'stop', 'engine', 1, 0, 1) ON CONFLICT DO NOTHING"
)
BOOKED = INBOX.replace("_tokens)", "_tokens, booked_at)").replace("0, 1)", "0, 1, now())")
ACTIVITY = (
    "INSERT INTO endpoints_activity (endpoint_id, gateway_id, in_flight, waiting)"
    " VALUES ('e', 'g', 1, 1)"
)

STOP = (
    "INSERT INTO billing_runstop (project_id, run, key_id, gateway_id, stopped)"
    " VALUES ('prj_1', 'run_1', 'key_1', 'gw-1', true)"
)
USE = "INSERT INTO tenancy_secretuse (secret_id, gateway_id, used_at) VALUES ('sec_1', 'g', now())"


@pytest.fixture
def applied(db: None) -> None:
    # Twice: the second time must change nothing and complain of nothing.
    for _ in range(2):
        out = StringIO()
        call_command("grant_roles", stdout=out)
        assert out.getvalue() == ""


@pytest.fixture
def gateway(applied: None) -> Iterator[None]:
    execute(f"SET LOCAL ROLE {settings.GATEWAY_ROLE}")
    yield
    execute("RESET ROLE")


@pytest.fixture
def app(applied: None) -> Iterator[None]:
    execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
    yield
    execute("RESET ROLE")


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def refused(statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        execute(statement)


@pytest.mark.parametrize(
    "view",
    [
        "keys",
        "changes",
        "projects",
        "aliases",
        "organizations",
        "endpoints",
        "replicas",
        "budgets",
        "stopped_runs",
        "revocations",
        "token_prices",
        "directory_generation",
    ],
)
def test_the_gateway_reads_its_views(gateway: None, view: str) -> None:
    execute(f"SELECT * FROM gateway.{view}")


def test_the_gateway_reports_requests_and_activity(gateway: None) -> None:
    for _ in range(2):
        execute(INBOX)
    execute(ACTIVITY)
    execute(USE)
    execute(STOP)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM tenancy_secretuse",
        "UPDATE tenancy_apikeysecret SET last_used_at = now()",
        "SELECT * FROM billing_usageinbox",
        "UPDATE billing_usageinbox SET output_tokens = 0",
        "DELETE FROM billing_usageinbox",
        "SELECT * FROM endpoints_activity",
        "SELECT * FROM billing_runstop",
        "SELECT * FROM tenancy_apikey",
        "SELECT * FROM tenancy_user",
        "SELECT * FROM compliance_auditevent",
        "INSERT INTO compliance_auditevent DEFAULT VALUES",
        "SELECT stoa_ensure_partition('compliance_auditevent', '2026-03-01')",
        "SELECT nextval('gateway.directory_generation')",
        "CREATE TABLE public.mine (n int)",
        "CREATE TEMPORARY TABLE mine (n int)",
        "DELETE FROM gateway.replicas",
        BOOKED,
    ],
)
def test_the_gateway_may_do_nothing_else(gateway: None, statement: str) -> None:
    refused(statement)


def test_the_app_runs_the_house(app: None) -> None:
    execute("INSERT INTO billing_account VALUES ('acc_1', 'a', 'EUR', now())")
    execute("UPDATE billing_account SET name = 'b'")
    execute("DELETE FROM billing_account")
    execute("SELECT stoa_ensure_partition('compliance_auditevent', '2026-03-01')")
    execute(ACTIVITY)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE compliance_auditevent SET outcome = ''",
        "DELETE FROM compliance_auditevent",
        "DELETE FROM billing_usageevent",
        "UPDATE billing_ledgerentry SET amount = 1",
        "DELETE FROM django_migrations",
        "CREATE TABLE public.mine (n int)",
        "SELECT * FROM gateway.keys",
        "TRUNCATE billing_account",
    ],
)
def test_the_app_may_not_rewrite_history(app: None, statement: str) -> None:
    refused(statement)


@pytest.mark.django_db
def test_each_table_with_the_triggers_is_registered_and_the_other_way_round() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE t.tgname = 'append_only_rows' AND NOT c.relispartition"
        )
        triggered = {name for (name,) in cursor.fetchall()}
    assert triggered == grants.append_only_tables()


@pytest.mark.django_db
def test_a_missing_role_is_named(settings: Settings) -> None:
    settings.GATEWAY_ROLE = "nobody_made_it"
    with pytest.raises(CommandError, match=r"no role 'nobody_made_it'.*STOA_GATEWAY_ROLE"):
        call_command("grant_roles")
