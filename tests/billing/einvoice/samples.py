"""Complete documents of each kind, as a GPU cloud in Berlin would issue them."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

from billing.einvoice import credit, rules
from billing.einvoice.document import (
    PIECES,
    SECONDS,
    Address,
    Allowance,
    Category,
    Invoice,
    Line,
    NationalVat,
    Party,
    Payment,
    Period,
    Preceding,
)
from billing.einvoice.rules import Reason

NOVEMBER = Period(date(2026, 11, 1), date(2026, 11, 30))
SUPPLIER = Party(
    name="Stoa Rechenwerk GmbH",
    address=Address("Köpenicker Straße 40", "Berlin", "10179", "DE"),
    vat_id="DE129273398",
    tax_number="37/123/45678",
    registration="HRB 123456 B",
    endpoint="billing@stoa.example",
    contact="Billing",
    phone="+49 30 1234567",
    email="billing@stoa.example",
)
GERMAN = Party(
    name="Müller & Söhne Maschinenbau GmbH",
    address=Address("Lange Straße 12", "Köln", "50667", "DE"),
    vat_id="DE136695976",
    endpoint="rechnung@mueller.example",
)
POLISH = Party(
    name="Żółw Łączność Spółka z o.o.",
    address=Address("ul. Świętokrzyska 3", "Łódź", "90-001", "PL"),
    vat_id="PL5260001246",
    endpoint="faktury@zolw.example",
)
SWISS = Party(
    name="Bärtschi Robotik AG",
    address=Address("Bahnhofstrasse 7", "Zürich", "8001", "CH"),
    endpoint="kreditoren@baertschi.example",
)
PAYMENT = Payment(
    iban="DE02120300000000202051",
    bic="BYLADEM1001",
    account_name="Stoa Rechenwerk GmbH",
    reference="RF18539007547034",
    terms="Payable within 14 days without deduction.",
)
REASONS: dict[Category, Reason] = {
    "AE": Reason("Reverse charge / Steuerschuldnerschaft des Leistungsempfängers", "VATEX-EU-AE"),
    "E": Reason("Exempt: small enterprise (Article 284)"),
    "O": Reason("Not subject to VAT: place of supply outside the EU (Article 44)", "VATEX-EU-O"),
}


def hours(
    number: int, seconds: int, price: str, rate: str = "19", category: Category = "S", **more: str
) -> Line:
    price_per_hour = Decimal(price)
    fields = {"project": "Turbine vision", "endpoint": "llama-70b-prod", "sku": "h100-serving"}
    return Line(
        id=str(number),
        name=more.pop("name", "NVIDIA H100, serving"),
        quantity=seconds,
        unit=SECONDS,
        price=price_per_hour,
        base_quantity=3600,
        amount=rules.line_amount(seconds, price_per_hour, 3600),
        category=category,
        rate=Decimal(rate),
        period=NOVEMBER,
        **(fields | more),
    )


def tokens(number: int, count: int, price: str, rate: str = "19", category: Category = "S") -> Line:
    per_million = Decimal(price)
    return Line(
        id=str(number),
        name="Output tokens, mistral-small",
        quantity=count,
        unit=PIECES,
        price=per_million,
        base_quantity=1_000_000,
        amount=rules.line_amount(count, per_million, 1_000_000),
        category=category,
        rate=Decimal(rate),
        period=NOVEMBER,
        sku="mistral-small-output",
        project="Shared endpoints",
        endpoint="mistral-small",
    )


def egress(number: int, rate: str = "19", category: Category = "S") -> Line:
    """What every invoice says: traffic is not charged for."""
    return Line(
        id=str(number),
        name="Egress traffic",
        quantity=0,
        unit="E34",  # gigabyte
        price=Decimal("0.00"),
        base_quantity=1,
        amount=rules.ZERO,
        category=category,
        rate=Decimal(rate),
        period=NOVEMBER,
        sku="egress",
        description="Traffic is not charged for, whatever its volume.",
    )


def invoice(
    *lines: Line,
    allowances: tuple[Allowance, ...] = (),
    prepaid: str = "0.00",
    customer: Party = GERMAN,
) -> Invoice:
    vat, totals = rules.total(lines, allowances, Decimal(prepaid), REASONS)
    return Invoice(
        kind="invoice",
        number="2026-000117",
        issued=date(2026, 12, 1),
        due=date(2026, 12, 15),
        currency="EUR",
        supplier=SUPPLIER,
        customer=customer,
        period=NOVEMBER,
        lines=lines,
        allowances=allowances,
        vat=vat,
        totals=totals,
        payment=PAYMENT,
        buyer_reference="04011000-12345-03",
        order_reference="PO-7781",
    )


def two_rates() -> Invoice:
    return invoice(
        hours(1, 8 * 30 * 86400, "2.49"),
        hours(2, 86399, "0.249", name="NVIDIA H100, asleep", sku="h100-asleep"),
        tokens(3, 123_456_789, "0.60", rate="7"),
        egress(4),
    )


def reverse_charge() -> Invoice:
    return invoice(hours(1, 123_457, "2.49", "0", "AE"), egress(2, "0", "AE"), customer=POLISH)


def outside_scope() -> Invoice:
    return invoice(hours(1, 7201, "3.10", "0", "O"), egress(2, "0", "O"), customer=SWISS)


def with_allowance() -> Invoice:
    commitment = Allowance(Decimal("500.00"), "Commitment discount", "S", Decimal("19"))
    return invoice(hours(1, 2_592_000, "2.49"), egress(2), allowances=(commitment,))


def prepaid() -> Invoice:
    return replace(
        invoice(hours(1, 2_592_000, "2.49"), egress(2), prepaid="1000.00"),
        preceding=(
            Preceding("2026-000090", date(2026, 10, 30)),
            Preceding("2026-000098", date(2026, 11, 12)),
        ),
    )


def credit_note() -> Invoice:
    return replace(
        invoice(hours(1, 5400, "2.49"), egress(2)),
        kind="credit_note",
        number="2026-C000003",
        due=None,
        preceding=(Preceding("2026-000117", date(2026, 12, 1)),),
        reason="Platform fault on 14 November 2026, 01:12 to 02:42",
    )


def credited_in_part() -> Invoice:
    """Its share of the VAT is as far from its own net amount's as a share can be."""
    whole = replace(credit_note(), reason="The payment on account was given back in part")
    return credit.part(whole, Decimal("28.01"), Decimal("5.34"))


