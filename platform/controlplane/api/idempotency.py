"""Idempotency-Key on creates: the same request again gets the first one's reply, for 24 hours.

A reply is kept sealed, since it may show a new API key. The same key with another body is a
mistake (422); the same key while the first request still runs is a conflict (409). When the
first request fails with a server's error, nothing is kept: it may be tried again.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from compliance import keys
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.api import authentication, problems
from controlplane.api.models import StoredReply
from controlplane.tenancy.access import Principal

HEADER = "idempotency-key"
KEPT_FOR = timedelta(hours=24)
ABANDONED_AFTER = timedelta(minutes=2)  # the process that held it has died

View = Callable[..., Response]


def idempotent(view: View) -> View:
    """Decorates a DRF view method that creates something."""

    @wraps(view)
    def wrapper(self: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get(HEADER, "")
        if not key:
            return view(self, request, *args, **kwargs)
        if len(key) > 255 or not key.isprintable():
            return _problem(400, "invalid_idempotency_key", "Up to 255 printable characters.")
        return _once(key, request, lambda: view(self, request, *args, **kwargs))

    return wrapper


def _once(key: str, request: Request, create: Callable[[], Response]) -> Response:
    asks = authentication.principal(request)
    fingerprint = _fingerprint(request)
    held = _claim(asks, key, fingerprint)
    if isinstance(held, Response):
        return held
    # The reply commits with what it answers for: neither is ever there without the other.
    try:
        with transaction.atomic():
            reply = create()
            plain = json.dumps(reply.data, cls=JSONEncoder).encode()
            sealed = keys.seal(plain, subject=_subject(asks), context=held.pk)
            StoredReply.objects.filter(pk=held.pk).update(
                status=reply.status_code, sealed_body=sealed
            )
    except BaseException:
        StoredReply.objects.filter(pk=held.pk, status=None).delete()
        raise
    return reply


def _claim(asks: Principal, key: str, fingerprint: str) -> StoredReply | Response:
    now = timezone.now()
    principal = asks.actor.id
    mine = StoredReply.objects.filter(principal=principal, key=key)
    mine.filter(created_at__lt=now - KEPT_FOR).delete()
    mine.filter(status=None, created_at__lt=now - ABANDONED_AFTER).delete()
    try:
        with transaction.atomic():
            return StoredReply.objects.create(
                principal=principal, key=key, fingerprint=fingerprint, created_at=now
            )
    except IntegrityError:
        return _replay(mine.first(), asks, fingerprint)


def _subject(asks: Principal) -> Subject:
    """Under whose data key the reply lies: the person's who asked, or the key's organization's."""
    if asks.user_id is not None:
        return Subject(PERSON, asks.user_id)
    assert asks.organization_id is not None
    return Subject(ORGANIZATION, asks.organization_id)


def _replay(stored: StoredReply | None, asks: Principal, fingerprint: str) -> Response:
    if stored is None or (stored.fingerprint == fingerprint and stored.status is None):
        detail = "The first request with this Idempotency-Key is still under way."
        return _problem(409, "idempotency_in_progress", detail)
    if stored.fingerprint != fingerprint:
        detail = "This Idempotency-Key belongs to a request with another body."
        return _problem(422, "idempotency_key_reused", detail)
    opened = keys.unseal(stored.sealed_body, subject=_subject(asks), context=stored.pk)
    body = json.loads(opened)
    return Response(body, status=stored.status, headers={"idempotent-replayed": "true"})


def _fingerprint(request: Request) -> str:
    body = json.dumps(request.data, sort_keys=True, default=str)
    text = f"{request.method}\n{request.path}\n{body}"
    return hashlib.sha256(text.encode()).hexdigest()


def _problem(status: int, code: str, detail: str) -> Response:
    body = problems.body(status, code, detail)
    return Response(body, status=status, content_type=problems.MEDIA_TYPE)
