"""Where an address lies for VAT, which is not always what its country says (Art. 5-7)."""

import re
from dataclasses import dataclass
from typing import Any

from billing.vat.countries import is_country, is_member_state
from billing.vat.tables import UnknownRule, table


@dataclass(frozen=True)
class Place:
    """`state` is the member state whose VAT territory it is; None lies outside of the Union's.

    `territory` and `article` are empty for an ordinary address. `mother` is the member state that
    a territory belongs to. `refused` says why nothing is invoiced there.
    """

    country: str
    state: str | None
    territory: str = ""
    name: str = ""
    article: str = ""
    refused: str = ""
    mother: str = ""


def locate(country: str, postcode: str = "", region: str = "") -> Place:
    """Find the place of an address.

    `region` names one of the table's territories outright, where no postcode tells it. Raises
    UnknownRule for a country or region that nobody knows.
    """
    if not is_country(country):
        raise UnknownRule(f"{country!r} is no country of ISO 3166")
    found = _special(country, postcode, region)
    if found is None:
        return Place(country, country if is_member_state(country) else None)
    treatment = found["treatment"]
    return Place(
        country=country,
        state=found.get("state"),
        territory=found["code"],
        name=found["name"],
        article=found["article"],
        refused=found["reason"] if treatment == "refused" else "",
        mother=next((each for each in found["postcodes"] if is_member_state(each)), ""),
    )


def refusal_for(place: Place, issuer: str) -> str:
    """Why an issuer of that state cannot invoice there, though others can; "" when it can."""
    for row in table("territories")["territories"]:
        if row["code"] == place.territory:
            return str(row.get("refused_for", {}).get(issuer, ""))
    return ""


def _special(country: str, postcode: str, region: str) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = table("territories")["territories"]
    mine = [row for row in rows if country in row["codes"] or country in row["postcodes"]]
    if region:
        for row in mine:
            if row["code"] == region:
                return row
        raise UnknownRule(f"{region!r} is no territory of {country}")
    written = postcode.strip().upper().removeprefix(f"{country}-")
    for row in mine:
        pattern = row["postcodes"].get(country)
        if country in row["codes"] or (pattern and re.fullmatch(pattern, written)):
            return row
    if country == "EA":
        raise UnknownRule("EA is Ceuta or Melilla: the postcode must say which")
    return None
