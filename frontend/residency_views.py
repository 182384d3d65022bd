"""Residency: where data is kept, the no-transfer report of a period, and receipts of requests."""

import json
import re
from datetime import UTC, date, datetime, time, timedelta

from django.contrib import messages
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from billing import months
from compliance.log import signing
from controlplane.residency import locations, receipts, transfers
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.errors import NotFound
from frontend import whose
from frontend.visits import Request, Visit, page, show

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    mine = whose.of(visit, visit.organization.id)
    assert mine.organization is not None
    since = _day(request, "since", months.start_of(visit.now).date())
    until = _day(request, "until", visit.now.astimezone(UTC).date())
    if until < since:
        since, until = until, since
    span = transfers.Span(mine.organization, _midnight(since), _midnight(until + timedelta(days=1)))
    there = locations.register(mine.organization, visit.now)
    context = {
        "whose": mine,
        "since": since.isoformat(),
        "until": until.isoformat(),
        "report": transfers.report(span),
        "locations": there,
        "not_stated": locations.unstated(there),
    }
    return show(request, visit, "residency.html", context)


@require_safe
@page
def receipt(request: Request, visit: Visit) -> HttpResponseBase:
    """The signed receipt of a request, as a file; a stranger's request does not exist."""
    wanted = request.GET.get("request", "").strip()
    try:
        if "\0" in wanted:
            raise NotFound("request")
        project = access.project(visit.principal, receipts.project_of(wanted), Permission.READ)
        made = receipts.issue(
            actor=visit.principal.actor, project=project, request_id=wanted, now=visit.now
        )
        text = json.dumps(receipts.answer(wanted, made), indent=1)
    except NotFound:
        messages.error(request, "There is no such request, or it has not been delivered yet.")
    except receipts.NotYet as wait:
        messages.error(request, f"There is no receipt yet: {wait}.")
    except (signing.SignerAway, signing.Refused):
        messages.error(request, "The signer does not answer just now.")
    else:
        name = f'attachment; filename="receipt-{made.sha256[:12]}.json"'
        headers = {"content-disposition": name}
        return HttpResponse(text, content_type="application/json", headers=headers)
    return redirect("frontend:residency")


def _day(request: Request, name: str, default: date) -> date:
    given = request.GET.get(name, "")
    try:
        return date.fromisoformat(given) if _DAY.fullmatch(given) else default
    except ValueError:
        return default


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
