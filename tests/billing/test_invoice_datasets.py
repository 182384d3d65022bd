"""Invoices as auditors take them away."""

from datetime import timedelta
from decimal import Decimal

import pytest

from billing.invoices import crediting
from billing.invoices import datasets as invoice_datasets
from billing.models import Account
from tests.billing import invoices
from tests.billing.invoices import NEXT, served
from tests.billing.test_invoicing import AUSTRIAN, OPS, final

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("price_list")]


def test_what_auditors_take_away(account: Account) -> None:
    invoices.customer(account, invoices.entity(), **AUSTRIAN)
    served(account, seconds_=36_000)
    made = final(account)
    period = NEXT, NEXT + timedelta(days=60)
    (row,) = invoice_datasets.invoices(account.id, *period)
    told = dict(zip(invoice_datasets.INVOICES, row, strict=True))
    assert (told["net"], told["category"]) == (Decimal("1.20"), "AE")
    assert told["vies_consultation"] == "WAPIAAAA1" and told["pdf_sha256"] == made.pdf_sha256
    rows = list(invoice_datasets.lines(None, *period))
    assert [dict(zip(invoice_datasets.LINES, one, strict=True))["kind"] for one in rows] == [
        "usage", "egress",
    ]  # fmt: skip
    crediting.credit(made.id, "A gift", OPS, NEXT + timedelta(days=30))
    assert list(invoice_datasets.statement(None, *period)) == [
        ("2026-03", "ATU13585627", "INV-2026-000001", Decimal("1.20")),
        ("2026-05", "ATU13585627", "CRN-2026-000001", Decimal("-1.20")),
    ]
    assert list(invoice_datasets.invoices("acc_other", *period)) == []
