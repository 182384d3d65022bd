"""An invoice's rows as the document of EN 16931: parties, lines in words, VAT, payment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import cast

from billing.einvoice import document, rules
from billing.einvoice.document import Address, Category, Line, Party, Payment, Period, Preceding
from billing.invoices.drawing import EGRESS, FREE_CREDIT, plain
from billing.invoices.models import Collection
from billing.models import Customer, Entity
from billing.pricing import skus
from billing.pricing.charges import Charge
from billing.rating import WHOLE
from billing.sepa import reference
from billing.tenants import Names
from billing.vat.decision import Decision

_DONE = {"device_seconds": "serving", "warm_seconds": "kept warm", "asleep_seconds": "asleep"}
_TOKENS = {
    "input_tokens": "Input tokens",
    "cached_tokens": "Input tokens, cached",
    "output_tokens": "Output tokens",
}
_FIXED = {
    "allowance": "Free allowance",
    "commitment": "Up to the agreed monthly minimum",
    FREE_CREDIT: "Credit",
    "advance": "Payment on account for computing services",
}
_HOW = {
    "credit": "given back",
    "allowance": "free allowance",
    "tier": "volume discount",
    "adjustment": "adjustment",
}
GIGABYTE = "E34"


@dataclass(frozen=True)
class Heading:
    """What stands above and below the lines. `end` is the first moment after the period."""

    label: str
    issued: date
    due: date
    start: datetime
    end: datetime
    prepaid: int = 0  # cents
    preceding: tuple[Preceding, ...] = ()
    notes: tuple[str, ...] = ()


def build(
    entity: Entity,
    customer: Customer,
    charges: Sequence[Charge],
    decision: Decision,
    names: Names,
    heading: Heading,
) -> document.Invoice:
    """The document, its sums made. `decision` has been decided."""
    category = cast(Category, decision.category.value if decision.category else "")
    rate = decision.rate or Decimal(0)
    lines = [
        line(str(number), charge, category, rate, names) for number, charge in enumerate(charges, 1)
    ]
    prepaid = Decimal(heading.prepaid).scaleb(-2)
    reason = rules.Reason(" / ".join(note.text for note in decision.notes), decision.vatex)
    reasons: dict[Category, rules.Reason] = {} if category == "S" else {category: reason}
    groups, totals = rules.total(lines, (), prepaid, reasons)
    return document.Invoice(
        kind="invoice",
        number=heading.label,
        issued=heading.issued,
        due=heading.due,
        currency=entity.currency,
        supplier=supplier(entity),
        customer=buyer(customer, decision),
        period=period(heading.start, heading.end),
        lines=tuple(lines),
        allowances=(),
        vat=groups,
        totals=totals,
        payment=_payment(entity, customer, heading, totals.due),
        notes=(*heading.notes, "Periods are in Coordinated Universal Time (UTC)."),
        buyer_reference=customer.buyer_reference,
        preceding=heading.preceding,
    )


def supplier(entity: Entity) -> Party:
    return Party(
        name=entity.name,
        address=Address(entity.street, entity.city, entity.postcode, entity.country, entity.extra),
        vat_id=entity.vat_id,
        tax_number=entity.tax_number,
        registration=entity.registration,
        endpoint=entity.email,
        contact=entity.contact,
        phone=entity.phone,
        email=entity.email,
    )


def buyer(customer: Customer, decision: Decision) -> Party:
    """Outside the Union what it calls its VAT number is none of EN 16931's."""
    address = Address(
        customer.street, customer.city, customer.postcode, customer.country, customer.extra
    )
    outside = decision.category is not None and decision.category.value == "O"
    return Party(
        name=customer.legal_name,
        address=address,
        vat_id="" if outside else decision.customer_number,
        registration=customer.registration,
        endpoint=customer.electronic_address or customer.email,
        endpoint_scheme=customer.electronic_scheme or "EM",
        contact=customer.contact,
        email=customer.email,
    )


def line(number: str, charge: Charge, category: Category, rate: Decimal, names: Names) -> Line:
    """Sums of one price are one line: so many seconds at a price per hour, never per second."""
    return Line(
        id=number,
        name=title(charge),
        quantity=charge.quantity,
        unit=unit(charge),
        price=plain(charge.unit_amount),
        base_quantity=charge.unit_size,
        amount=charge.amount,
        category=category,
        rate=rate,
        period=period(charge.start, charge.end),
        sku=sku(charge),
        project=names.projects.get(charge.project_id, charge.project_id),
        endpoint=names.endpoints.get(charge.endpoint_id, charge.endpoint_id),
        description=charge.note,
    )


def title(charge: Charge) -> str:
    """What the line is of, for people."""
    how = _HOW.get(charge.kind, "")
    if charge.kind == EGRESS:
        return "Egress traffic"
    if charge.meter in _TOKENS:
        return ", ".join(filter(None, (_TOKENS[charge.meter], how)))
    if charge.meter in _DONE:
        share = "" if charge.share == WHOLE else f"{charge.share}/{WHOLE} of a device"
        kind = charge.device_kind.upper()
        return ", ".join(filter(None, (kind, share, _DONE[charge.meter], how)))
    if charge.kind == "adjustment":
        return "Adjustment"
    return _FIXED.get(charge.kind, charge.kind)


def sku(charge: Charge) -> str:
    """The stable name of what is sold; of what is no usage, its kind."""
    return skus.code(charge.meter, charge.device_kind) if charge.meter else charge.kind


def unit(charge: Charge) -> str:
    if charge.kind == EGRESS:
        return GIGABYTE
    return document.SECONDS if charge.meter in _DONE else document.PIECES


def period(start: datetime, end: datetime) -> Period:
    """First and last day, in UTC, of what ends just before `end`."""
    return Period(start.date(), max(start.date(), (end - timedelta(microseconds=1)).date()))


def ids(charges: Iterable[Charge]) -> tuple[set[str], set[str]]:
    """The projects and endpoints that lines name."""
    listed = list(charges)
    projects = {one.project_id for one in listed if one.project_id}
    return projects, {one.endpoint_id for one in listed if one.endpoint_id}


def _payment(entity: Entity, customer: Customer, heading: Heading, due: Decimal) -> Payment:
    if due <= 0:
        return Payment(terms="Nothing is to be paid.")
    quoted = reference.make(heading.label) if heading.label else ""
    by = f"{heading.due.day} {heading.due:%B %Y}"
    if customer.collection != Collection.TRANSFER or not entity.iban:
        return Payment(
            reference=quoted,
            terms=f"Payable by {by}; we collect it by the means of payment agreed.",
        )
    return Payment(
        iban=entity.iban,
        bic=entity.bic,
        account_name=entity.name,
        reference=quoted,
        terms=f"Payable by {by} without deduction.",
    )
