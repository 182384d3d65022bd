"""The pages of credit, and the operator's of the bank account."""

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from billing.books import reconciliation
from billing.credit import vouchers
from billing.models import BankEntry, CollectionFile
from compliance import audit
from tests.api.house import House, signed_in, user
from tests.api.test_books import close
from tests.billing import invoices
from tests.billing.sepa.bank import Movement, document
from tests.billing.sepa.bank import Payment as Paid
from tests.billing.test_receipts import bill

CREDIT, BANK = "/billing/credit", "/billing/bank"


def test_a_voucher_is_used_on_the_page(alice: House) -> None:
    client = signed_in(alice.owner)
    _, code = vouchers.create(2500, actor=audit.SYSTEM, now=timezone.now(), note="welcome")
    place = {"organization": alice.organization.id}
    wrong = client.post(CREDIT, {**place, "code": "AAAAA"})
    assert (wrong.status_code, "gives no credit" in wrong.content.decode()) == (422, True)
    assert client.post(CREDIT, {**place, "code": code}).status_code == 302
    page = client.get(CREDIT).content.decode()
    assert "€25.00" in page and "welcome" in page


def test_the_operator_books_a_statement_decides_and_sees_differences(
    alice: House, operator: Client
) -> None:
    owed = bill(alice.organization.account, invoices.entity(), 1000)
    moved = [Movement("10.00", [Paid("10.00", owed.label)], "B1"), Movement("-4.90", [], "B2")]
    for content, status in ((b"<x/>", 422), (document(moved), 302)):
        given = SimpleUploadedFile("camt.xml", content)
        assert operator.post(BANK, {"file": given}).status_code == status
    entry = BankEntry.objects.exclude(rest=0).get()
    decide = f"{BANK}/{entry.id}"
    assert "exactly one" in operator.post(decide, {}, follow=True).content.decode()
    assert "It is decided" in operator.post(decide, {"what": "fee"}, follow=True).content.decode()
    assert (
        "0 debits are in 0 files" in operator.post(f"{BANK}/collect", follow=True).content.decode()
    )
    owed.refresh_from_db()
    assert owed.state == "paid"
    type(owed).objects.filter(pk=owed.pk).update(settled=5, state="final")
    reconciliation.run(timezone.now())
    page = operator.get(BANK).content.decode()
    assert f"receivable:{owed.account_id} stands at 0.00" in page
    assert owed.label in page  # overdue
    file = CollectionFile.objects.create(
        entity=owed.entity,
        message="DD-1",
        content=b"<Document/>",
        sha256="x",
        debits=1,
        amount=5,
        created_at=timezone.now(),
        created_by="usr_1",
    )
    answer = operator.get(f"{BANK}/files/{file.id}")
    assert (answer.content, answer["Content-Type"]) == (b"<Document/>", "application/xml")


def test_two_operators_open_books_again_on_the_page(operator: Client) -> None:
    close()
    path, other = "/billing/books/2026-03/reopen", signed_in(user("two@example.eu", operator=True))
    assert "Ask to open 2026-03" in operator.get(BANK).content.decode()
    unsure = operator.post(path, {"reason": "late"}, follow=True).content.decode()
    assert "tick that you are sure" in unsure
    said = operator.post(path, {"reason": "a late bill", "sure": "on"}, follow=True)
    assert "another operator agrees" in said.content.decode()
    # It was asked by the house's clock; the page shows it for a day.
    assert "Another operator must agree" in operator.get(BANK).content.decode()
    page = other.get(BANK).content.decode()
    assert "a late bill" in page and "Open 2026-03 again" in page
    done = other.post(path, {"agree": "yes", "sure": "on"}, follow=True).content.decode()
    assert "2026-03 are open again" in done and "Closed books" not in done
    lines = operator.get("/billing/books/2026-03/journal.jsonl")
    assert b"".join(lines.streaming_content).count(b"\n") == 1  # type: ignore[attr-defined]
    assert operator.get("/billing/books/2026-03/journal.datev").content.startswith(b'"EXTF"')
    assert operator.get("/billing/books/2026-03/journal.xml").status_code == 404
