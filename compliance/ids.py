"""Typed, sortable ids: `ep_` + 26 characters. Made here, read by everybody, meaning nothing.

The body is a UUIDv7 (RFC 9562, method 3: 48 bits of Unix milliseconds, 12 bits of what is left of
one, 62 random bits) in Crockford's base32, lower case, so that ids sort by birth, also those of
one millisecond, and survive double-clicks, URLs and file names.
"""

import re
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PATTERN = re.compile(r"[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{26}")


def new(prefix: str) -> str:
    """A fresh id such as `ep_01k…`."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    value = (millis & (1 << 48) - 1) << 80 | 7 << 76 | (rest << 12) // 1_000_000 << 64
    value |= 0b10 << 62 | secrets.randbits(62)
    body = "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -5, -5))
    return f"{prefix}_{body}"


def valid(value: str, prefix: str) -> bool:
    return value.startswith(f"{prefix}_") and PATTERN.fullmatch(value) is not None
