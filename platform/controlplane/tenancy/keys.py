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
from datetime import datetime, timedelta

from django.conf import settings

from controlplane.tenancy.models import ApiKey, ApiKeySecret

PREFIX = "sk-stoa-"
_PATTERN = re.compile(r"(sk-stoa-[0-9A-Za-z]{8})-[0-9A-Za-z_-]{43}")
_USE_NOTED_EVERY = timedelta(minutes=1)
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


def authenticate_key(presented: str, now: datetime) -> ApiKey | None:
    """The usable key that was presented, with its project; None if unknown, revoked, expired.

    Raises MalformedKey.
    """
    secrets = ApiKeySecret.objects.select_related("key__project__organization")
    secret = secrets.filter(prefix=parse(presented)).first()
    if (
        secret is None
        or not verify(presented, secret)
        or (secret.expires_at is not None and secret.expires_at <= now)
        or not secret.key.usable(now)
    ):
        return None
    if secret.last_used_at is None or now - secret.last_used_at > _USE_NOTED_EVERY:
        ApiKeySecret.objects.filter(id=secret.id).update(last_used_at=now)
    return secret.key


def usable_key(key_id: str, now: datetime) -> ApiKey | None:
    """The key of that id, with its project; None if there is none, or it is revoked or expired.

    For those to whom somebody has vouched for its secret.
    """
    rows = ApiKey.objects.select_related("project__organization").filter(id=key_id)
    found = rows.first()
    return found if found is not None and found.usable(now) else None


def current_hash(key: ApiKey) -> bytes | None:
    """The hash of the key's newest secret: what gateways know it by. None for a revoked key."""
    newest = ApiKeySecret.objects.filter(key=key, expires_at=None).first()
    return bytes(newest.hash) if newest is not None and key.revoked_at is None else None


def verify(presented: str, secret: ApiKeySecret) -> bool:
    """Whether this is that secret, in a time that does not depend on how far they agree."""
    return hmac.compare_digest(digest(presented), bytes(secret.hash))
