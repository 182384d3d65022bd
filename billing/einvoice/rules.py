"""What an invoice must say, and how its sums are made.

`missing` is Article 226 of Directive 2006/112/EC with Articles 219 and 230;
`missing_for_xrechnung` and `missing_for_peppol` are what those two ask on top. `total` makes the
sums and `discrepancies` checks them, by EN 16931's BR-CO-10 to 17.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import ROUND_HALF_UP, Context, Decimal

from stdnum import iban

from billing.einvoice.document import (
    CENT,
    Allowance,
    Category,
    Invoice,
    Line,
    Party,
    Totals,
    VatGroup,
)

ZERO = Decimal("0.00")
# Credit notes of parts share an invoice's tax by largest remainder; EN 16931's own Schematron
# allows for more (BR-S-09).
ROUNDED = Decimal("0.02")
TAXED: frozenset[Category] = frozenset({"S"})
# Enough for 53 bits of tokens at any price of 24 digits.
_WIDE = Context(prec=60, rounding=ROUND_HALF_UP)
# Not among XML 1.0's characters.
_UNSAYABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\ud800-\\udfff\\ufffe\\uffff]")


@dataclass(frozen=True)
class Missing:
    """A field that is not there, by its name in `document`, and what asks for it."""

    field: str
    source: str

    def __str__(self) -> str:
        return f"{self.field} ({self.source})"


@dataclass(frozen=True)
class Reason:
    """Why a category bears no VAT: text for people, VATEX code for machines."""

    text: str
    code: str = ""


class Incomplete(ValueError):
    """The document cannot be issued. `fields` names what is missing, `wrong` what does not fit."""

    def __init__(self, absent: list[Missing], wrong: list[str]) -> None:
        self.fields, self.wrong = absent, wrong
        parts = [f"{field} is missing" for field in absent] + wrong
        super().__init__("; ".join(parts))


def cents(value: Decimal) -> Decimal:
    """Two places, half away from zero, and no negative zero."""
    return _WIDE.plus(value.quantize(CENT, ROUND_HALF_UP, _WIDE))


def line_amount(quantity: int, price: Decimal, base_quantity: int) -> Decimal:
    """quantity x price / base quantity, rounded once."""
    return cents(_WIDE.divide(_WIDE.multiply(Decimal(quantity), price), Decimal(base_quantity)))


def total(
    lines: Iterable[Line],
    allowances: Iterable[Allowance] = (),
    prepaid: Decimal = ZERO,
    reasons: Mapping[Category, Reason] | None = None,
) -> tuple[tuple[VatGroup, ...], Totals]:
    """The VAT breakdown, taxed groups first, and the totals of a document."""
    lines, allowances, reasons = tuple(lines), tuple(allowances), reasons or {}
    taxable: dict[tuple[Category, Decimal], Decimal] = {}
    for line in lines:
        key = (line.category, line.rate)
        taxable[key] = taxable.get(key, ZERO) + line.amount
    for allowance in allowances:
        key = (allowance.category, allowance.rate)
        taxable[key] = taxable.get(key, ZERO) - allowance.amount
    groups = []
    for (category, rate), base in sorted(taxable.items(), key=_order):
        reason = reasons.get(category, Reason(""))
        tax = _tax(base, rate)
        groups.append(VatGroup(category, rate, base, tax, reason.text, reason.code))
    summed = sum((line.amount for line in lines), ZERO)
    allowed = sum((allowance.amount for allowance in allowances), ZERO)
    vat = sum((group.tax for group in groups), ZERO)
    net = summed - allowed
    return tuple(groups), Totals(summed, allowed, net, vat, net + vat, prepaid, net + vat - prepaid)


def _order(item: tuple[tuple[Category, Decimal], Decimal]) -> tuple[bool, Decimal, str]:
    (category, rate), _ = item
    return category not in TAXED, -rate, category


def _tax(base: Decimal, rate: Decimal) -> Decimal:
    return cents(_WIDE.divide(_WIDE.multiply(base, rate), Decimal(100)))


def check(document: Invoice) -> None:
    """Raises Incomplete unless the document may be issued."""
    absent, wrong = missing(document), discrepancies(document)
    if absent or wrong:
        raise Incomplete(absent, wrong)


def missing(document: Invoice) -> list[Missing]:
    """What Article 226 asks for and the document lacks, each field by its name."""
    categories = {line.category for line in document.lines}
    wanted: list[tuple[str, object, str]] = [
        ("issued", document.issued, "Art. 226(1)"),
        ("number", document.number, "Art. 226(2)"),
        ("supplier.vat_id", document.supplier.vat_id, "Art. 226(3)"),
        *_named(document.supplier, "supplier"),
        *_named(document.customer, "customer"),
        ("lines", document.lines, "Art. 226(6)"),
        ("period", document.period, "Art. 226(7)"),
        ("vat", document.vat, "Art. 226(8) to (10)"),
        ("currency", document.currency, "Art. 230"),
    ]
    if "AE" in categories:
        wanted.append(("customer.vat_id", document.customer.vat_id, "Art. 226(4)"))
    for index, line in enumerate(document.lines):
        wanted.append((f"lines[{index}].name", line.name, "Art. 226(6)"))
        wanted.append((f"lines[{index}].id", line.id, "EN 16931 BR-21"))
    for index, group in enumerate(document.vat):
        if group.category not in TAXED and group.category != "Z":
            article = "Art. 226(11a)" if group.category == "AE" else "Art. 226(11)"
            wanted.append((f"vat[{index}].reason", group.reason or group.code, article))
    for index, allowance in enumerate(document.allowances):
        wanted.append((f"allowances[{index}].reason", allowance.reason, "Art. 226(8)"))
    if document.kind == "credit_note":
        wanted.append(("preceding", document.preceding, "Art. 219"))
        wanted.append(("reason", document.reason, "Art. 219"))
    elif document.totals.due > 0:
        wanted.append(("due", document.due or document.payment.terms, "EN 16931 BR-CO-25"))
    return [Missing(field, source) for field, value, source in wanted if not _said(value)]


def _named(party: Party, role: str) -> list[tuple[str, object, str]]:
    where = party.address
    return [
        (f"{role}.name", party.name, "Art. 226(5)"),
        (f"{role}.address.street", where.street, "Art. 226(5)"),
        (f"{role}.address.city", where.city, "Art. 226(5)"),
        (f"{role}.address.country", where.country, "Art. 226(5)"),
    ]


def _said(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def missing_for_xrechnung(document: Invoice) -> list[Missing]:
    """What XRechnung 3.0 asks on top: buyer's reference, contact, electronic addresses."""
    supplier, customer, payment = document.supplier, document.customer, document.payment
    wanted = [
        ("buyer_reference", document.buyer_reference, "BR-DE-15"),
        ("supplier.contact", supplier.contact, "BR-DE-5"),
        ("supplier.phone", supplier.phone, "BR-DE-6"),
        ("supplier.email", supplier.email, "BR-DE-7"),
        ("supplier.address.postcode", supplier.address.postcode, "BR-DE-4"),
        ("customer.address.postcode", customer.address.postcode, "BR-DE-9"),
        ("supplier.endpoint", supplier.endpoint, "PEPPOL-EN16931-R020"),
        ("customer.endpoint", customer.endpoint, "PEPPOL-EN16931-R010"),
    ]
    if document.totals.due > 0:
        wanted.append(("payment.iban", payment.iban or payment.mandate, "BR-DE-1"))
    return [Missing(field, source) for field, value, source in wanted if not _said(value)]


