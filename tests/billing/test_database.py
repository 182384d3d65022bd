"""The database itself holds the invariants: each is attacked here with raw SQL, as superuser."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from billing import rating
from billing.books import ledger
from billing.meters import usage
from billing.models import Account, LedgerTransaction, Meter
from compliance import grants, partitions
from tests.billing.events import NOW, publish, seconds

Sql = Callable[..., list[tuple[Any, ...]]]

PRICE = (
    "INSERT INTO billing_price (id, meter, device_kind, currency, amount, valid_from, created_at)"
    " VALUES (%s, %s, '', %s, %s, now(), now())"
)
USAGE = (
    "INSERT INTO billing_usageevent VALUES (%s, now(), 'acc', 'prj', '', 'ep', '', '', 'eu-de-1',"
    " 'cpu', %s, %s, %s, '[]')"
)
TABLES = (
    "billing_usageevent",
    "billing_price",
    "billing_ledgeraccount",
    "billing_ledgertransaction",
    "billing_ledgerentry",
)


@pytest.fixture
def posted(account: Account) -> LedgerTransaction:
    """One row in every append-only table."""
    publish("1", NOW)
    usage.record([seconds(account)])
    return ledger.post(
        idempotency_key="invoice:1",
        kind="invoice",
        effective_at=NOW,
        entries=[ledger.Entry("receivable", 100), ledger.Entry("revenue", -100)],
    )


@pytest.mark.parametrize("meter", ["egress", "EGRESS", "network_bytes", "", "device_seconds "])
def test_only_known_meters_can_have_a_price_or_usage(sql: Sql, meter: str) -> None:
    with pytest.raises(DatabaseError, match="price_never_egress"):
        sql(PRICE, "prc_1", meter, "EUR", "0.05")
    with pytest.raises(DatabaseError, match="usageevent_never_egress"):
        sql(USAGE, "x", meter, "charge", 1)
    for known in Meter.values:
        sql(PRICE, f"prc_{known}", known, "EUR", "0.05")
        sql(USAGE, known, known, "credit", 1)


def test_what_has_a_meter_can_be_rated() -> None:
    assert set(Meter.values) == set(rating.UNITS_PER_PRICE)


@pytest.mark.parametrize("amount", ["-0.000000000001", "NaN", "1000000", "Infinity"])
def test_a_price_is_a_number_in_bounds(sql: Sql, amount: str) -> None:
    with pytest.raises(DatabaseError):
        sql(PRICE, "prc_1", "device_seconds", "EUR", amount)


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "€"])
def test_a_price_has_a_currency(sql: Sql, currency: str) -> None:
    with pytest.raises(DatabaseError):
        sql(PRICE, "prc_1", "device_seconds", currency, "1")


@pytest.mark.parametrize(
    ("id", "basis", "quantity"), [("", "charge", 1), ("x", "gift", 1), ("x", "charge", 0)]
)
def test_usage_is_named_positive_and_of_a_known_basis(
    sql: Sql, id: str, basis: str, quantity: int
) -> None:
    with pytest.raises(DatabaseError, match="usageevent"):
        sql(USAGE, id, "device_seconds", basis, quantity)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("mode", ["origin", "replica"])
def test_rows_are_only_added(sql: Sql, posted: LedgerTransaction, table: str, mode: str) -> None:
    sql(f"SET LOCAL session_replication_role = {mode}")
    for attack in (
        f"UPDATE {table} SET id = id",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
    ):
        with pytest.raises(DatabaseError, match="is refused"):
            sql(attack)


def test_a_partition_of_usage_is_no_way_around(sql: Sql, posted: LedgerTransaction) -> None:
    for attack in (
        "TRUNCATE billing_usageevent_2026_03",
        "DELETE FROM billing_usageevent_2026_03",
        "UPDATE billing_usageevent_2026_03 SET quantity = 1",
    ):
        with pytest.raises(DatabaseError, match="is refused"):
            sql(attack)


def test_usage_lies_in_the_partition_of_its_month_in_utc(sql: Sql, account: Account) -> None:
    last = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    first = datetime(2027, 1, 1, tzinfo=UTC)
    usage.record([seconds(account, last, id="a"), seconds(account, first, id="b")])
    rows = sql("SELECT id, tableoid::regclass::text FROM billing_usageevent ORDER BY id")
    assert rows == [("a", "billing_usageevent_2026_12"), ("b", "billing_usageevent_2027_01")]


def test_the_app_role_can_add_and_read_and_nothing_else(sql: Sql, account: Account) -> None:
    sql("DO $$ BEGIN CREATE ROLE stoa_app_b; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    sql("DO $$ BEGIN CREATE ROLE stoa_gw_b; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    grants.apply("stoa_app_b", "stoa_gw_b")
    sql("SET LOCAL ROLE stoa_app_b")
    far = datetime(2031, 5, 1, tzinfo=UTC)
    assert usage.record([seconds(account, far)]) == 1
    entries = [ledger.Entry("a", 1), ledger.Entry("b", -1)]
    made = ledger.post(idempotency_key="k", kind="t", effective_at=NOW, entries=entries)
    sql("SET CONSTRAINTS ALL IMMEDIATE")
    assert ledger.post(idempotency_key="k", kind="t", effective_at=NOW, entries=entries) == made
    for table in TABLES:
        for attack in (f"DELETE FROM {table}", f"UPDATE {table} SET id = ''", f"TRUNCATE {table}"):
            with pytest.raises(DatabaseError, match="permission denied"):
                sql(attack)
        with pytest.raises(DatabaseError, match="must be owner"):
            sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    sql("RESET ROLE")


def entry(transaction_id: str, code: str, amount: int) -> tuple[str, list[str | int | None]]:
    return (
        "INSERT INTO billing_ledgerentry (id, transaction_id, account_id, amount)"
        " SELECT %s, %s, id, %s FROM billing_ledgeraccount WHERE code = %s",
        [f"len_{code}_{amount}", transaction_id, amount, code],
    )


def open_transaction(id: str, reverses: str | None = None) -> tuple[str, list[str | int | None]]:
    return (
        "INSERT INTO billing_ledgertransaction"
        " (id, idempotency_key, kind, effective_at, posted_at, xid, reverses_id)"
        " VALUES (%s, %s, 'raw', now(), now() - interval '1 day', 1, %s)",
        [id, id, reverses],
    )


def run(*statements: tuple[str, list[str | int | None]]) -> None:
    """All in one database transaction, as a writer past every Python check would."""
    with transaction.atomic(), connection.cursor() as cursor:
        for statement, arguments in statements:
            cursor.execute(statement, arguments)


@pytest.fixture
def ledger_accounts(transactional_db: None) -> None:
    ledger.post(
        idempotency_key="old",
        kind="old",
        effective_at=NOW,
        entries=[
            ledger.Entry("cents", 5),
            ledger.Entry("other cents", -5),
            ledger.Entry("nano", 7, scale=9),
            ledger.Entry("other nano", -7, scale=9),
            ledger.Entry("dollars", 3, currency="USD"),
            ledger.Entry("other dollars", -3, currency="USD"),
        ],
    )


@pytest.mark.parametrize(
    "entries",
    [
        [("cents", 100)],
        [("cents", 100), ("other cents", -99)],
        [("cents", 100), ("nano", -100)],
        [("cents", 100), ("dollars", -100)],
        [],
    ],
)
def test_what_does_not_balance_cannot_commit(
    ledger_accounts: None, entries: list[tuple[str, int]]
) -> None:
    with pytest.raises(DatabaseError, match=r"does not balance|has no two sides"):
        run(open_transaction("ltx_raw"), *(entry("ltx_raw", *sides) for sides in entries))
    run(
        open_transaction("ltx_raw"),
        entry("ltx_raw", "cents", 1),
        entry("ltx_raw", "other cents", -1),
    )


def test_a_late_addition_fails_even_if_it_balances(ledger_accounts: None) -> None:
    old = LedgerTransaction.objects.get(idempotency_key="old")
    with pytest.raises(DatabaseError, match="is sealed"):
        run(entry(old.id, "cents", 9), entry(old.id, "other cents", -9))
    with pytest.raises(DatabaseError, match="is sealed"):
        run(entry("ltx_nobody", "cents", 9), entry("ltx_nobody", "other cents", -9))
    assert old.entries.count() == 6


def test_the_seal_is_the_whole_transaction_id_and_its_start(ledger_accounts: None) -> None:
    """A caller's own xid and posted_at do not count; the low 32 bits alone would not do."""
    run(open_transaction("ltx_1"), entry("ltx_1", "cents", 1), entry("ltx_1", "other cents", -1))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT xid, posted_at > now() - interval '1 hour' FROM billing_ledgertransaction"
            " WHERE id = 'ltx_1'"
        )
        xid, fresh = cursor.fetchone()
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        (newest,) = cursor.fetchone()
    assert fresh
    assert newest - 100 < xid < newest


