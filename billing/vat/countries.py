"""Member states: their rates, currencies, languages and who may issue invoices there."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from billing.vat.tables import UnknownRule, in_force, table


def is_member_state(country: str) -> bool:
    return country in table("states")["states"]


def is_country(country: str) -> bool:
    """Whether ISO 3166 knows the code, or the VAT rules do (XI, IC and EA)."""
    return country in table("territories")["iso3166"] or country in ("XI", "IC", "EA")


def _state(country: str) -> dict[str, Any]:
    found: dict[str, Any] | None = table("states")["states"].get(country)
    if found is None:
        raise UnknownRule(f"{country} is not a member state")
    return found


def standard_rate(country: str, on: date) -> Decimal:
    """In percent, as it applies on that day."""
    return Decimal(in_force(_state(country)["rates"], on, f"the rate of {country}")["rate"])


def national_currency(country: str, on: date) -> str:
    """ISO 4217: in it the VAT must be stated (Art. 230)."""
    row = in_force(_state(country)["currencies"], on, f"the currency of {country}")
    return str(row["currency"])


def languages(country: str) -> tuple[str, ...]:
    """Official languages of the Union that the state has, ISO 639-1."""
    return tuple(_state(country)["languages"])


def vat_prefix(country: str) -> str:
    """The state's letters in VAT numbers: ISO 3166, but EL for Greece."""
    return str(_state(country).get("vat_prefix", country))


@dataclass(frozen=True)
class IssuerRule:
    """Whether invoices may be issued in that country's name; `why` is for people."""

    country: str
    allowed: bool
    status: str
    why: str


def issuer_rule(country: str, on: date) -> IssuerRule:
    rows = table("issuers")["issuers"].get(country)
    if rows is None:
        return IssuerRule(country, False, "not_in_the_union", "only member states are issuers")
    row = in_force(rows, on, f"issuers in {country}")
    return IssuerRule(country, row["status"] == "allowed", row["status"], row["why"])


def allowed_issuers(on: date) -> tuple[str, ...]:
    issuers = table("issuers")["issuers"]
    return tuple(country for country in issuers if issuer_rule(country, on).allowed)
