"""People who buy and sell in these tests. The numbers have right check digits and are made up
or of large public companies."""

from datetime import UTC, date, datetime
from typing import Any

from billing.vat.numbers import parse
from billing.vat.parties import BusinessProof, Customer, CustomerKind, Evidence, Supplier
from billing.vat.vies_answer import ViesAnswer, ViesOutcome

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
TODAY = NOW.date()
GERMAN = Supplier("DE", "DE136695976")
NUMBERS = {
    "AT": "ATU13585627",
    "BE": "BE0403019261",
    "CY": "CY10259033P",
    "DE": "DE811115368",
    "ES": "ESA15075062",
    "FI": "FI20774740",
    "FR": "FR83404833048",
    "GR": "EL094259216",
    "IE": "IE6433435F",
    "LU": "LU15027442",
    "NL": "NL004495445B01",
    "PT": "PT501964843",
}
PROOF = BusinessProof("certificate", "CHE-123.456.788 MWST", date(2026, 3, 1))


def business(country: str, number: str | None = None, **more: Any) -> Customer:
    """A business there; with the number of its country unless it is said which."""
    own = NUMBERS.get(country, "") if number is None else number
    return Customer(country, CustomerKind.BUSINESS, own, **more)


def answer(number: str, outcome: ViesOutcome = ViesOutcome.VALID, **more: Any) -> ViesAnswer:
    facts: dict[str, Any] = {
        "checked_at": NOW,
        "request_date": "2026-11-26T12:00:00.000Z",
        "consultation_number": "WAPIAAAAZ8Cq1x2b" if outcome is ViesOutcome.VALID else "",
        **more,
    }
    return ViesAnswer(outcome, number, facts.pop("requester", GERMAN.vat_number), **facts)


def proved(customer: Customer, **more: Any) -> Evidence:
    """The evidence that VIES gave a moment ago for the customer's number."""
    number = str(parse(customer.vat_number, customer.country))
    return Evidence(NOW, vies=answer(number), **more)
