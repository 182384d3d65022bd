"""A decision about VAT, with everything that it was made of."""

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum

from billing.vat.canonical import canonical, digest
from billing.vat.notes import Note
from billing.vat.parties import Customer, Drafted, Evidence, Supplier
from billing.vat.tables import versions


class Outcome(StrEnum):
    """`PENDING` holds the invoice until proof comes; `REFUSED` is not invoiced by this system."""

    DECIDED = "decided"
    PENDING = "pending"
    REFUSED = "refused"


class Category(StrEnum):
    """EN 16931, BT-151: standard rate, reverse charge, outside the scope of VAT."""

    STANDARD = "S"
    REVERSE_CHARGE = "AE"
    OUTSIDE_SCOPE = "O"


@dataclass(frozen=True)
class Inputs:
    supplier: Supplier
    customer: Customer
    evidence: Evidence
    on: date


@dataclass(frozen=True)
class Decision:
    """`reason` is for programs, `because` for people.

    Only where the outcome is DECIDED are `category` and `rate` (percent) meant: `rate` is None
    outside the scope of VAT. `place` is the member state of taxation, or the country outside the
    Union. `articles` are those of Directive 2006/112/EC unless they name another text. `listed`:
    belongs into the recapitulative statement (Art. 262).
    """

    outcome: Outcome
    reason: str
    because: str
    articles: tuple[str, ...]
    inputs: Inputs
    category: Category | None = None
    rate: Decimal | None = None
    place: str = ""
    territory: str = ""
    notes: tuple[Note, ...] = ()
    vatex: str = ""
    customer_number: str = ""
    listed: bool = False
    tables: dict[str, str] = field(default_factory=versions)

    def as_json(self) -> bytes:
        """Canonical: the same decision gives the same bytes, to be stored and hashed."""
        return canonical(self)

    def digest(self) -> str:
        return digest(self)

    def drafted(self) -> Drafted | None:
        """What the final decision is told about this one; None while nothing was decided."""
        if self.outcome is not Outcome.DECIDED or self.category is None:
            return None
        vies = self.inputs.evidence.vies
        return Drafted(
            category=self.category.value,
            rate="" if self.rate is None else format(self.rate, "f"),
            customer_number=self.customer_number,
            consultation_number=vies.consultation_number if vies else "",
            decided_at=self.inputs.evidence.at,
        )
