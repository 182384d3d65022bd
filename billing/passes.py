"""Short-lived passes that the house and its gateways show each other in place of an API key.

A gateway that has authenticated a key passes a request on without the key; the house sends a line
of a batch to a gateway in the name of the key that made the batch, which nobody has in plain. Each
pass is a MAC over what it is good for and until when, under a key derived from the pepper that
both hold anyway: one for each direction, so that neither is ever good for the other. Pure.
"""

import base64
import binascii
import hmac
import json
from typing import Any

TO_HOUSE = b"stoa pass to the house v1"
TO_GATEWAY = b"stoa pass to a gateway v1"
LIFE_S = 60.0
MAX_CHARS = 1024  # of a pass; what is longer is none
_MAC_BYTES = 32


def key(pepper: bytes, direction: bytes) -> bytes:
    return hmac.digest(pepper, direction, "sha256")


def issue(key: bytes, claims: dict[str, Any], *, now: float) -> str:
    """A pass that is good for LIFE_S from `now` (Unix seconds): letters, digits, - and _."""
    said = json.dumps({**claims, "until": now + LIFE_S}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hmac.digest(key, said, "sha256") + said).rstrip(b"=").decode()


def claims(key: bytes, text: str | bytes, *, now: float) -> dict[str, Any] | None:
    """What the pass was issued for; None where it is none of ours, was altered, or is over."""
    given = text.encode() if isinstance(text, str) else text
    if not key or len(given) > MAX_CHARS:
        return None
    try:
        raw = base64.b64decode(given + b"=" * (-len(given) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    mac, said = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, hmac.digest(key, said, "sha256")):
        return None
    found: dict[str, Any] = json.loads(said)  # we wrote it
    return found if now < float(found["until"]) else None
