"""What runs and agents used, from the requests as gateways delivered them.

These rows are kept for a while only, beside the usage that is kept for good: it knows no runs.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.db.models import Count, F, Max, Min, Q, QuerySet, Sum, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import StrIndex, Substr

from billing.models import UsageInbox

Grouping = Literal["run", "root", "agent"]
_ROOT_LENGTH = len("run_") + 20


@dataclass(frozen=True)
class Used:
    """`key`: the reference of an agent or of a root run, or a run's path of references."""

    key: str
    nano_eur: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    calls: int
    first_at: datetime
    last_at: datetime


def used(
    project_id: str,
    grouping: Grouping,
    *,
    start: datetime,
    end: datetime,
    within: str = "",
    limit: int = 100,
    skip: int = 0,
) -> list[Used]:
    """The dearest first. `within`: a run's or an agent's reference: only its own, and for a run
    what the runs below it used."""
    rows = _rows(project_id, start, end, within)
    if grouping == "agent":
        return _summed(rows.exclude(agent=""), F("agent"), limit, skip)
    key = Substr("run", 1, _ROOT_LENGTH) if grouping == "root" else F("run")
    return _summed(rows.exclude(run=""), key, limit, skip)


@dataclass(frozen=True)
class Summary:
    """Of a run with all that is below it: in all, and the dearest first."""

    whole: Used
    agents: list[Used]  # an empty key: of no agent
    runs: list[Used]


def summary(
    project_id: str, run: str, *, start: datetime, end: datetime, limit: int = 100
) -> Summary | None:
    """`run`: its reference. None where it used nothing."""
    rows = _rows(project_id, start, end, run)
    whole = _summed(rows, Value(run), 1)
    if not whole:
        return None
    return Summary(
        whole[0],
        _summed(rows, F("agent"), limit),
        _summed(rows, F("run"), limit),
    )


def _rows(project_id: str, start: datetime, end: datetime, within: str) -> QuerySet[UsageInbox]:
    rows = UsageInbox.objects.filter(
        ~Q(run="") | ~Q(agent=""), project_id=project_id, closed_at__gte=start, closed_at__lt=end
    )
    if within.startswith("agt_"):
        return rows.filter(agent=within)
    if within:
        return rows.annotate(at=StrIndex("run", Value(within))).filter(at__gt=0)
    return rows


def _summed(rows: QuerySet[UsageInbox], key: Combinable, limit: int, skip: int = 0) -> list[Used]:
    sums = (
        rows.annotate(key=key)
        .values("key")
        .annotate(
            cost=Sum("nano_eur"),
            tokens_in=Sum("input_tokens"),
            tokens_cached=Sum("cached_tokens"),
            tokens_out=Sum("output_tokens"),
            calls=Count("request_id"),
            first=Min("opened_at"),
            last=Max("closed_at"),
        )
        .order_by("-cost", "key")[skip : skip + limit]
    )
    return [
        Used(
            key=row["key"],
            nano_eur=int(row["cost"]),
            input_tokens=int(row["tokens_in"]),
            cached_tokens=int(row["tokens_cached"]),
            output_tokens=int(row["tokens_out"]),
            calls=row["calls"],
            first_at=row["first"],
            last_at=row["last"],
        )
        for row in sums
        if row["calls"]  # a constant key has a row even of nothing
    ]
