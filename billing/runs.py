"""What runs and agents used, from the requests as gateways delivered them.

These rows are kept for a while only, beside the usage that is kept for good: it knows no runs.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.db.models import Count, F, Max, Min, Q, Sum, Value
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
    rows = UsageInbox.objects.filter(
        ~Q(run="") | ~Q(agent=""), project_id=project_id, closed_at__gte=start, closed_at__lt=end
    )
    if within.startswith("agt_"):
        rows = rows.filter(agent=within)
    elif within:
        rows = rows.annotate(at=StrIndex("run", Value(within))).filter(at__gt=0)
    if grouping == "agent":
        keyed = rows.exclude(agent="").annotate(key=F("agent"))
    elif grouping == "root":
        keyed = rows.exclude(run="").annotate(key=Substr("run", 1, _ROOT_LENGTH))
    else:
        keyed = rows.exclude(run="").annotate(key=F("run"))
    sums = (
        keyed.values("key")
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
    ]
