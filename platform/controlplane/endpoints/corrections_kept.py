"""How fast engines were, measured over predicted: kept once for each thing that was measured, used
by every later quote.

As with starts, what was measured on nodes of one organization teaches that organization alone, and
of any organization's measurements that are alike only the newest few count.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

from django.db.models import Q

from controlplane.endpoints.models import SpeedCorrection
from controlplane.placement.speed import corrections
from controlplane.placement.speed.corrections import Correction, Key
from controlplane.tenancy.models import Organization

EACH = 5  # of one organization that are alike
NEWEST = 500  # rows that a quote looks at
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


def of(organization: Organization, like: str) -> Mapping[Key, Correction]:
    """What a quote for this organization may go by, of models that are alike (`likeness`)."""
    mine = SpeedCorrection.objects.filter(Q(shared=True) | Q(organization=organization), model=like)
    alike: Counter[tuple[str, Key]] = Counter()
    found: dict[Key, list[float]] = defaultdict(list)
    for row in mine.order_by("-at", "about")[:NEWEST]:
        key = Key(row.model, row.device, row.ranks, row.quantization)
        alike[row.organization_id, key] += 1
        if alike[row.organization_id, key] <= EACH:
            found[key].append(row.ratio)
    return {
        key: corrections.learn((ratio, 1.0) for ratio in reversed(ratios))
        for key, ratios in found.items()
    }


def _plausible(ratio: float) -> bool:
    return math.isfinite(ratio) and BOUNDS[0] <= ratio <= BOUNDS[1]
