"""Errors as RFC 9457 problem details: one shape for everything that /api answers badly."""

import logging
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, JsonResponse
from django.utils import timezone
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from billing import errors as billing_errors
from billing.payments.stripe import problems as stripe_problems
from compliance import context
from compliance.keys.kms import KeyDestroyed, KmsAway
from compliance.privacy import refusals
from controlplane.api import authentication
from controlplane.fleet import errors as fleet_errors
from controlplane.tenancy import denials, errors

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}

_Refused = type[
    errors.TenancyError | fleet_errors.FleetError | billing_errors.BillingError | refusals.Refusal
]
# The first that fits.
_HOUSE: tuple[
    tuple[_Refused, int],
    ...,
] = (
    (errors.NotFound, 404),
    (errors.Forbidden, 403),
    (errors.Conflict, 409),
    (errors.Gone, 410),
    (errors.Invalid, 422),
    (errors.TooMany, 429),
    (fleet_errors.AlreadyExists, 409),
    (fleet_errors.FleetError, 422),
    (stripe_problems.Unavailable, 503),
    (stripe_problems.Refused, 422),
    (stripe_problems.StripeProblem, 409),
    (billing_errors.BudgetConflict, 409),
    (billing_errors.BudgetRefused, 422),
    (billing_errors.Enclosed, 409),
    (billing_errors.UnknownInvoice, 404),
    (billing_errors.ReasonMissing, 422),
    (billing_errors.NoEvidence, 409),
    (billing_errors.InvoiceRefused, 409),
    (billing_errors.NotIssuable, 409),
    (billing_errors.BooksRefused, 409),
    (billing_errors.ProfileRefused, 422),
    (billing_errors.PriceRefused, 422),
    (billing_errors.TermRefused, 422),
    (refusals.Wrong, 422),
    (refusals.Refusal, 409),
)


def body(status: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    """The problem's members: `code` is for programs, `detail` for people."""
    problem = {
        "type": "about:blank",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": asked.id if (asked := context.current()) else "",
    }
    return problem | {name: value for name, value in more.items() if value}


def response(status: int, code: str, detail: str, **more: Any) -> JsonResponse:
    """The same for a view outside DRF."""
    problem = body(status, code, detail, **more)
    return JsonResponse(problem, status=status, content_type=MEDIA_TYPE)


def handler(error: Exception, _context: dict[str, Any]) -> Response | None:
    """DRF's EXCEPTION_HANDLER; None lets Django answer 500 and log it."""
    if isinstance(error, errors.Forbidden):
        set_rollback()
        denials.note(error, now=timezone.now())
    for kind, status in _HOUSE:
        if isinstance(error, kind):
            more = {name: getattr(error, name, None) for name in ("field", "prediction")}
            return _answer(status, error.code, str(error), **more)
    if isinstance(error, Http404):
        return _answer(404, "not_found", "There is nothing here.")
    if isinstance(error, KmsAway):
        log.error("no key management: %s", error)
        return _answer(503, error.code, "Keys cannot be had at the moment: try again later.")
    if isinstance(error, KeyDestroyed):
        return _answer(410, error.code, "The key that opened this was destroyed.")
    if isinstance(error, OperationalError | InterfaceError):
        log.warning("no database", exc_info=error)
        return _answer(503, "unavailable", "No database: try again later.")
    if isinstance(error, PermissionDenied):
        return _answer(403, "forbidden", "You may not do this.")
    if isinstance(error, RequestDataTooBig):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return _answer(413, "too_large", f"A body has at most {limit} bytes.")
    if isinstance(error, exceptions.ValidationError):
        return _answer(422, "invalid", "Some fields are not right.", errors=_fields(error.detail))
    if isinstance(error, exceptions.APIException):
        reply = _answer(error.status_code, str(error.get_codes()), str(error.detail))
        if header := getattr(error, "auth_header", ""):
            reply["www-authenticate"] = header
        return reply
    _tell_failure(_context.get("request"))
    return None


def _tell_failure(request: Any) -> None:
    """Its transaction has rolled back; that it was tried stays."""
    if request is None or request.method in ("GET", "HEAD", "OPTIONS"):
        return
    set_rollback()
    if request.user is not None:  # somebody who was let in
        denials.failed(authentication.principal(request), now=timezone.now())


def _answer(status: int, code: str, detail: str, **more: Any) -> Response:
    set_rollback()
    return Response(body(status, code, detail, **more), status=status, content_type=MEDIA_TYPE)


def _fields(detail: Any, path: str = "") -> list[dict[str, str]]:
    """DRF's nested details as a flat list of {field, detail, code}."""
    if isinstance(detail, dict):
        found = []
        for name, inner in detail.items():
            found += _fields(inner, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(detail, list):
        return [item for inner in detail for item in _fields(inner, path)]
    code = getattr(detail, "code", "invalid")
    return [{"field": path or "body", "detail": str(detail), "code": str(code)}]
