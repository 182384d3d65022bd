"""Sealing under a subject's data key.

A blob is: `stoa:dk` and a version byte, the data key's id (29 characters), 12 bytes of nonce,
ciphertext and tag. What is authenticated beside it is subject, context and the key's id. A blob
that does not begin so is of the installation's master key, from before there were data keys.
"""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from threading import Lock

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import models, transaction
from django.utils import timezone

from compliance import ids, locks, sealing
from compliance.keys import kms
from compliance.keys.kms import KeyDestroyed, KmsAway
from compliance.keys.models import DataKey
from compliance.sealing import NONCE_BYTES, SealBroken
from compliance.subjects import Subject

MAGIC = b"stoa:dk\x01"
KEY_BYTES = 32
EPOCH = timedelta(days=90)  # then a subject's next data key is made
CACHED_S = 300.0
CACHED_MOST = 4_096
_ID_BYTES = 29
_HEAD = len(MAGIC) + _ID_BYTES

log = logging.getLogger(__name__)


def seal(plaintext: bytes, *, subject: Subject, context: str, purpose: str = DataKey.DATA) -> bytes:
    """Raises KeyDestroyed where the subject was closed to new keys, KmsAway."""
    (blob,) = seal_all({context: plaintext}, subject=subject, purpose=purpose).values()
    return blob


def seal_all(
    plaintexts: Mapping[str, bytes], *, subject: Subject, purpose: str = DataKey.DATA
) -> dict[str, bytes]:
    """Context to blob, of context to plaintext: several things at the price of one look."""
    key, secret = _sealing_key(subject, purpose)
    cipher, head = AESGCM(secret), MAGIC + key.id.encode()
    sealed = {}
    for context, plaintext in plaintexts.items():
        nonce = os.urandom(NONCE_BYTES)
        bound = _bound(subject, context, key.id)
        sealed[context] = head + nonce + cipher.encrypt(nonce, plaintext, bound)
    return sealed


def seal_under(key: DataKey, plaintext: bytes, *, subject: Subject, context: str) -> bytes:
    """Under this very key of the subject's. Raises KeyDestroyed, KmsAway."""
    nonce = os.urandom(NONCE_BYTES)
    cipher, bound = AESGCM(_opened(key)), _bound(subject, context, key.id)
    return MAGIC + key.id.encode() + nonce + cipher.encrypt(nonce, plaintext, bound)


def unseal(blob: bytes | memoryview, *, subject: Subject, context: str) -> bytes:
    """What `seal` was given for the same subject and context, or `sealing.seal` for the context.

    Raises KeyDestroyed, sealing.SealBroken, KmsAway.
    """
    blob = bytes(blob)  # a memoryview when it comes from the database
    if (key_id := key_of(blob)) is None:
        return sealing.unseal(blob, context=context)
    # The row each time: another process may have destroyed it a moment ago.
    key = DataKey.objects.filter(id=key_id).first()
    if key is None:
        raise SealBroken(context)
    secret = _opened(key)
    nonce, rest = blob[_HEAD : _HEAD + NONCE_BYTES], blob[_HEAD + NONCE_BYTES :]
    try:
        return AESGCM(secret).decrypt(nonce, rest, _bound(subject, context, key_id))
    except (InvalidTag, ValueError):
        raise SealBroken(context) from None


def key_of(blob: bytes) -> str | None:
    """The id of the data key that sealed it; None: the master key did."""
    if not blob.startswith(MAGIC):
        return None
    return blob[len(MAGIC) : _HEAD].decode("ascii", "replace")


def state(subject: Subject) -> str:
    """active | destroyed | none"""
    rows = _of(subject, DataKey.DATA).order_by("-id").values_list("destroyed_at", flat=True)
    ended = list(rows)
    if not ended:
        return "none"
    return "destroyed" if any(ended) else "active"


def forget() -> None:
    """Drops what is unwrapped in this process."""
    with _guard:
        _cache.clear()


def create(
    subject: Subject, purpose: str, now: datetime, keep_until: date | None = None
) -> DataKey:
    """A new data key, in the caller's transaction. Raises KeyDestroyed, KmsAway.

    Two writers may make one each, and both are good: nobody waits for another's transaction. Only a
    destruction, which holds the same lock alone, comes before or after all of them.
    """
    key = DataKey(
        id=ids.new("dk"),
        subject_kind=subject.kind,
        subject_id=subject.id,
        purpose=purpose,
        created_at=now,
        keep_until=keep_until,
    )
    secret = os.urandom(KEY_BYTES)
    key.kek, key.wrapped = kms.current().wrap(secret, key.context)
    # Nothing is raised within: a caller who bears it goes on in the same transaction.
    with transaction.atomic(savepoint=False):
        locks.hold_shared(lock_name(subject))
        closed = (
            purpose == DataKey.DATA and _of(subject, purpose).exclude(destroyed_at=None).exists()
        )
        if not closed:
            key.save(force_insert=True)
    if closed:
        raise KeyDestroyed(f"the keys of {subject} were destroyed")
    _keep(key.id, secret)
    return key


def lock_name(subject: Subject) -> str:
    return f"compliance.keys:{subject}"


def _sealing_key(subject: Subject, purpose: str) -> tuple[DataKey, bytes]:
    now = timezone.now()
    newest = _of(subject, purpose).order_by("-id").first()
    if newest is None:
        newest = create(subject, purpose, now)
    elif newest.destroyed_at is None and newest.created_at < now - EPOCH:
        try:
            newest = create(subject, purpose, now)
        except KmsAway as error:  # the old one does for as long as the KMS is away
            log.warning("no new epoch for %s: %s", newest.id, error)
    return newest, _opened(newest)


def _of(subject: Subject, purpose: str) -> models.QuerySet[DataKey]:
    return DataKey.objects.filter(subject_kind=subject.kind, subject_id=subject.id, purpose=purpose)


def _opened(key: DataKey) -> bytes:
    """Unwrapped; the row, which was just read, says whether that may still be."""
    if key.destroyed_at is not None or key.wrapped is None:
        with _guard:
            _cache.pop(key.id, None)
        raise KeyDestroyed(f"the data key {key.id} was destroyed")
    with _guard:
        until, secret = _cache.get(key.id, (0.0, b""))
    if time.monotonic() >= until:
        secret = kms.of(key.kek).unwrap(key.kek, bytes(key.wrapped), key.context)
        _keep(key.id, secret)
    return secret


def _keep(key_id: str, secret: bytes) -> None:
    with _guard:
        _cache[key_id] = (time.monotonic() + CACHED_S, secret)
        _cache.move_to_end(key_id)
        while len(_cache) > CACHED_MOST:
            _cache.popitem(last=False)


def _bound(subject: Subject, context: str, key_id: str) -> bytes:
    return f"{subject.kind}|{subject.id}|{context}|{key_id}".encode()


_guard = Lock()
_cache: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
