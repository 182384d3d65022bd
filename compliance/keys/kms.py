"""Who holds the key-encryption key. A driver is small: it wraps and unwraps, and keeps versions.

STOA_KMS names the driver that wraps; what another wrapped is unwrapped by that one as long as its
settings stand, so moving from one to the other is a rewrap (`rotation.rewrap`).
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class KmsAway(Exception):
    """The KMS does not answer, or will not: nothing new can be wrapped or unwrapped meanwhile."""

    code = "kms_away"


class KeyDestroyed(Exception):
    """The key was destroyed for good: what it sealed cannot be read any more, by anybody."""

    code = "key_destroyed"


@dataclass(frozen=True)
class Version:
    """`kek`: `DRIVER/…/NUMBER`; the last of `Kms.versions` wraps."""

    kek: str
    created_at: datetime


class Kms(Protocol):
    """Every method raises KmsAway. `context` is authenticated: it has to be the same to unwrap."""

    name: str
    algorithm: str

    def wrap(self, key: bytes, context: str) -> tuple[str, bytes]:
        """The kek that did it, and the wrapped key."""

    def unwrap(self, kek: str, wrapped: bytes, context: str) -> bytes:
        """Raises sealing.SealBroken, and KeyDestroyed where that version was retired."""

    def rewrap(self, kek: str, wrapped: bytes, context: str) -> tuple[str, bytes]:
        """Under the newest version."""

    def versions(self) -> list[Version]:
        """Those that still unwrap, the oldest first. Also says whether the KMS answers."""

    def rotate(self, now: datetime) -> str:
        """Make a version that wraps from now on; older ones still unwrap."""

    def retire(self, kek: str, now: datetime) -> None:
        """Destroy a version, which is not the newest, and all that are older."""


def current() -> Kms:
    """The one that wraps. Raises ImproperlyConfigured."""
    return driver(settings.KMS)


def of(kek: str) -> Kms:
    """The one that this kek belongs to."""
    return driver(kek.partition("/")[0])


@lru_cache(maxsize=4)
def driver(name: str) -> Kms:
    from compliance.keys import passphrase, transit  # each knows this module

    if name == passphrase.NAME:
        return passphrase.FileKms.from_settings()
    if name == transit.NAME:
        return transit.TransitKms.from_settings()
    raise ImproperlyConfigured(f"STOA_KMS={name}: expected file or transit")
