"""What this month has cost so far."""

from typing import Any

from django.core.cache import cache
from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from billing import months
from billing.models import Basis
from billing.pricing.terms import CurrencyMismatch
from billing.reports import costs, outlook
from billing.reports.forecast import Forecast
from compliance.models import Export
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import running
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization
from frontend.visits import Request, Visit, page, show

GROUPINGS: tuple[costs.Grouping, ...] = ("endpoint", "key", "project", "hour")
# A month is summed for it.
KEEP_S = 300
_NOBODY = {"key": "no key: replicas' time", "endpoint": "no endpoint", "project": "no project"}


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """By endpoint, key, project or hour (`by`); of the project, or `whole=1` organization."""
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    organization = access.organization(
        visit.principal, visit.organization.id, Permission.VIEW_COSTS
    )
    wanted = request.GET.get("by", "endpoint")
    grouping = next((one for one in GROUPINGS if one == wanted), GROUPINGS[0])
    whole = grouping == "project" or "whole" in request.GET or visit.project is None
    found = costs.so_far(
        organization.account_id,
        now=visit.now,
        grouping=grouping,
        project_id=None if whole or visit.project is None else visit.project.id,
        running=running.running(organization.account_id, now=visit.now),
    )
    names = _names(visit, found)
    context: dict[str, Any] = {
        "costs": found,
        "grouping": grouping,
        "groupings": GROUPINGS,
        "whole": whole,
        "owed": _named(found, Basis.CHARGE, names),
        "attributed": _named(found, Basis.ATTRIBUTION, names),
        "unpriced": [(names.get(one.key, one.key), one) for one in found.unpriced],
        "month": visit.now,
        "forecast": _forecast(organization, visit),
        "export": _export(visit),
    }
    return show(request, visit, "costs.html", context)


def _forecast(organization: Organization, visit: Visit) -> Forecast | None:
    """Of the whole organization, at most KEEP_S old; None where terms cannot be applied."""
    name = f"frontend.forecast.{organization.id}"
    found: Forecast | None = cache.get(name)
    if found is None:
        try:
            found = outlook.to_month_end(organization.account_id, now=visit.now)
        except CurrencyMismatch:
            return None
        cache.set(name, found, KEEP_S)
    return found


def _names(visit: Visit, found: costs.Costs) -> dict[str, str]:
    """What people call the things on the bill; those deleted and revoked are on it too."""
    keys = {row.key for row in found.rows}
    if found.grouping == "hour":
        return {key: f"{key[:10]} {key[11:16]}" for key in keys}
    kinds: dict[str, QuerySet[Any]] = {
        "project": access.projects(visit.principal),
        "key": access.api_keys(visit.principal),
        "endpoint": endpoint_access.endpoints_ever(visit.principal),
    }
    named = kinds[found.grouping].filter(id__in=keys).values_list("id", "name")
    return {"": _NOBODY[found.grouping], **dict(named)}


def _named(found: costs.Costs, basis: Basis, names: dict[str, str]) -> list[tuple[str, costs.Row]]:
    rows = [(names.get(row.key, row.key), row) for row in found.rows if row.basis == basis]
    if found.grouping == "hour":
        return rows[::-1]
    return sorted(rows, key=lambda one: float(one[1].exact), reverse=True)


def _export(visit: Visit) -> Export | None:
    """The newest complete export that holds this month's usage, for those who may have it."""
    if visit.organization is None or not visit.can(Permission.EXPORT):
        return None
    first = months.start_of(visit.now)
    mine = Export.objects.filter(log_id=visit.organization.id, failure="")
    return mine.filter(completed_at__gte=first, period_end__gt=first).first()
