"""How long starts of a model took on each kind of device: for quotes.

Its own organization's count, and those of others where the model is open to everybody and the nodes
serve everybody; of any organization the newest few.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import Q

from controlplane.endpoints import starts
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import ModelFacts, Start
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.speed.starts import Tier
from controlplane.tenancy.models import Project

LEAST = 3  # starts that say more than the formula
EACH = 10  # of one organization on one kind of device in one tier
NEWEST = 500


def of(project: Project, wish: Wish, names: Mapping[str, str]) -> dict[str, dict[Tier, Estimate]]:
    """Seconds by the device's name and tier. `names`: those of kinds of device, as placement has
    them; starts on others are left out."""
    organization = project.organization
    mine = Q(endpoint__project__organization=organization)
    public = ModelFacts.objects.filter(source=wish.source, model=wish.model, project=None)
    if public.exists():
        mine |= Q(endpoint__pool__organization=None)
    rows = Start.objects.filter(
        mine,
        ready=True,
        replica__version__spec__source=wish.source,
        replica__version__spec__model=wish.model,
        replica__version__spec__device_kind__in=list(names),
    ).order_by("-id")
    fields = ("replica__version__spec__device_kind", "tier", "total_s", "phases")
    some = rows.values_list("endpoint__project__organization_id", *fields)[:NEWEST]
    return _figures(some, names)


def _figures(
    rows: Iterable[tuple[str, str, str, float, Any]], names: Mapping[str, str]
) -> dict[str, dict[Tier, Estimate]]:
    alike: Counter[tuple[str, str, str]] = Counter()
    seconds: dict[tuple[str, Tier], list[float]] = defaultdict(list)
    for organization, kind, tier, total_s, phases in rows:
        alike[organization, kind, tier] += 1
        if tier in set(Tier) and alike[organization, kind, tier] <= EACH:
            # The wait for free devices is not the start's.
            seconds[names[kind], Tier(tier)].append(max(0.0, total_s - phases.get("queued", 0.0)))
    found: dict[str, dict[Tier, Estimate]] = defaultdict(dict)
    for (name, tier), some in seconds.items():
        if len(some) >= LEAST:
            found[name][tier] = Estimate(*starts.spread(some))
    return dict(found)
