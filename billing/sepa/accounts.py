"""Account numbers and identifiers of the SEPA schemes, checked (python-stdnum)."""

import re

from stdnum import bic as stdnum_bic
from stdnum import iban as stdnum_iban
from stdnum.eu import at_02
from stdnum.exceptions import ValidationError

# Countries of the European Economic Area, by the first letters of their IBANs.
EEA = frozenset(
    {
        *{"AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"},
        *{"IE", "IS", "IT", "LI", "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE"},
        *{"SI", "SK"},
    }
)
# Other members of the schemes, which ask for more about the debtor.
FURTHER = frozenset({"AD", "AL", "CH", "GB", "GI", "MC", "MD", "ME", "MK", "RS", "SM", "VA"})


class InvalidAccount(ValueError):
    """Not an account, bank or creditor that a SEPA payment can name. The message says why."""


def iban(text: str) -> str:
    """Compact and checked, of a country in SEPA. Raises InvalidAccount."""
    try:
        checked = stdnum_iban.validate(text)
    except ValidationError as error:
        raise InvalidAccount(f"{text!r} is no IBAN: {error}") from error
    if checked[:2] not in EEA | FURTHER:
        raise InvalidAccount(f"{checked[:2]} is not a country of SEPA")
    return checked


def bic(text: str) -> str:
    try:
        return stdnum_bic.validate(text)
    except ValidationError as error:
        raise InvalidAccount(f"{text!r} is no BIC: {error}") from error


def creditor_identifier(text: str) -> str:
    """Compact, with right check digits (AT-02); the business code in it is not checked."""
    try:
        checked = at_02.validate(text)
    except ValidationError as error:
        raise InvalidAccount(f"{text!r} is no creditor identifier: {error}") from error
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{3}[A-Z0-9]{1,28}", checked):
        raise InvalidAccount(f"{text!r} is no creditor identifier: the form is wrong")
    return checked
