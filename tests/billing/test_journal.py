"""The journal of a month: JSON lines and DATEV's CSV come to what the ledger has."""

import csv
import json
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO, StringIO
from pathlib import Path

import pytest
import rfc8785
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from billing import errors
from billing.books import chart, closing, datev, journal, ledger
from billing.books.datev import Setting
from billing.invoices import invoicing
from billing.models import Account, LedgerEntry
from billing.payments import receipts
from compliance import audit
from compliance.bundles import kinds
from tests.billing import invoices
from tests.billing.events import MONTH, NOW
from tests.billing.invoices import END, NEXT, served
from tests.billing.test_invoicing import GERMAN, OPS

APRIL_ENDS = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def books(account: Account, price_list: None, monkeypatch: pytest.MonkeyPatch) -> Account:
    """Two months with usage, an invoice, a payment that leaves credit, and a correction."""
    monkeypatch.setattr("billing.einvoice.validate.schematron", lambda xml: [])
    entity = invoices.entity()
    invoices.customer(account, entity, **GERMAN)
    served(account, seconds_=100_001)
    drafted = invoicing.draft(account.id, MONTH, NEXT)
    assert drafted is not None
    invoicing.finalise(drafted.id, OPS, NEXT)
    served(account, END, 777, id="april")
    paid = receipts.receive(
        key="k", entity_id=entity.id, account_id=account.id, amount=500, currency="EUR",
        method="transfer", received_at=NOW, now=NEXT, actor=OPS,
    )  # fmt: skip
    receipts.give_back(
        key="r", payment_id=paid.id, amount=100, reason="refund", now=NEXT, actor=OPS, fee=3
    )
    wrong = ledger.post(
        idempotency_key="m", kind="manual", effective_at=NOW,
        entries=chart.cents([("bank:ent_1", 7), ("unmatched:ent_1", -7)]),
    )  # fmt: skip
    ledger.reverse(wrong, actor=OPS, effective_at=NEXT, now=NEXT)
    return account


def columns(content: bytes) -> list[list[str]]:
    return list(csv.reader(StringIO(content.decode(datev.ENCODING)), delimiter=";"))


def sums(content: bytes) -> Counter[str]:
    """By account number, in cents: what somebody books who reads the file."""
    found: Counter[str] = Counter()
    _, names, *rows = columns(content)
    for row in rows:
        one = dict(zip(names, row, strict=True))
        cents = int(one["Umsatz (ohne Soll/Haben-Kz)"].replace(",", ""))
        sign = {"S": 1, "H": -1}[one["Soll/Haben-Kennzeichen"]]
        found[one["Konto"]] += sign * cents
        found[one["Gegenkonto (ohne BU-Schlüssel)"]] -= sign * cents
    return found


def test_both_forms_come_to_the_ledger(books: Account, tmp_path: Path) -> None:
    by_account: Counter[str] = Counter()
    for month in ("2026-03", "2026-04"):
        file = tmp_path / f"{month}.jsonl"
        call_command("billing", "journal", month, str(file), stdout=StringIO())
        for line in file.read_bytes().splitlines():
            one = json.loads(line)
            assert rfc8785.dumps(one) == line
            balance: Counter[tuple[str, int]] = Counter()
            for side in one["entries"]:
                units, scale = int(side["units"]), side["scale"]
                assert Decimal(side["amount"]) == Decimal(units).scaleb(-scale)
                balance[side["currency"], scale] += units
                by_account[side["account"]] += Decimal(side["amount"])  # type: ignore[assignment]
            assert set(balance.values()) == {0}
    told = {code: Decimal(text) for code, text in closing.recomputed(APRIL_ENDS).items()}
    assert {code: amount for code, amount in by_account.items() if amount} == told
    assert len(told) > 8
    flat = list(journal.rows(audit.PLATFORM, MONTH, APRIL_ENDS))
    assert len(flat) == LedgerEntry.objects.count()
    assert all(len(row) == len(journal.COLUMNS) for row in flat)
    assert list(journal.rows("org_1", MONTH, APRIL_ENDS)) == []
    assert "ledger_journal" in {
        one.name for one in kinds.kinds["records"].chosen(kinds.ORGANIZATION)
    }

    kept = Setting()
    exact: Counter[str] = Counter()
    for code, amount in told.items():
        exact[kept.number(code)] += amount * 100  # type: ignore[assignment]
    csvs = [datev.write(day, NEXT) for day in (date(2026, 3, 1), date(2026, 4, 1))]
    found = sums(csvs[0])
    found.update(sums(csvs[1]))
    assert sum(found.values()) == 0
    for number in {*found, *exact}:
        assert abs(found[number] - exact[number]) < 1, number
    # What is kept in cents is there to the cent.
    for code in (chart.receivable(books.id), chart.prepaid(books.id), "vat:DE:19"):
        assert found[kept.number(code)] == exact[kept.number(code)]


