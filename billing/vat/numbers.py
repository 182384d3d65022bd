"""VAT identification numbers: their syntax and check digits, state by state (python-stdnum)."""

from dataclasses import dataclass

from stdnum.eu import vat
from stdnum.exceptions import ValidationError

from billing.vat.countries import is_member_state, vat_prefix
from billing.vat.tables import table


class InvalidVatNumber(ValueError):
    """What was typed cannot be a VAT number. The message says why, for people."""


@dataclass(frozen=True)
class VatNumber:
    """`prefix` is the state's letters (EL for Greece, XI for Northern Ireland)."""

    prefix: str
    digits: str

    def __str__(self) -> str:
        return f"{self.prefix}{self.digits}"


def parse(text: str, country: str = "") -> VatNumber:
    """Read a number as people write it; without its prefix when `country` says whose it is.

    Raises InvalidVatNumber.
    """
    written = "".join(sign for sign in text.upper() if sign.isalnum())
    if written.startswith("GR"):
        written = "EL" + written[2:]
    known = {vat_prefix(state) for state in table("states")["states"]} | {"XI"}
    if written[:2] not in known and is_member_state(country):
        written = vat_prefix(country) + written
    prefix = written[:2]
    if prefix not in known:
        raise InvalidVatNumber(f"{text!r} does not begin with the letters of a member state")
    try:
        checked = vat.validate(written)
    except ValidationError as error:
        raise InvalidVatNumber(f"{text!r} is no VAT number of {prefix}: {error}") from error
    return VatNumber(prefix, checked[2:])
