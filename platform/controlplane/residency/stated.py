"""What the operator states of places that no row describes (STOA_LOCATIONS).

`NAME=COUNTRY/OPERATOR` by commas: `home=DE/Example Hosting GmbH,mail=FR/Example Mail SA`. NAME is a
store's (`locations.STORES`), a region's code, or `home`, which holds for each store that stands
with the control plane and has no word of its own. COUNTRY is ISO 3166-1; OPERATOR, and behind a
further / its parent's country, may be left out.
"""

import re
from dataclasses import dataclass

from django.conf import settings

NOT_STATED = "not stated"
HOME = "home"
_ONE = re.compile(r"([a-z][a-z0-9_-]*)=([A-Z]{2})(?:/([^/]+))?(?:/([A-Z]{2}))?")


@dataclass(frozen=True)
class Stated:
    """Where a place is and who runs it; `parent`: where whoever owns the operator sits."""

    country: str = NOT_STATED
    operator: str = NOT_STATED
    parent: str = NOT_STATED


class Unreadable(ValueError):
    """The setting is not of that form; the message names the part."""


def parse(said: list[str]) -> dict[str, Stated]:
    """Raises Unreadable."""
    found = {}
    for part in said:
        match = _ONE.fullmatch(part)
        if match is None:
            raise Unreadable(f"STOA_LOCATIONS: {part!r} is not NAME=COUNTRY/OPERATOR/PARENT")
        name, country, operator, parent = match.groups()
        found[name] = Stated(country, operator or NOT_STATED, parent or NOT_STATED)
    return found


def of(name: str, *, home: bool) -> Stated:
    """What is stated of a store or region; `home`: it stands with the control plane."""
    known = parse(settings.LOCATIONS)
    found = known.get(name) or (known.get(HOME) if home else None)
    return found or Stated()
