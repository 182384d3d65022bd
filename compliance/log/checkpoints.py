"""Signed heads: of each log that has grown, at least once a minute, and each into the meta log.

The signer is asked between two transactions. If this process dies after the signature and before
the row, the next one asks again and gets the same note: the signer's memory is the truth.
"""

import base64
import hashlib
import logging
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta

import rfc8785
from django.db import IntegrityError, transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery

from compliance.log import merkle, signing, tree
from compliance.log.models import Log, LogCheckpoint

log = logging.getLogger(__name__)

EVERY = timedelta(seconds=20)  # of one log; a minute is what is promised
_SALT_BYTES = 16


def due(now: datetime) -> QuerySet[Log]:
    """Open logs with leaves that no head covers, whose last head is not of just now."""
    last = LogCheckpoint.objects.filter(log_id=OuterRef("id")).order_by("-size")
    return (
        Log.objects.filter(closed_at=None, refused="", size__gt=0)
        .annotate(
            signed_size=Subquery(last.values("size")[:1]),
            signed_at=Subquery(last.values("signed_at")[:1]),
        )
        .filter(Q(signed_size=None) | Q(signed_size__lt=F("size"), signed_at__lte=now - EVERY))
        # The meta log last: then it has the others' heads soon.
        .order_by("owner", "id")
    )


def sign_due(now: datetime) -> int:
    """Signs what is due; how many. Raises SignerAway. A refusal is kept with its log."""
    return sum(1 for one in list(due(now)) if sign(one, now))


def sign(one: Log, now: datetime) -> LogCheckpoint | None:
    """The head of a log as it is, signed and kept; None where the signer refuses it."""
    try:
        size, root, note = _signed(one)
    except signing.Refused as refused:
        log.error("%s at size %d: %s", one.origin, one.size, refused)
        Log.objects.filter(id=one.id).update(refused=refused.code)
        return None
    salt = secrets.token_bytes(_SALT_BYTES)
    made = LogCheckpoint(
        log_id=one.id,
        owner=one.owner,
        size=size,
        root=root,
        note=note,
        signed_at=now,
        salt=salt,
        blind=blinded(salt, note),
    )
    try:
        with transaction.atomic():
            made.save(force_insert=True)
    except IntegrityError:  # somebody else signed this head at the same time
        return LogCheckpoint.objects.get(log_id=one.id, size=size)
    return made


def blinded(salt: bytes, note: str) -> bytes:
    """The body of a checkpoint's leaf in the meta log: without its salt it says nothing."""
    digest = hashlib.sha256(salt + note.encode()).digest()
    return rfc8785.dumps({"c": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()})


def newest(owner: str) -> LogCheckpoint | None:
    """The last signed head of an owner's open log."""
    logs = Log.objects.filter(owner=owner, closed_at=None).values("id")
    return LogCheckpoint.objects.filter(log_id__in=logs).order_by("-size").first()


def each(log_id: str) -> Iterator[LogCheckpoint]:
    return LogCheckpoint.objects.filter(log_id=log_id).order_by("size").iterator()


def _signed(one: Log) -> tuple[int, bytes, str]:
    root = merkle.Frontier.load(one.size, bytes(one.peaks)).root()
    last = signing.head(one.origin)
    if last.size > one.size:
        raise signing.Refused("smaller", {"size": last.size})
    try:
        proof = merkle.consistency_proof(tree.nodes(one.id), last.size, one.size)
    except IndexError:
        raise signing.Refused("inconsistent", {"size": last.size}) from None
    return one.size, root, signing.checkpoint(one.origin, one.size, root, proof)
