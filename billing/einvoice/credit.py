"""Taking an invoice back. An issued document is never edited: another one undoes it."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from billing.einvoice.document import Invoice, Preceding

NOTHING = Decimal("0.00")


def whole(document: Invoice, number: str, issued: date, reason: str) -> Invoice:
    """The credit note that nets an issued invoice to zero, its VAT included.

    What had been paid in advance is credited with the rest. Raises ValueError for a draft or for
    a credit note.
    """
    if document.kind != "invoice" or not document.number or not document.issued:
        raise ValueError("only an issued invoice can be credited")
    return replace(
        document,
        kind="credit_note",
        number=number,
        issued=issued,
        due=None,
        totals=replace(document.totals, prepaid=NOTHING, due=document.totals.gross),
        preceding=(Preceding(document.number, document.issued),),
        reason=reason,
    )
