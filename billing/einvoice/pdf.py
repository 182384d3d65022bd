"""The document as a page that people read: every figure of the XML, and nothing else."""

from collections.abc import Sequence
from itertools import groupby

from billing.einvoice import terms, wording
from billing.einvoice.document import Invoice, Line, Party
from billing.einvoice.rules import ZERO
from billing.einvoice.wording import money, number
from compliance.sheet import (
    GREY,
    LEFT,
    RULE,
    TOP,
    WIDTH,
    Column,
    Sheet,
    Table,
    Text,
    must_be_settable,
)

CATEGORIES = {
    "S": "Taxed",
    "AE": "Reverse charge",
    "O": "Outside the scope of VAT",
    "E": "Exempt",
    "Z": "Zero rate",
}
LONGEST = 400
HALF = LEFT + WIDTH - 82


def draw(document: Invoice) -> Sheet:
    """To be closed by the caller.

    Raises sheet.Unsettable where a party's name has letters that the font lacks.
    """
    _names(document)
    sheet = Sheet(_footer(document.supplier), f"{title(document)} {document.number}")
    try:
        for part in (_letterhead, _lines, _totals, _vat, _payment, _notes):
            part(sheet, document)
    except BaseException:
        sheet.close()
        raise
    return sheet


def _names(document: Invoice) -> None:
    for party in (document.supplier, document.customer):
        for words in (party.name, party.address.street, party.address.city):
            must_be_settable(words)


def title(document: Invoice) -> str:
    return "Credit note" if document.kind == "credit_note" else "Invoice"


def _footer(supplier: Party) -> list[str]:
    where = supplier.address
    place = f"{where.street}, {where.postcode} {where.city}, {wording.country(where.country)}"
    numbers = [
        f"{name} {value}"
        for name, value in (
            ("VAT ID", supplier.vat_id),
            ("Tax number", supplier.tax_number),
            ("Register", supplier.registration),
        )
        if value
    ]
    reach = [value for value in (supplier.email, supplier.phone) if value]
    return [
        line
        for line in (f"{supplier.name} · {place}", " · ".join(numbers), " · ".join(reach))
        if line
    ]


def _letterhead(sheet: Sheet, document: Invoice) -> None:
    supplier = document.supplier
    sheet.set_y(TOP)
    sheet.put(Text(supplier.name, 13, "B"), LEFT, WIDTH - 60)
    sheet.set_y(TOP)
    sheet.put(Text(title(document), 19, "B"), LEFT, WIDTH, "R")
    # The address stands in the window of a DIN 5008 envelope.
    sheet.set_y(45)
    where = supplier.address
    sender = f"{supplier.name} · {where.street} · {where.postcode} {where.city}"
    sheet.put(Text(sender, 6.5, grey=GREY), LEFT, 80)
    sheet.set_y(50)
    for words in _address(document.customer):
        sheet.put(Text(words, 10), LEFT, 80)
    below = sheet.get_y()
    sheet.set_y(45)
    for name, value in _facts(document):
        y = sheet.get_y()
        sheet.put(Text(name, 8.5, grey=GREY), HALF, 32)
        after = sheet.get_y()
        sheet.set_y(y)
        sheet.put(Text(value, 8.5, "B" if name == "Number" else ""), HALF + 32, 50)
        sheet.set_y(max(after, sheet.get_y()) + 0.5)
    sheet.set_y(max(below, sheet.get_y(), 80) + 8)


def _address(party: Party) -> list[str]:
    where = party.address
    lines = (party.name, where.street, where.extra, f"{where.postcode} {where.city}".strip())
    return [line for line in (*lines, wording.country(where.country)) if line]


def _facts(document: Invoice) -> list[tuple[str, str]]:
    customer = document.customer
    facts = [
        ("Number", document.number),
        ("Date of issue", wording.day(document.issued)),
        ("Supply period", wording.period(document.period) if document.period else ""),
        ("Due date", wording.day(document.due)),
        ("Your VAT ID", customer.vat_id),
        ("Your register", customer.registration),
        ("Your reference", document.buyer_reference),
        ("Your order", document.order_reference),
        ("Contract", document.contract_reference),
    ]
    settles = "Corrects invoice" if document.kind == "credit_note" else "Settles advance"
    for earlier in document.preceding:
        facts.append((settles, f"{earlier.number} of {wording.day(earlier.issued)}"))
    return [(name, value) for name, value in facts if value]


def _place(line: Line) -> str:
    parts = (_short(line.project), _short(line.endpoint))
    return " · ".join(part for part in parts if part) or "All projects"


def _short(words: str) -> str:
    """A row stays in one piece, so its words are few. The XML has them all."""
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}\u2026"


def _lines(sheet: Sheet, document: Invoice) -> None:
    table = Table(
        sheet,
        (
            Column("Description", 70),
            Column("Quantity", 32, "R"),
            Column(f"Unit price {document.currency}", 30, "R"),
            Column("VAT", 14, "R"),
            Column(f"Amount {document.currency}", 24, "R"),
        ),
    )
    table.head()
    # By project and endpoint, each in the order in which the document has them.
    order = {place: index for index, place in reversed([*enumerate(map(_place, document.lines))])}
    ordered = sorted(document.lines, key=lambda line: order[_place(line)])
    for place, lines in groupby(ordered, _place):
        rows = list(lines)
        subtotal = sum((line.amount for line in rows), ZERO)
        table.band(place, number(subtotal), keep=14)
        for line in rows:
            table.row(_row(document, line))


