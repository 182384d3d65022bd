"""API keys: `sk-stoa-<8 public>-<43 secret>`, kept as HMAC-SHA256 of the whole under a pepper.

The secret part is 256 random bits, so a plain keyed hash is enough and a lookup stays cheap;
without the pepper a copy of the table cannot even be used to recognise a key.
"""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings

from controlplane.tenancy.models import ApiKey

PREFIX = "sk-stoa-"
_PATTERN = re.compile(r"(sk-stoa-[0-9A-Za-z]{8})-[0-9A-Za-z_-]{43}")
_ALPHABET = string.ascii_lowercase + string.digits


class MalformedKey(ValueError):
    """What was presented is no API key at all: cut off, mistyped, or a key of something else."""


@dataclass(frozen=True)
class Minted:
    secret: str = field(repr=False)  # the whole key, to be shown once
    prefix: str
    hash: bytes = field(repr=False)


def mint() -> Minted:
    public = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    secret = f"{PREFIX}{public}-{secrets.token_urlsafe(32)}"
    return Minted(secret, parse(secret), digest(secret))


def parse(presented: str) -> str:
    """The prefix of a well-formed key. Raises MalformedKey."""
    match = _PATTERN.fullmatch(presented)
    if match is None:
        raise MalformedKey("the API key is malformed: expected sk-stoa-… with 60 characters")
    return match[1]


def digest(secret: str) -> bytes:
    """32 bytes: what the database and the gateway's directory hold in place of the key."""
    return hmac.new(settings.KEY_PEPPER, secret.encode("ascii"), hashlib.sha256).digest()


def verify(presented: str, key: ApiKey) -> bool:
    """Whether this is that key, in a time that does not depend on how far they agree."""
    return hmac.compare_digest(digest(presented), bytes(key.hash))


def authenticate_key(presented: str, now: datetime) -> ApiKey | None:
    """The usable key that was presented, with its project; None if unknown, revoked, expired.

    Raises MalformedKey.
    """
    found = ApiKey.objects.select_related("project__organization")
    key = found.filter(prefix=parse(presented)).first()
    if key is None or not verify(presented, key) or not key.usable(now):
        return None
    return key
