"""A month end with a bank that others wrote: our debits in, its statements out, all matched."""

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
from mockbank.server import Config, make_server

from billing.sepa.camt053 import read
from billing.sepa.mandates import Mandate
from billing.sepa.matching import Debit, Invoice, Outcome, match
from billing.sepa.pain008 import Collection, Creditor, write
from billing.sepa.reference import make
from billing.sepa.statements import Entry, StatementRefused

OURS = "NL41MOCK0000000001"
PAYER = "FR1420041010050500013M02606"
MONDAY = date(2026, 11, 30)


@pytest.fixture
def bank() -> Iterator[httpx.Client]:
    """A bank of its own, at nine on Thursday 26 November 2026."""
    server = make_server(Config(port=0, quiet=True, clock="2026-11-26T09:00"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_address[1]}") as http:
            yield http
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(bank: httpx.Client, path: str, **more: Any) -> Any:
    answer = bank.post(path, **more)
    assert answer.is_success, answer.text
    return answer


def statements(bank: httpx.Client) -> list[bytes]:
    messages = bank.get("/_mock/messages", params={"type": "camt.053"}).json()
    return [each["body"].encode() for each in messages if each["account"] == "ACME"]


def invoice(number: int, total: str) -> Invoice:
    name = f"DE-2026-{number:06}"
    return Invoice(f"inv{number}", name, make(name), "cus_1", Decimal(total))


INVOICES = [invoice(n, total) for n, total in enumerate(("119.00", "50.00", "80.00", "7.14"), 1)]


def collect(invoices: list[Invoice]) -> bytes:
    creditor = Creditor("Rechenwerk GmbH", OURS, "DE98ZZZ09999999999")
    debits = [
        Collection(
            Mandate(f"M-{each.id}", date(2026, 10, 1), "Calcul SA", PAYER),
            each.total,
            MONDAY,
            date(2026, 11, 12),
            f"DD-{each.id}",
            each.reference,
        )
        for each in invoices
    ]
    return write("MSG-1", datetime(2026, 11, 26, 9, tzinfo=UTC), creditor, debits)


def test_a_month_end_by_a_bank_alone(bank: httpx.Client) -> None:
    by_debit, by_transfer = INVOICES[:2], INVOICES[2:]
    file = collect(by_debit)
    assert "0 findings" in ask(bank, "/_mock/validate", content=file).text
    assert ask(bank, "/payments", content=file).json()["accepted"] == 2
    payer = {"name": "Calcul SA", "iban": PAYER}
    for amount, words in (
        (8000, {"note": f"Rechnung {by_transfer[0].number}"}),
        (700, {"reference": by_transfer[1].reference}),
    ):
        credit = {"account": "ACME", "amount": amount, "debtor": payer, **words}
        ask(bank, "/_mock/credits", json=credit)
    ask(bank, "/_mock/advance?to=2026-11-30")
    ask(bank, f"/_mock/collections/DD-{by_debit[1].id}/refuse", json={"reason": "AC04"})
    ask(bank, "/_mock/advance?to=2026-12-02")

    found = [read(each)[0] for each in statements(bank)]
    # Each day's statement goes on where the last one ended.
    assert [each.opening for each in found[1:]] == [each.closing for each in found[:-1]]
    entries: list[Entry] = [entry for each in found for entry in each.entries]
    debits = [Debit(f"DD-{each.id}", each.id, each.total) for each in by_debit]
    matches = match(entries, INVOICES, debits)
    assert [each.outcome for each in matches] == [
        Outcome.EXACT,
        Outcome.PARTIAL,
        Outcome.EXACT,
        Outcome.EXACT,
        Outcome.RETURNED,
    ]
    assert not any(each.rest for each in matches)
    paid = {each.id: Decimal(0) for each in INVOICES}
    for each in matches:
        for part in each.allocations:
            paid[part.invoice] += part.amount
    assert list(paid.values()) == [Decimal(x) for x in ("119.00", "0.00", "80.00", "7.00")]
    assert "AC04" in matches[-1].because
    # The same files again book nothing.
    again = match(entries, INVOICES, debits, seen=[each.key for each in entries])
    assert {each.outcome for each in again} == {Outcome.DUPLICATE}


def test_a_statement_with_a_hole_in_it_is_not_believed(bank: httpx.Client) -> None:
    changed = bank.patch("/_mock/accounts/ACME", json={"behaviour": "statement-gap"})
    assert changed.is_success, changed.text
    ask(bank, "/payments", content=collect(INVOICES[:2]))
    ask(bank, "/_mock/advance?to=2026-12-02")
    refusals = []
    for each in statements(bank):
        try:
            read(each)
        except StatementRefused as refused:
            refusals.append(refused.code)
    assert refusals == ["balance_mismatch"]
