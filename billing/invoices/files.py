"""What exports carry of invoices as files: each frozen form, and what computes them again.

Of one account, or (None) of all; of invoices that became final at start <= t < end.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from django.db.models.functions import Length

from billing.invoices import bundle, evidence
from billing.invoices.datasets import Row, issued
from billing.invoices.models import Form, InvoiceKind
from billing.models import Invoice, InvoiceFile

File = tuple[str, Path]  # its path in the bundle, and where it lies
FILES = ("invoice", "number", "form", "path", "bytes", "sha256", "keep_until")
_ENDINGS = {
    Form.JSON: "json",
    Form.CII: "xml",
    Form.PDF: "pdf",
    Form.UBL: "ubl.xml",
    Form.DECISION: "vat-decision.json",
}


def rows(account_id: str | None, start: datetime, end: datetime) -> Iterator[Row]:
    """The forms that are kept, by invoice; what was destroyed in time is not among them."""
    found = InvoiceFile.objects.filter(invoice__in=issued(account_id, start, end).order_by())
    found = found.select_related("invoice").defer("content").annotate(size=Length("content"))
    for one in found.order_by("invoice__final_at", "invoice_id", "form").iterator(chunk_size=500):
        yield (
            *(one.invoice_id, one.invoice.label, one.form),
            "" if one.vault_key_id else _path(one.invoice, one.form),
            *(one.size, one.sha256, f"{one.keep_until}"),
        )


def forms(account_id: str | None, start: datetime, end: datetime, folder: Path) -> Iterator[File]:
    """documents/invoices/NUMBER_ID.json, .xml, .pdf …: the very bytes that were frozen. What is in
    the vault is not among them."""
    found = InvoiceFile.objects.filter(invoice__in=issued(account_id, start, end).order_by())
    found = found.filter(vault_key_id="")
    found = found.select_related("invoice").order_by("invoice__final_at", "invoice_id", "form")
    for one in found.iterator(chunk_size=20):
        path = _path(one.invoice, one.form)
        source = folder / path.replace("/", "-")
        source.write_bytes(bytes(one.content))
        yield path, source


def recomputable(
    account_id: str | None, start: datetime, end: datetime, folder: Path, *, people: bool
) -> Iterator[File]:
    """documents/recompute/NUMBER_ID.zip for `stoa billing recompute --export`.

    Without `people` neither the document is in it nor who asked. Raises signing.SignerAway.
    """
    found = issued(account_id, start, end).filter(kind=InvoiceKind.INVOICE)
    for one in found.iterator(chunk_size=100):
        path = f"documents/recompute/{_named(one)}.zip"
        source = folder / path.replace("/", "-")
        with source.open("wb") as file:
            made = evidence.Stored(one) if people else evidence.Undisclosed(one)
            bundle.write(made, file, evidence.signature(one))
        yield path, source


def _path(invoice: Invoice, form: str) -> str:
    return f"documents/invoices/{_named(invoice)}.{_ENDINGS[Form(form)]}"


def _named(invoice: Invoice) -> str:
    """Numbers are an entity's own, so the id is there, too."""
    return f"{invoice.label}_{invoice.id}"
