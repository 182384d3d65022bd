"""Structured creditor references (ISO 11649): a payer's bank carries them, and checks them."""

import re

from stdnum import iso11649
from stdnum.exceptions import ValidationError
from stdnum.iso7064 import mod_97_10

_LONGEST = 21


class InvalidReference(ValueError):
    """The text cannot be, or become, a creditor reference."""


def make(number: str) -> str:
    """The reference of an invoice number: its letters and digits, after RF and check digits.

    Punctuation is lost, so numbers that differ by it alone share a reference. Raises
    InvalidReference for more than 21 letters and digits, and for none.
    """
    body = re.sub(r"[^A-Z0-9]", "", number.upper())
    if not 1 <= len(body) <= _LONGEST:
        raise InvalidReference(f"{number!r} has {len(body)} letters and digits, not 1 to 21")
    return f"RF{mod_97_10.calc_check_digits(f'{body}RF')}{body}"


def read(text: str) -> str:
    """Compact and checked. Raises InvalidReference."""
    try:
        checked = iso11649.validate(text)
    except ValidationError as error:
        raise InvalidReference(f"{text!r} is no creditor reference: {error}") from error
    if not re.fullmatch(r"RF\d{2}[A-Z0-9]{1,21}", checked):
        raise InvalidReference(f"{text!r} is no creditor reference: the form is wrong")
    return checked


def pretty(text: str) -> str:
    """In groups of four, as it is printed."""
    return iso11649.format(read(text))
