"""`stoa billing`: a bank alone from the command line."""

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from billing.models import Account, BankEntry, DebitMandate, Invoice, Voucher
from tests.billing import invoices
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.test_receipts import bill

pytestmark = pytest.mark.django_db


def stoa(*words: str) -> str:
    call_command("billing", *words, stdout=(out := StringIO()))
    return out.getvalue()


def test_statements_decisions_debits_and_books(account: Account, tmp_path: Path) -> None:
    owed = bill(account, invoices.entity(creditor_id="DE98ZZZ09999999999"), 1000)
    late = stoa("overdue")
    assert owed.label in late and "10.00" in late
    moved = [
        Movement("10.00", [Paid("10.00", owed.label)], "B1"),
        Movement("3.00", [Paid("3.00", "thanks")], "B2"),
        Movement("-4.90", [], "B3"),
    ]
    file = tmp_path / "camt.xml"
    file.write_bytes(document(moved))
    said = stoa("import-statement", str(file))
    assert "3 movements booked, 0 known, 2 to decide" in said
    assert "0 movements booked, 3 known" in stoa("import-statement", str(file))
    assert Invoice.objects.get(pk=owed.pk).state == "paid"
    lines = stoa("undecided").splitlines()
    assert len(lines) == 2 and "thanks" in lines[0]
    came, fee = BankEntry.objects.exclude(rest=0).order_by("-rest")
    assert stoa("decide", came.id, "--account", account.id) == f"{came.id}: assigned\n"
    assert stoa("decide", fee.id, "--as", "fee") == f"{fee.id}: fee\n"
    with pytest.raises(CommandError, match="decided"):
        stoa("decide", fee.id, "--as", "fee")
    mandate = ("mandate", account.id, "M-1", "2026-01-02", "Ada", "DE89370400440532013000")
    assert stoa(*mandate).endswith(": M-1\n")
    assert DebitMandate.objects.get().signed_on.isoformat() == "2026-01-02"
    assert stoa("collect", str(tmp_path)) == ""
    assert '"receivables": 1' in stoa("reconcile")
    assert "2026-01 is closed" in stoa("close-books", "2026-01")
    assert "an operator agrees" in stoa("reopen-books", "2026-01", "--ask", "a late bill")
    with pytest.raises(CommandError, match="second_person"):
        stoa("reopen-books", "2026-01", "--agree")
    Invoice.objects.filter(pk=owed.pk).update(settled=5, state="final")
    with pytest.raises(CommandError, match="differences"):
        stoa("reconcile")
    with pytest.raises(CommandError, match="differences"):
        stoa("close-books", "2026-02")
    file.write_bytes(b"<x/>")
    with pytest.raises(CommandError):
        stoa("import-statement", str(file))


def test_a_voucher_shows_its_code_once() -> None:
    assert "-" in stoa("voucher", "25.00", "--valid-days", "30")
    assert Voucher.objects.get().amount == 2500
    for bad in ("0.001", "x", "0"):
        with pytest.raises(CommandError):
            stoa("voucher", bad)