def paid_in_full() -> Invoice:
    """Nothing is to be transferred: everything was paid from the prepaid balance."""
    lines = (hours(1, 3600, "100"), egress(2))
    return replace(invoice(*lines, prepaid="119.00"), payment=Payment(), due=None)


def exempt() -> Invoice:
    return invoice(hours(1, 3600, "2.49", "0", "E"), egress(2, "0", "E"))


def in_peppol(document: Invoice) -> Invoice:
    """The same with addresses in Peppol's network: 9930 is a German VAT number, 0088 a GLN."""
    return replace(
        document,
        supplier=replace(document.supplier, endpoint="DE129273398", endpoint_scheme="9930"),
        customer=replace(document.customer, endpoint="7300010000001", endpoint_scheme="0088"),
    )


def foreign_currency() -> Invoice:
    """In Swiss francs, with the VAT in euros beside it (Article 230)."""
    document = replace(with_allowance(), currency="CHF")
    euros = rules.cents(document.totals.vat / Decimal("0.9345"))
    rate = NationalVat("EUR", euros, Decimal("1.070091"), "ECB", date(2026, 11, 30))
    return replace(document, national_vat=rate)


def debited() -> Invoice:
    payment = Payment(
        reference="RF18539007547034",
        mandate="STOA-M-000042",
        creditor_id="DE98ZZZ09999999999",
        debtor_iban="DE75512108001245126199",
        terms="We debit the amount on 15 December 2026.",
    )
    return replace(two_rates(), payment=payment)


ALL = {
    "two rates": two_rates,
    "reverse charge": reverse_charge,
    "outside scope": outside_scope,
    "allowance": with_allowance,
    "prepaid": prepaid,
    "credit note": credit_note,
    "credited in part": credited_in_part,
    "debited": debited,
    "paid in full": paid_in_full,
    "exempt": exempt,
    "foreign currency": foreign_currency,
}