def missing_for_peppol(document: Invoice) -> list[Missing]:
    """What Peppol BIS 3 asks: a reference, and addresses in its network, where e-mail is none."""
    reference = document.buyer_reference or document.order_reference
    wanted = [("buyer_reference", reference, "PEPPOL-EN16931-R003")]
    for role, party, rule in (
        ("supplier", document.supplier, "PEPPOL-EN16931-R020"),
        ("customer", document.customer, "PEPPOL-EN16931-R010"),
    ):
        wanted.append((f"{role}.endpoint", party.endpoint, rule))
        scheme = "" if party.endpoint_scheme == "EM" else party.endpoint_scheme
        wanted.append((f"{role}.endpoint_scheme", scheme, "PEPPOL-EN16931-CL008"))
    return [Missing(field, source) for field, value, source in wanted if not _said(value)]


def discrepancies(document: Invoice) -> list[str]:
    """What contradicts itself: a sum, a rate, a category, a date. Empty when all is well."""
    return [
        *_wrong_lines(document),
        *_wrong_sums(document),
        *_wrong_terms(document),
        *_wrong_codes(document),
        *_wrong_letters(document),
    ]


def _wrong_lines(document: Invoice) -> list[str]:
    wrong = []
    seen: set[str] = set()
    for line in document.lines:
        right = line_amount(line.quantity, line.price, line.base_quantity)
        if line.amount != right:
            wrong.append(f"line {line.id} is {right}, not {line.amount}")
        if line.id in seen:
            wrong.append(f"line id {line.id} is there twice")
        seen.add(line.id)
        if line.period and line.period.start > line.period.end:
            wrong.append(f"line {line.id} ends before it starts (BR-30)")
    return wrong


