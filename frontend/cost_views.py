"""What a month costs, by whatever one asks for, and as files."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from urllib.parse import urlencode

from django.core.cache import cache
from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.views.decorators.http import require_safe

from billing import months, rating
from billing.models import Basis
from billing.pricing.terms import CurrencyMismatch
from billing.reports import costs, outlook
from billing.reports.forecast import Forecast
from compliance import exports
from compliance.models import Export
from controlplane.endpoints import access as endpoint_access
from controlplane.endpoints import running
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission
from controlplane.tenancy.models import Organization, Project
from frontend.visits import Request, Visit, page, show

GROUPINGS: tuple[costs.Grouping, ...] = (
    *("endpoint", "key", "project", "organization"),
    *("agent", "run", "hour"),
)
SHOWN = 200  # rows of a table; the files have them all
MONTHS = 12
# A month is summed for it.
KEEP_S = 300
_NOBODY = {
    "key": "no key: replicas' time",
    "endpoint": "no endpoint",
    "project": "no project",
    "agent": "no agent named",
    "run": "no run named",
}


@dataclass(frozen=True)
class Named:
    """A row, what people call it, and the page that says more of it ("": none)."""

    name: str
    address: str
    row: costs.Row


@dataclass(frozen=True)
class Table:
    """The rows that fit on a page, and what the others come to."""

    rows: list[Named]
    more: int
    rest: str


@require_safe
@page
def index(request: Request, visit: Visit) -> HttpResponseBase:
    """`by` one of GROUPINGS; of the project, or `whole=1` organization; `month`: 2026-10."""
    if visit.organization is None:
        return show(request, visit, "nowhere.html")
    organization = access.organization(
        visit.principal, visit.organization.id, Permission.VIEW_COSTS
    )
    wanted = request.GET.get("by", "endpoint")
    grouping = next((one for one in GROUPINGS if one == wanted), GROUPINGS[0])
    whole = grouping in ("project", "organization") or bool(request.GET.get("whole"))
    project = None if whole else visit.project
    shown = months.last(visit.now, MONTHS)
    start = next((one for one in shown if f"{one:%Y-%m}" == request.GET.get("month")), shown[0])
    found = _costs(organization, project, grouping, start, visit.now)
    context: dict[str, Any] = {
        "costs": found,
        "grouping": grouping,
        "groupings": GROUPINGS,
        "project": project,
        "tables": _tables(visit, found, project),
        "unpriced": _unpriced(visit, found),
        "month": start,
        "months": shown,
        "now": start == shown[0],
        "whole": project is None,
        "files": _files(organization, project, start),
        "forecast": _forecast(organization, visit) if start == shown[0] else None,
        "export": _export(visit),
    }
    return show(request, visit, "costs.html", context)


def _costs(
    organization: Organization,
    project: Project | None,
    grouping: costs.Grouping,
    start: datetime,
    now: datetime,
) -> costs.Costs:
    """Of the month from `start` on; the present one as of now, with what is being served."""
    end = months.after(start)
    account = organization.account_id
    return costs.by(
        grouping,
        account,
        start=start,
        end=min(now, end),
        project_id=None if project is None else project.id,
        running=running.running(account, now=now) if now < end else (),
    )


def _tables(visit: Visit, found: costs.Costs, project: Project | None) -> dict[str, Table]:
    names = _names(visit, found)
    return {
        "owed": _table(found, Basis.CHARGE, names, project),
        "attributed": _table(found, Basis.ATTRIBUTION, names, project),
    }


def _table(
    found: costs.Costs, basis: Basis, names: dict[str, str], project: Project | None
) -> Table:
    """Hours by time, the newest first; else the dearest first."""
    rows = [row for row in found.rows if row.basis == basis]
    if found.grouping == "hour":
        rows.reverse()
    else:
        rows.sort(key=lambda row: Decimal(row.exact), reverse=True)
    rest = sum((Decimal(row.exact) for row in rows[SHOWN:]), Decimal(0))
    shown = [
        Named(names.get(row.key, row.key), _address(found.grouping, row.key, project), row)
        for row in rows[:SHOWN]
    ]
    return Table(shown, max(0, len(rows) - SHOWN), str(rating.rounded(Fraction(rest))))


def _address(grouping: str, key: str, project: Project | None) -> str:
    """Runs and agents have a page within their project."""
    if not key or project is None or grouping not in ("agent", "run"):
        return ""
    return reverse("frontend:run", args=[project.id, key])


def _files(
    organization: Organization, project: Project | None, start: datetime
) -> list[tuple[str, str]]:
    """Name and address of each file of the month: of the place shown, FOCUS of all of it."""
    place = {"organization": organization.id} if project is None else {"project": project.id}
    month = {"month": f"{start:%Y-%m}"}
    asked = {
        "CSV": {**place, **month},
        "JSONL": {**place, "as": "jsonl", **month},
        "FOCUS 1.2": {"organization": organization.id, "as": "focus", **month},
    }
    return [(name, f"/api/v1/cost-exports?{urlencode(query)}") for name, query in asked.items()]


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


def _unpriced(visit: Visit, found: costs.Costs) -> list[tuple[str, costs.UnpricedUsage]]:
    names = _names(visit, found) if found.unpriced else {}
    return [(names.get(one.key, one.key), one) for one in found.unpriced]


def _names(visit: Visit, found: costs.Costs) -> dict[str, str]:
    """What people call the things on the bill; those deleted and revoked are on it too. Of runs
    and agents nobody keeps a name."""
    keys = {row.key for row in found.rows}
    if found.grouping == "hour":
        return {key: f"{key[:10]} {key[11:16]}" for key in keys}
    if found.grouping == "organization":
        return {"": visit.organization.name if visit.organization else ""}
    kinds: dict[str, QuerySet[Any]] = {
        "project": access.projects(visit.principal),
        "key": access.api_keys(visit.principal),
        "endpoint": endpoint_access.endpoints_ever(visit.principal),
    }
    named = kinds.get(found.grouping)
    rows = () if named is None else named.filter(id__in=keys).values_list("id", "name")
    return {"": _NOBODY[found.grouping], **dict(rows)}


def _export(visit: Visit) -> Export | None:
    """The newest complete export that holds this month's usage, for those who may have it."""
    if visit.organization is None or not visit.can(Permission.EXPORT):
        return None
    first = months.start_of(visit.now)
    mine = Export.objects.filter(log_id=visit.organization.id, failure="", kind=exports.KIND)
    since = max(first, visit.now - exports.KEPT)
    return mine.filter(completed_at__gt=since, period_end__gt=first).first()