def test_entries_may_come_from_a_savepoint_of_the_same_transaction(ledger_accounts: None) -> None:
    with transaction.atomic():
        run(open_transaction("ltx_2"))
        run(entry("ltx_2", "cents", 1))
        run(entry("ltx_2", "other cents", -1))
    assert ledger.balance("cents") == Decimal("0.06")


def test_a_reversal_mirrors_and_happens_once(ledger_accounts: None) -> None:
    run(open_transaction("ltx_3"), entry("ltx_3", "cents", 4), entry("ltx_3", "other cents", -4))
    half = [entry("ltx_4", "cents", -2), entry("ltx_4", "other cents", 2)]
    whole = [entry("ltx_4", "cents", -4), entry("ltx_4", "other cents", 4)]
    with pytest.raises(DatabaseError, match="no mirror"):
        run(open_transaction("ltx_4", "ltx_3"), *half)
    run(open_transaction("ltx_4", "ltx_3"), *whole)
    with pytest.raises(DatabaseError, match="reverses_id"):
        run(open_transaction("ltx_5", "ltx_3"))


def test_a_ledger_account_keeps_its_currency_and_scale(ledger_accounts: None) -> None:
    for change in ("scale = 9", "currency = 'USD'", "code = 'mine'"):
        with pytest.raises(DatabaseError, match="is refused"):
            run((f"UPDATE billing_ledgeraccount SET {change} WHERE code = 'cents'", []))
    with pytest.raises(DatabaseError, match="ledgeraccount_scale"):
        run(("INSERT INTO billing_ledgeraccount VALUES ('l', 'c', 'EUR', 10)", []))


def test_partitions_made_later_are_guarded_too(sql: Sql) -> None:
    partitions.ensure("billing_usageevent", datetime(2040, 1, 1, tzinfo=UTC), months_ahead=0)
    with pytest.raises(DatabaseError, match="is refused"):
        sql("TRUNCATE billing_usageevent_2040_01")
