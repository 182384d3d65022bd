"""Names that people type: checked once, the same everywhere."""

import unicodedata

from controlplane.tenancy.errors import Invalid

# Marks that turn the direction of text: with them a name can pretend to be another.
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check(value: str, *, field: str, limit: int = 100) -> str:
    """The name in NFC and without outer blanks, of 1 to `limit` characters; else Invalid."""
    if any(unicodedata.category(mark) in _UNPRINTABLE or mark in _TURNING for mark in value):
        raise Invalid(f"{field} contains control characters", code="invalid_name", field=field)
    name = unicodedata.normalize("NFC", value).strip()
    if not name:
        raise Invalid(f"{field} is empty", code="invalid_name", field=field)
    if len(name) > limit:
        message = f"{field} has {len(name)} characters, at most {limit} are possible"
        raise Invalid(message, code="invalid_name", field=field)
    return name
