"""The recapitulative statement of services under reverse charge (Art. 262 to 264)."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from billing.vat.dates import month
from billing.vat.decision import Category, Decision, Outcome


@dataclass(frozen=True)
class Supply:
    """What an invoice, or a credit note (negative), says for one decision.

    `on` is the day of the chargeable event; for a credit note the day on which the customer was
    told (Art. 264(2)). `net` is in the national currency of the issuer.
    """

    decision: Decision
    net: Decimal
    on: date


@dataclass(frozen=True)
class Row:
    """The sum for one customer and period. `value` may be negative after credit notes."""

    period: str
    prefix: str
    digits: str
    value: Decimal


def rows(supplies: Iterable[Supply], period: Callable[[date], str] = month) -> list[Row]:
    """Sum what is to be listed; by month, or by quarter where the issuer's state allows it.

    Raises ValueError for a supply that was not decided: the statement would be incomplete.
    """
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for supply in supplies:
        decision = supply.decision
        if decision.outcome is not Outcome.DECIDED:
            raise ValueError(f"an undecided supply: {decision.reason}")
        if decision.listed and decision.category is Category.REVERSE_CHARGE:
            sums[period(supply.on), decision.customer_number] += supply.net
    return [
        Row(when, number[:2], number[2:], value) for (when, number), value in sorted(sums.items())
    ]
