"""Who sells, who buys, and the proof that is at hand. Facts only; `decide` judges them."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum

from billing.vat.vies_answer import ViesAnswer


class CustomerKind(StrEnum):
    """`LEGAL_PERSON` is one that is no taxable person, such as an authority (Art. 43)."""

    BUSINESS = "business"
    LEGAL_PERSON = "legal_person"
    CONSUMER = "consumer"


@dataclass(frozen=True)
class Supplier:
    """The legal entity that issues. `country` is ISO 3166; `vat_number` as it is registered."""

    country: str
    vat_number: str
    postcode: str = ""
    small_enterprise: bool = False


@dataclass(frozen=True)
class Customer:
    """The establishment that uses the service: not where the bill is sent, if that differs.

    `region` names a territory of the table where no postcode tells it.
    """

    country: str
    kind: CustomerKind
    vat_number: str = ""
    postcode: str = ""
    region: str = ""


@dataclass(frozen=True)
class BusinessProof:
    """What shows that a customer outside the Union is a business (Reg. 282/2011 Art. 18(3)).

    `kind` is what it is (certificate, tax_number, registry_extract), `reference` its number, and
    `document_sha256` the file's hash where one is kept.
    """

    kind: str
    reference: str
    seen_on: date
    document_sha256: str = ""
    valid_until: date | None = None


@dataclass(frozen=True)
class Drafted:
    """What a draft had decided, so that the final decision can tell what changed."""

    category: str
    rate: str
    customer_number: str
    consultation_number: str
    decided_at: datetime


@dataclass(frozen=True)
class Evidence:
    """What is known when the decision is made, at `at` (aware).

    An answer of VIES older than `vies_max_age` proves nothing any more. Where VIES says that the
    customer's name is another one, `name_accepted_by` names who looked at it and accepts it.
    """

    at: datetime
    vies: ViesAnswer | None = None
    proof: BusinessProof | None = None
    drafted: Drafted | None = None
    vies_max_age: timedelta = field(default=timedelta(hours=24))
    name_accepted_by: str = ""

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("the time of a decision needs its zone")
