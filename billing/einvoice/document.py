"""What an invoice or a credit note says, by EN 16931's terms. Frozen, exact, checked for shape.

Whether it is complete and adds up is for `rules`: a draft may lack fields, but never hold a float.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

Kind = Literal["invoice", "credit_note"]
Category = Literal["S", "AE", "O", "E", "Z"]

SECONDS = "SEC"
PIECES = "C62"  # "one": tokens
# What JSON's numbers hold exactly (canonical.py), and more than any month's tokens.
MOST = 2**53 - 1
CENT = Decimal("0.01")


def amount(value: object, field: str) -> None:
    """Raises TypeError unless `value` is a Decimal of exactly two places."""
    if type(value) is not Decimal or not value.is_finite() or value.as_tuple().exponent != -2:
        raise TypeError(f"{field} is an amount with two decimals, not {value!r}")
    if value.is_signed() and not value:
        raise TypeError(f"{field} is a zero without a sign, not {value!r}")


def factor(value: object, field: str) -> None:
    """Raises TypeError unless `value` is a finite Decimal from zero up, without exponent."""
    if type(value) is not Decimal or not value.is_finite() or value < 0:
        raise TypeError(f"{field} is a finite Decimal from zero up, not {value!r}")
    if int(value.as_tuple().exponent) > 0:
        raise TypeError(f"{field} is written without an exponent, not {value!r}")


@dataclass(frozen=True)
class Address:
    street: str = ""
    city: str = ""
    postcode: str = ""
    country: str = ""  # ISO 3166-1 alpha-2; Greece is GR here, though its VAT numbers say EL
    extra: str = ""


@dataclass(frozen=True)
class Party:
    """Supplier (BG-4) or customer (BG-7). `endpoint` is the electronic address (BT-34, BT-49)."""

    name: str = ""
    address: Address = Address()
    vat_id: str = ""
    tax_number: str = ""  # BT-32, the local one
    registration: str = ""  # BT-30, BT-47: the number in a commercial register
    endpoint: str = ""
    endpoint_scheme: str = "EM"  # an e-mail address
    contact: str = ""
    phone: str = ""
    email: str = ""


@dataclass(frozen=True)
class Period:
    """First and last day, both included."""

    start: date
    end: date


@dataclass(frozen=True)
class Line:
    """`quantity` whole `unit`s at `price` for each `base_quantity` of them, rounded to `amount`."""

    id: str
    name: str
    quantity: int
    unit: str
    price: Decimal
    base_quantity: int
    amount: Decimal
    category: Category
    rate: Decimal
    period: Period | None = None
    sku: str = ""
    project: str = ""
    endpoint: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if type(self.quantity) is not int or abs(self.quantity) > MOST:
            raise TypeError(f"a quantity is a whole number up to {MOST}, not {self.quantity!r}")
        if type(self.base_quantity) is not int or not 0 < self.base_quantity <= MOST:
            raise TypeError(
                f"a base quantity is a whole number above 0, not {self.base_quantity!r}"
            )
        factor(self.price, "price")
        factor(self.rate, "rate")
        amount(self.amount, "line amount")


@dataclass(frozen=True)
class Allowance:
    """A document-level allowance (BG-20): a commitment's discount, say. `amount` is positive."""

    amount: Decimal
    reason: str
    category: Category
    rate: Decimal
    code: str = "95"  # UNCL 5189: discount

    def __post_init__(self) -> None:
        amount(self.amount, "allowance")
        factor(self.amount, "allowance")
        factor(self.rate, "rate")


@dataclass(frozen=True)
class VatGroup:
    """One category and rate (BG-23). `reason` and its VATEX `code` say why there is no VAT."""

    category: Category
    rate: Decimal
    taxable: Decimal
    tax: Decimal
    reason: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        factor(self.rate, "rate")
        amount(self.taxable, "taxable amount")
        amount(self.tax, "VAT amount")


@dataclass(frozen=True)
class Totals:
    """BG-22: lines - allowances = net; net + vat = gross; gross - prepaid = due."""

    lines: Decimal
    allowances: Decimal
    net: Decimal
    vat: Decimal
    gross: Decimal
    prepaid: Decimal
    due: Decimal

    def __post_init__(self) -> None:
        for field in ("lines", "allowances", "net", "vat", "gross", "prepaid", "due"):
            amount(getattr(self, field), field)


@dataclass(frozen=True)
class Payment:
    """How it is paid (BG-16): a SEPA credit transfer, or a debit where there is a mandate."""

    iban: str = ""
    bic: str = ""
    account_name: str = ""
    reference: str = ""  # BT-83, what the payer quotes
    mandate: str = ""
    creditor_id: str = ""
    debtor_iban: str = ""
    terms: str = ""  # BT-20


@dataclass(frozen=True)
class Preceding:
    """An earlier invoice (BG-3): what a credit note corrects, or the advance that is settled."""

    number: str
    issued: date


@dataclass(frozen=True)
class NationalVat:
    """The VAT in the supplier's own currency (Article 230, BT-111), if the invoice has another."""

    currency: str
    vat: Decimal
    exchange_rate: Decimal
    source: str
    on: date

    def __post_init__(self) -> None:
        amount(self.vat, "VAT in national currency")
        factor(self.exchange_rate, "exchange rate")


@dataclass(frozen=True)
class Invoice:
    kind: Kind
    number: str
    issued: date | None
    due: date | None
    currency: str
    supplier: Party
    customer: Party
    period: Period | None
    lines: tuple[Line, ...]
    allowances: tuple[Allowance, ...]
    vat: tuple[VatGroup, ...]
    totals: Totals
    payment: Payment = Payment()
    notes: tuple[str, ...] = ()
    buyer_reference: str = ""  # BT-10; the Leitweg-ID where Germany's state buys
    order_reference: str = ""
    contract_reference: str = ""
    preceding: tuple[Preceding, ...] = ()
    reason: str = ""  # why a credit note is given
    national_vat: NationalVat | None = None
