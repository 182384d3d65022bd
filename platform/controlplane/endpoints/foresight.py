"""What the house would say of a wish or a change that nobody has made yet: the checks and the
preflight of its verb, and nothing is written."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.cache import cache

from controlplane.endpoints import images, preflight, sources, start_times, versions
from controlplane.endpoints import spec as specs
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import Endpoint
from controlplane.endpoints.preflight import Outlook
from controlplane.endpoints.spec import EndpointSpec
from controlplane.placement import devices
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import starts
from controlplane.placement.speed.starts import Tier
from controlplane.tenancy.models import Project

KEEP_S = 60  # what starts took is looked up for each letter that is typed


@dataclass(frozen=True)
class StartTime:
    """Seconds of a start of this tier; `measured`: of such starts, not by the formula."""

    tier: Tier
    seconds: Estimate
    measured: bool


@dataclass(frozen=True)
class Foresight:
    """`spec` in its final form; `outlook.verdict` may be "does not fit": the verb refuses that."""

    spec: EndpointSpec
    outlook: Outlook
    starts: Sequence[StartTime] = ()


def of_wish(project: Project, spec: EndpointSpec, now: datetime) -> Foresight:
    """As `services.create` would have it. Raises Invalid, NotFound."""
    spec, pool = specs.check(spec, project.organization)
    sources.check_access(project, spec.source, spec.model, spec.secret)
    images.check_access(project, spec.image)
    outlook = preflight.look(spec, pool, project, now)
    return Foresight(spec, outlook, _starts(project, spec, outlook))


def of_change(endpoint: Endpoint, changes: Mapping[str, Any], now: datetime) -> Foresight:
    """As `versions.change` would have it. Raises Invalid, NotFound."""
    spec, pool = versions.changed(endpoint, changes)
    outlook = preflight.look(spec, pool, endpoint.project, now)
    return Foresight(spec, outlook, _starts(endpoint.project, spec, outlook))


def _starts(project: Project, spec: EndpointSpec, outlook: Outlook) -> list[StartTime]:
    """By tier, the quickest first; nothing where the speed of the device is not known."""
    told = outlook.prediction
    if "device" not in told:
        return []
    try:
        device = devices.find(told["device"])
    except Refusal:
        return []
    if device.throughput is None:
        return []
    each = told["weights_bytes"]["p50"]
    held = starts.Weights(each, each * told["devices"], told["devices"])
    measured = _measured(project, spec, device.name)
    seconds = starts.seconds(held, device.throughput, measured)
    return [StartTime(tier, seconds[tier], tier in measured) for tier in Tier]


def _measured(project: Project, spec: EndpointSpec, device: str) -> Mapping[Tier, Estimate]:
    wish = Wish(spec.source, spec.model, spec.revision)
    asked = repr((project.id, wish, spec.device_kind, device))
    name = f"foresight.starts.{hashlib.sha256(asked.encode()).hexdigest()}"

    def looked_up() -> Mapping[Tier, Estimate]:
        return start_times.of(project, wish, {spec.device_kind: device}).get(device, {})

    found: Mapping[Tier, Estimate] = cache.get_or_set(name, looked_up, KEEP_S) or {}
    return found
