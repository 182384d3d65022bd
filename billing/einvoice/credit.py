"""Taking an invoice back. An issued document is never edited: another one undoes it."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from billing.einvoice.document import Invoice, Preceding, Totals

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


def part(note: Invoice, net: Decimal, vat: Decimal) -> Invoice:
    """A credit note of the `whole`, cut down to a part: `vat` is its share of the invoice's.

    All parts together come to the invoice to the cent, so the tax of one may be a cent or two
    from its own net amount's (`rules.ROUNDED`). Raises ValueError for a document of several lines
    that cost something: nobody could say of which.
    """
    charged = [line for line in note.lines if line.amount]
    if len(charged) != 1 or len(note.vat) != 1 or note.allowances:
        raise ValueError("a part is credited of a document with one line and one rate")
    lines = tuple(
        replace(line, quantity=1, base_quantity=1, price=net, amount=net) if line.amount else line
        for line in note.lines
    )
    gross = net + vat
    return replace(
        note,
        lines=lines,
        vat=(replace(note.vat[0], taxable=net, tax=vat),),
        totals=Totals(net, NOTHING, net, vat, gross, NOTHING, gross),
    )
