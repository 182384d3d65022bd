"""How fast engines were, measured over predicted: kept once for each thing that was measured, used
by every later quote.

As with starts, what was measured on nodes of one organization teaches that organization alone. An
organization can make its own engines look slow, so that for others all its measurements that are
alike count as one, and not beyond what others saw.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from statistics import median
from typing import Literal

from django.db.models import Q, Window
from django.db.models.functions import RowNumber

from controlplane.endpoints.models import SpeedCorrection
from controlplane.placement.speed import corrections
from controlplane.placement.speed.corrections import Correction, Key
from controlplane.tenancy.models import Organization

EACH = 10  # the newest of one organization that are alike
BOUNDS = (corrections.NARROWEST, corrections.WIDEST)  # beyond it is another thing than a speed


def measured(
    key: Key,
    *,
    about: str,
    organization: Organization,
    shared: bool,
    ratio: float,
    now: datetime,
    ratio_ttft: float | None = None,
) -> bool:
    """Keep one measurement; whether it is news. Idempotent by `about` (at most 80 characters).

    `ratio`: seconds of a token, measured over those of the formula without any correction;
    `ratio_ttft`: the same of a first token. `shared`: it ran on nodes that serve several
    organizations. What is out of bounds is not kept.
    """
    if not _plausible(ratio):
        return False
    _, new = SpeedCorrection.objects.get_or_create(
        about=about,
        defaults={
            "organization": organization,
            "shared": shared,
            "model": key.model[:160],
            "device": key.device[:64],
            "ranks": key.ranks,
            "quantization": key.quantization[:64],
            "ratio": ratio,
            "ratio_ttft": ratio_ttft if ratio_ttft and _plausible(ratio_ttft) else None,
            "at": now,
        },
    )
    return new


def of(
    organization: Organization, like: str, figure: Literal["ratio", "ratio_ttft"] = "ratio"
) -> Mapping[Key, Correction]:
    """What a quote for this organization may go by, of models that are alike (`likeness`)."""
    mine = SpeedCorrection.objects.filter(Q(shared=True) | Q(organization=organization), model=like)
    mine = mine.exclude(**{figure: None})
    of_each = Window(
        RowNumber(),
        partition_by=("organization_id", "device", "ranks", "quantization"),
        order_by=("-at", "about"),
    )
    found: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in mine.annotate(place=of_each).filter(place__lte=EACH).order_by("-at", "about"):
        key = Key(row.model, row.device, row.ranks, row.quantization)
        found[key][row.organization_id].append(getattr(row, figure))
    return {key: _correction(ratios, organization.id) for key, ratios in found.items()}


def _correction(newest_first: Mapping[str, list[float]], own: str) -> Correction:
    """Of each other organization its middle counts, as one measurement, and of all those the middle
    (of an even number the one nearer to the formula); one's own come on top, as the newest."""
    logs = {id: [math.log(ratio) for ratio in ratios] for id, ratios in newest_first.items()}
    others = sorted(median(each) for id, each in logs.items() if id != own)
    found = Correction()
    if others:
        halves = others[(len(others) - 1) // 2], others[len(others) // 2]
        middle = min(halves, key=abs)
        spread = sum((each - middle) ** 2 for each in others) / len(others)
        found = Correction(len(others), middle, spread)
    for ratio in reversed(newest_first.get(own, [])):
        found = found.seen(ratio, 1.0)
    return found


def _plausible(ratio: float) -> bool:
    return math.isfinite(ratio) and BOUNDS[0] <= ratio <= BOUNDS[1]