def _row(document: Invoice, line: Line) -> Sequence[Sequence[Text]]:
    words = [Text(_short(line.name))]
    if line.period and line.period != document.period:
        words.append(Text(wording.period(line.period), 7, grey=GREY))
    if line.description:
        words.append(Text(_short(line.description), 7, grey=GREY))
    code = " · ".join(part for part in (line.id, _short(line.sku)) if part)
    words.append(Text(f"Line {code}", 7, grey=GREY))
    vat = "\u2013" if line.category == "O" else wording.rate(line.rate)
    return (
        words,
        [Text(wording.quantity(line)), Text(wording.clock(line), 7, grey=GREY)],
        [Text(number(line.price)), Text(wording.base(line), 7, grey=GREY)],
        [Text(vat)],
        [Text(number(line.amount))],
    )


def _totals(sheet: Sheet, document: Invoice) -> None:
    totals, currency = document.totals, document.currency
    rows = [("Sum of lines", totals.lines)]
    rows += [(allowance.reason, -allowance.amount) for allowance in document.allowances]
    rows.append(("Total without VAT", totals.net))
    for group in document.vat:
        if group.category == "S":
            rows.append((f"VAT {wording.rate(group.rate)} on {number(group.taxable)}", group.tax))
        else:
            name = CATEGORIES[group.category]
            rows.append((f"VAT: {name[0].lower()}{name[1:]}", group.tax))
    rows.append(("Total with VAT", totals.gross))
    if totals.prepaid:
        rows.append(("Paid in advance", -totals.prepaid))
    last = "Amount credited" if document.kind == "credit_note" else "Amount due"
    sheet.need(6 * (len(rows) + 1) + 6)
    sheet.set_y(sheet.get_y() + 4)
    for name, value in rows:
        _sum(sheet, Text(name, 8.5), Text(number(value), 8.5))
    y = sheet.get_y() + 0.8
    sheet.set_draw_color(GREY)
    sheet.set_line_width(0.35)
    sheet.line(HALF, y, LEFT + WIDTH, y)
    sheet.set_y(y + 1.4)
    _sum(sheet, Text(last, 11, "B"), Text(money(totals.due, currency), 11, "B"))


def _sum(sheet: Sheet, name: Text, value: Text) -> None:
    y = sheet.get_y()
    sheet.put(name, HALF, 56)
    after = sheet.get_y()
    sheet.set_y(y)
    sheet.put(value, HALF + 40, 42, "R")
    sheet.set_y(max(after, sheet.get_y()) + 0.4)


def _vat(sheet: Sheet, document: Invoice) -> None:
    currency = document.currency
    sheet.need(12 + 9 * len(document.vat))
    sheet.set_y(sheet.get_y() + 6)
    table = Table(
        sheet,
        (
            Column("VAT summary", 82),
            Column("Rate", 18, "R"),
            Column(f"Taxable {currency}", 35, "R"),
            Column(f"VAT {currency}", 35, "R"),
        ),
    )
    table.head()
    for group in document.vat:
        why = [Text(f"{CATEGORIES[group.category]} ({group.category})")]
        if group.reason:
            why.append(Text(group.reason, 8.5, "B"))
        if group.code:
            why.append(Text(group.code, 7, grey=GREY))
        rate = "" if group.category == "O" else wording.rate(group.rate)
        sums = [[Text(number(group.taxable))], [Text(number(group.tax))]]
        table.row((why, [Text(rate)], *sums))


def _payment(sheet: Sheet, document: Invoice) -> None:
    payment, due = document.payment, document.totals.due
    if document.kind == "credit_note" or due <= 0:
        rows = [("", payment.terms)] if document.kind == "invoice" and payment.terms else []
    elif payment.mandate:
        rows = [
            ("SEPA direct debit", f"mandate {payment.mandate}, creditor {payment.creditor_id}"),
            ("From your account", wording.iban(payment.debtor_iban)),
        ]
    else:
        rows = [
            ("Transfer to", payment.account_name or document.supplier.name),
            ("IBAN", wording.iban(payment.iban)),
            ("BIC", payment.bic),
        ]
    if due > 0 and document.kind == "invoice":
        rows += [
            ("Reference", payment.reference),
            ("Amount", money(due, document.currency)),
            ("Due date", wording.day(document.due)),
            ("Terms", payment.terms),
        ]
    _box(sheet, "Payment", [row for row in rows if row[1]])


def _box(sheet: Sheet, head: str, rows: Sequence[tuple[str, str]]) -> None:
    if not rows:
        return
    sheet.need(14 + 5.5 * len(rows))
    sheet.set_y(sheet.get_y() + 7)
    top = sheet.get_y()
    sheet.set_y(top + 2)
    sheet.put(Text(head, 9, "B"), LEFT + 3, 60)
    sheet.set_y(sheet.get_y() + 0.8)
    for name, value in rows:
        y = sheet.get_y()
        sheet.put(Text(name, 8.5, grey=GREY), LEFT + 3, 36)
        sheet.set_y(y)
        bold = name in ("IBAN", "Reference", "Amount")
        sheet.put(Text(value, 8.5, "B" if bold else ""), LEFT + 40, WIDTH - 44)
        sheet.set_y(sheet.get_y() + 0.4)
    sheet.set_draw_color(RULE)
    sheet.set_line_width(0.2)
    sheet.rect(LEFT, top, WIDTH, sheet.get_y() - top + 2)
    sheet.set_y(sheet.get_y() + 2)


def _notes(sheet: Sheet, document: Invoice) -> None:
    said = terms.notes(document)
    if not said:
        return
    sheet.need(14)
    sheet.set_y(sheet.get_y() + 6)
    sheet.put(Text("Notes", 9, "B"), LEFT, WIDTH)
    for words in said:
        sheet.set_y(sheet.get_y() + 1)
        sheet.flow(Text(words, 8.5))
