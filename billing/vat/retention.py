"""How long records are kept, by jurisdiction: rows of a table, each with its source."""

from dataclasses import dataclass
from datetime import date

from billing.vat.tables import UnknownRule, in_force, table


@dataclass(frozen=True)
class Retention:
    """Kept until the end of that day, destroyed after it unless a hold stands.

    `verified` is false where nobody has looked the law's text up.
    """

    until: date
    years: int
    verified: bool
    source: str


def retention(country: str, kind: str, of: date) -> Retention:
    """What applies to a record of that day. Raises UnknownRule where the table has no row."""
    rows = [
        row
        for row in table("retention")["rows"]
        if (row["country"], row["kind"]) == (country, kind)
    ]
    if not rows:
        raise UnknownRule(f"no period is known for {kind!r} in {country!r}")
    row = in_force(rows, of, f"the retention of {kind} in {country}")
    until = date(of.year + row["years"], 12, 31)
    return Retention(until, row["years"], row["verified"], row["source"])


def destroy_after(country: str, kind: str, of: date) -> date:
    """The last day of keeping: the end of the year of origin, and the years that follow."""
    return retention(country, kind, of).until
