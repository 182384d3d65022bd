"""What the database holds about invoices: each law is attacked with raw SQL, as superuser."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DatabaseError, connection, connections, transaction

from billing import services
from billing.invoices import numbering
from billing.models import Account, Entity, Invoice, NumberSeries
from tests.billing import invoices
from tests.billing.events import MONTH

Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def entity(db: None) -> Entity:
    return invoices.entity()


@pytest.fixture
def final(sql: Sql, account: Account, entity: Entity) -> Invoice:
    made = invoices.freeze(invoices.draft(account, entity))
    sql("SELECT 1")  # checks what was deferred
    return made


@pytest.mark.parametrize("mode", ["origin", "replica"])
@pytest.mark.parametrize(
    "change",
    [
        "net = 1, gross = 191, due = 191",
        "number = 7",
        "label = 'INV-2026-000009'",
        "pdf_sha256 = 'x'",
        'decision = \'{"category": "AE"}\'',
        "due_on = '2030-01-01'",
        "account_id = 'acc_other'",
        "state = 'draft'",
        "state = 'draft', number = NULL, final_at = NULL",
    ],
)
def test_what_is_final_stays(sql: Sql, final: Invoice, change: str, mode: str) -> None:
    sql(f"SET LOCAL session_replication_role = {mode}")
    with pytest.raises(DatabaseError, match="is refused"):
        sql(f"UPDATE billing_invoice SET {change}")


@pytest.mark.parametrize("table", ["invoice", "invoiceline", "invoicefile", "numberseries"])
def test_nothing_of_it_goes_away(sql: Sql, final: Invoice, table: str) -> None:
    for attack in (f"DELETE FROM billing_{table}", f"TRUNCATE billing_{table} CASCADE"):
        with pytest.raises(DatabaseError, match="is refused"):
            sql(attack)


def test_its_lines_and_files_stay(sql: Sql, final: Invoice) -> None:
    copied = (
        "INSERT INTO billing_invoiceline (invoice_id, position, kind, project_id, project_name,"
        " endpoint_id, endpoint_name, meter, device_kind, share, price_id, unit_amount, unit_size,"
        ' quantity, exact, amount, start, "end", note)'
        " SELECT invoice_id, 9, kind, project_id, project_name, endpoint_id, endpoint_name, meter,"
        " device_kind, share, price_id, unit_amount, unit_size, quantity, exact, amount, start,"
        ' "end", note FROM billing_invoiceline LIMIT 1'
    )
    for attack in (
        "UPDATE billing_invoiceline SET amount = 1",
        "UPDATE billing_invoicefile SET content = 'x', sha256 = encode(sha256('x'), 'hex')",
        "UPDATE billing_invoicefile SET keep_until = '2020-01-01'",
        copied,
    ):
        with pytest.raises(DatabaseError, match="is refused"):
            sql(attack)


def test_a_settled_part_moves_and_no_more(sql: Sql, final: Invoice) -> None:
    sql("UPDATE billing_invoice SET settled = 500")
    sql("UPDATE billing_invoice SET settled = due, state = 'paid', paid_at = now()")
    sql("UPDATE billing_invoice SET settled = 0, state = 'final', paid_at = NULL")
    sql("UPDATE billing_invoice SET state = 'written_off'")
    for wrong, law in (
        ("settled = due + 1", "invoice_not_negative"),
        ("settled = -1", "invoice_not_negative"),
        ("state = 'paid', settled = due - 1", "invoice_paid_whole"),
    ):
        with pytest.raises(DatabaseError, match=law):
            sql(f"UPDATE billing_invoice SET {wrong}")
    sql("UPDATE billing_invoice SET state = 'credited'")
    with pytest.raises(DatabaseError, match="is refused"):
        sql("UPDATE billing_invoice SET state = 'final'")


def test_an_invoice_begins_as_a_draft_and_needs_its_files(
    sql: Sql, account: Account, entity: Entity
) -> None:
    made = invoices.draft(account, entity)
    numbered = (
        "UPDATE billing_invoice SET state = 'final', number = %s, year = 2026, issued_on ="
        " '2026-04-01', label = 'x', final_at = now(), json_sha256 = 'a', xml_sha256 = 'b',"
        " pdf_sha256 = 'c'"
    )
    with pytest.raises(DatabaseError, match="not the number that was drawn"):
        sql(numbered, 1)
    with pytest.raises(DatabaseError, match="its files are not there"), transaction.atomic():
        sql(numbered, numbering.draw(entity.id, "INV", 2026))
    with pytest.raises(DatabaseError, match="or becomes final"):
        sql("UPDATE billing_invoice SET state = 'paid'")
    with pytest.raises(DatabaseError, match="begins as a draft"), transaction.atomic():
        Invoice.objects.create(
            account=account, entity=entity, state="final", kind="invoice", series="INV",
            period_start=MONTH, period_end=invoices.END, currency="EUR", drafted_at=MONTH,
        )  # fmt: skip
    sql("DELETE FROM billing_invoiceline")
    sql("DELETE FROM billing_invoice")
    assert not Invoice.objects.filter(pk=made.pk).exists()


def test_lines_add_up_to_the_net_amount(account: Account, entity: Entity) -> None:
    made = invoices.draft(account, entity)
    made.net, made.gross, made.due = 999, 1189, 1189
    with pytest.raises(DatabaseError, match="its lines are not"), transaction.atomic():
        invoices.freeze(made)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def test_egress_costs_nothing(sql: Sql, account: Account, entity: Entity) -> None:
    invoices.draft(account, entity, net=0, vat=0, gross=0, due=0)
    for wrong in ("amount", "unit_amount"):
        with pytest.raises(DatabaseError, match="egress_free"):
            sql(
                "INSERT INTO billing_invoiceline SELECT id + 100, 50, kind, project_id,"
                " project_name, endpoint_id, endpoint_name, meter, device_kind, share, price_id,"
                f" {'1' if wrong == 'unit_amount' else '0'}, unit_size, quantity, exact,"
                f" {'1' if wrong == 'amount' else '0'},"
                " start, \"end\", note, invoice_id FROM billing_invoiceline WHERE kind = 'egress'"
            )


def test_a_file_is_what_its_hash_says_and_stays_until_its_day(sql: Sql, final: Invoice) -> None:
    added = (
        "INSERT INTO billing_invoicefile (invoice_id, form, content, sha256, keep_until,"
        " created_at) VALUES (%s, 'ubl', 'abc', %s, '2020-12-31', '2010-01-01')"
    )
    with pytest.raises(DatabaseError, match="invoicefile_hash"):
        sql(added, final.id, "ab")
    sql(added, final.id, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(DatabaseError, match="it is kept until 2036-12-31"):
        sql("DELETE FROM billing_invoicefile")
    sql("DELETE FROM billing_invoicefile WHERE keep_until < '2021-01-01'")


def test_a_series_counts_by_ones_and_for_invoices(sql: Sql, entity: Entity) -> None:
    with pytest.raises(DatabaseError, match="drawn for nothing"), transaction.atomic():
        numbering.draw(entity.id, "INV", 2026)
        sql("SELECT 1")
    NumberSeries.objects.create(entity=entity, series="INV", year=2026)
    for attack in ("last = 5", "last = -1", "last = 1, year = 2027", "last = 0"):
        with pytest.raises(DatabaseError, match="counts from 1"):
            sql(f"UPDATE billing_numberseries SET {attack}")
    with pytest.raises(DatabaseError, match="counts from 1"), transaction.atomic():
        NumberSeries.objects.create(entity=entity, series="INV", year=2027, last=3)


@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_and_a_fifth_rolled_back_leave_no_hole() -> None:
    entity = invoices.entity()
    accounts = [services.open_account(name=f"a{n}", now=MONTH) for n in range(50)]
    drafts = [invoices.draft(account, entity) for account in accounts]
    doomed = set(random.Random(7).sample(range(50), 10))

    def finalise(index: int) -> None:
        try:
            with transaction.atomic():
                invoices.freeze(Invoice.objects.get(pk=drafts[index].pk))
                if index in doomed:
                    raise InterruptedError
        except InterruptedError:
            pass
        finally:
            connections.close_all()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(finalise, range(50)))
    numbers = Invoice.objects.filter(state="final").values_list("number", flat=True)
    assert sorted(filter(None, numbers)) == list(range(1, 41))
    assert Invoice.objects.filter(state="draft", number=None).count() == len(doomed)