def _wrong_sums(document: Invoice) -> list[str]:
    reasons = {group.category: Reason(group.reason, group.code) for group in document.vat}
    groups, totals = total(document.lines, document.allowances, document.totals.prepaid, reasons)
    if document.kind == "credit_note" and len(groups) == len(document.vat) == 1:
        groups, totals = _shared(groups[0], document.vat[0].tax, totals)
    wrong = []
    if sorted(document.vat, key=_by_rate) != sorted(groups, key=_by_rate):
        wrong.append("the VAT breakdown is not that of the lines and allowances (BR-CO-17, 18)")
    rules = {"lines": 10, "allowances": 11, "net": 13, "vat": 14, "gross": 15, "due": 16}
    for field, rule in rules.items():
        right, said = getattr(totals, field), getattr(document.totals, field)
        if right != said:
            wrong.append(f"totals.{field} is {right}, not {said} (BR-CO-{rule})")
    return wrong


def _shared(group: VatGroup, tax: Decimal, totals: Totals) -> tuple[tuple[VatGroup, ...], Totals]:
    """The sums with the tax that a credit note's part was given, where that is near its own."""
    if group.category not in TAXED or abs(tax - group.tax) > ROUNDED:
        return (group,), totals
    gross = totals.net + tax
    summed = replace(totals, vat=tax, gross=gross, due=gross - totals.prepaid)
    return (replace(group, tax=tax),), summed


def _by_rate(group: VatGroup) -> tuple[str, Decimal]:
    return group.category, group.rate


def _wrong_terms(document: Invoice) -> list[str]:
    wrong = []
    categories = {group.category for group in document.vat}
    for group in document.vat:
        if (group.category in TAXED) != (group.rate > 0):
            wrong.append(f"category {group.category} does not go with a rate of {group.rate}")
        if (group.reason or group.code) and (group.category in TAXED or group.category == "Z"):
            wrong.append(f"category {group.category} has no exemption reason")
    if "O" in categories and len(categories) > 1:
        wrong.append("what is outside the scope of VAT stands on an invoice of its own (BR-O-11)")
    if document.totals.gross < 0 or document.totals.prepaid < 0:
        wrong.append("a document's total and what is prepaid are not negative: credit instead")
    if document.period and document.period.start > document.period.end:
        wrong.append("the period ends before it starts (BR-29)")
    if document.due and document.issued and document.due < document.issued:
        wrong.append("it is due before it is issued")
    national = document.national_vat
    if national and national.currency == document.currency:
        wrong.append("national_vat repeats the invoice's own currency (BR-53)")
    return wrong


def _wrong_codes(document: Invoice) -> list[str]:
    """Codes by their shape; whether a VAT number is valid is asked of its country, elsewhere."""
    payment, supplier, customer = document.payment, document.supplier, document.customer
    shapes = [
        ("currency", document.currency, "[A-Z]{3}", "ISO 4217"),
        ("supplier.address.country", supplier.address.country, "[A-Z]{2}", "ISO 3166-1"),
        ("customer.address.country", customer.address.country, "[A-Z]{2}", "ISO 3166-1"),
        ("supplier.vat_id", supplier.vat_id, "[A-Z]{2}[0-9A-Z+*]+", "BR-CO-09"),
        ("customer.vat_id", customer.vat_id, "[A-Z]{2}[0-9A-Z+*]+", "BR-CO-09"),
    ]
    shapes += [
        (f"lines[{index}].unit", line.unit, "[A-Z0-9]{2,3}", "UN/ECE Rec. 20")
        for index, line in enumerate(document.lines)
    ]
    wrong = [
        f"{field} {value!r} does not look like one ({source})"
        for field, value, shape, source in shapes
        if value and not re.fullmatch(shape, value)
    ]
    for field, number in (("iban", payment.iban), ("debtor_iban", payment.debtor_iban)):
        if number and not iban.is_valid(number):
            wrong.append(f"payment.{field} {number!r} is no IBAN (ISO 13616)")
    return wrong


def _wrong_letters(document: Invoice) -> list[str]:
    return [
        f"{field} has a control character, which XML cannot say"
        for field, text in _texts(document, "")
        if _UNSAYABLE.search(text)
    ]


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _texts(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
