"""What both syntaxes say the same way: codes, plain numbers, what category O leaves out."""

from decimal import Decimal

from billing.einvoice.document import Invoice, Line, Party

INVOICE, CREDIT_NOTE = "380", "381"  # UNCL 1001
CREDIT_TRANSFER, DIRECT_DEBIT, UNDEFINED = "58", "59", "1"  # UNCL 4461


def plain(number: Decimal) -> str:
    """Digits and a point, never an exponent."""
    return format(number, "f")


def type_code(document: Invoice) -> str:
    return CREDIT_NOTE if document.kind == "credit_note" else INVOICE


def means_code(document: Invoice) -> str:
    """How it is paid. "Instrument not defined" where nothing is to be transferred or debited."""
    if document.payment.mandate:
        return DIRECT_DEBIT
    return CREDIT_TRANSFER if document.payment.iban else UNDEFINED


def outside_scope(document: Invoice) -> bool:
    return any(group.category == "O" for group in document.vat)


def vat_id(document: Invoice, party: Party) -> str:
    """Empty outside the scope of VAT: BR-O-02 to 04 forbid the structured field there."""
    return "" if outside_scope(document) else party.vat_id


def notes(document: Invoice) -> list[str]:
    """The document's notes and what has no structured field in its case."""
    said = list(document.notes)
    if document.reason:
        said.append(f"Reason for this credit note: {document.reason}")
    if outside_scope(document):
        # Article 226(3) asks for the number all the same.
        said.append(f"Supplier's VAT identification number: {document.supplier.vat_id}")
    national = document.national_vat
    if national:
        said.append(
            f"VAT in {national.currency}: {national.vat} at {plain(national.exchange_rate)} "
            f"{national.currency} for 1 {document.currency} ({national.source}, {national.on})"
        )
    return said


def attributes(line: Line) -> list[tuple[str, str]]:
    """Where it was used (BG-32)."""
    named = [("Project", line.project), ("Endpoint", line.endpoint)]
    return [(name, value) for name, value in named if value]