def test_the_file_is_as_datev_describes_it(books: Account, tmp_path: Path) -> None:
    said = StringIO()
    numbers = ("--set", "bank=1800", "--consultant", "29098", "--client", "55003")
    call_command("billing", "datev-accounts", *numbers, stdout=said)
    assert "bank                     1800\n" in said.getvalue()
    call_command("billing", "datev-accounts", "--set", "fees=6855", stdout=said)
    file = tmp_path / "EXTF.csv"
    call_command("billing", "journal", "2026-03", str(file), "--datev", stdout=said)
    assert "not tried with DATEV's software" in said.getvalue()
    content = file.read_bytes()
    assert content.endswith(b"\r\n") and b"\n" not in content.replace(b"\r\n", b"")
    head, names, *rows = columns(content)
    assert head[:5] == ["EXTF", "700", "21", "Buchungsstapel", "13"] and len(head) == 31
    assert (head[10:16], head[21], head[26]) == (
        ["29098", "55003", "20260101", "4", "20260301", "20260331"], "EUR", "03",
    )  # fmt: skip
    assert tuple(names) == datev.COLUMNS and all(len(row) == len(names) for row in rows)
    assert {row[6] for row in rows} | {row[7] for row in rows} <= {
        *datev.PROPOSED.values(), "1800",
    }  # fmt: skip
    assert {row[9][2:] for row in rows} == {"03"}
    with pytest.raises(CommandError, match="no account of ours"):
        call_command("billing", "datev-accounts", "--set", "=1", stdout=said)
    with pytest.raises(CommandError, match="consultant"):
        call_command("billing", "datev-accounts", "--consultant", "7", stdout=said)
    ledger.post(
        idempotency_key="odd", kind="t", effective_at=NOW,
        entries=chart.cents([("odd:1", 1), ("bank:ent_1", -1)]),
    )  # fmt: skip
    with pytest.raises(errors.BooksRefused, match="odd:1 has no account number"):
        datev.write(date(2026, 3, 1), NEXT)
    journal.write(whole := BytesIO(), MONTH, END)
    assert b'"account":"odd:1"' in whole.getvalue()


@given(st.lists(st.integers(-(10**12), 10**12), max_size=12))
def test_rounded_balances_come_to_zero(units: list[int]) -> None:
    sides = {f"{number}": amount for number, amount in enumerate([*units, -sum(units)])}
    cents = datev.rounded(sides)
    assert sum(cents.values()) == 0
    for code, amount in sides.items():
        assert abs(cents[code] * chart.NANO_PER_CENT - amount) < chart.NANO_PER_CENT
    moved = list(datev.pairs(cents, date(2026, 3, 31), "x", "x"))
    for code, amount in cents.items():
        booked = sum(one.cents for one in moved if one.debit == code)
        assert booked - sum(one.cents for one in moved if one.credit == code) == amount
    assert all(one.cents > 0 for one in moved)
