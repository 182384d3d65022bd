"""Secrets at rest: AES-256-GCM under a key derived from the installation's master key.

The context names what is sealed and is authenticated with it, so that a blob cannot be moved
to another row: `event:evt_…:request.ip`, `region:eu-de-1:ca`.
"""

import base64
import binascii
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

NONCE_BYTES = 12
_TAG_BYTES = 16


class SealBroken(Exception):
    """The blob was altered, moved to another context, or sealed under another master key."""


@lru_cache(maxsize=4)
def _cipher(master_key: str) -> AESGCM:
    try:
        secret = base64.b64decode(master_key, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != 32:
        raise ImproperlyConfigured("STOA_MASTER_KEY: expected 32 bytes in padded base64url")
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"stoa sealing 1").derive(secret)
    return AESGCM(key)


def seal(plaintext: bytes, *, context: str, key: str | None = None) -> bytes:
    """12 bytes of nonce, then ciphertext and tag. Raises ImproperlyConfigured on a bad key.

    `key`: another than the master key, in the same form.
    """
    nonce = os.urandom(NONCE_BYTES)
    cipher = _cipher(settings.MASTER_KEY if key is None else key)
    return nonce + cipher.encrypt(nonce, plaintext, context.encode())


def unseal(blob: bytes, *, context: str, key: str | None = None) -> bytes:
    """What `seal` was given for the same context and key. Raises SealBroken."""
    blob = bytes(blob)  # a memoryview when it comes from the database
    if len(blob) < NONCE_BYTES + _TAG_BYTES:
        raise SealBroken(context)
    nonce, rest = blob[:NONCE_BYTES], blob[NONCE_BYTES:]
    try:
        cipher = _cipher(settings.MASTER_KEY if key is None else key)
        return cipher.decrypt(nonce, rest, context.encode())
    except InvalidTag:
        raise SealBroken(context) from None
