"""How fast an endpoint's engines are for requests of a shape, as they stand: what a job on them
takes is computed from that.

Of a replica that runs its own word counts for what it holds, as far as its log said it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from billing.models import Meter, UsageInbox
from billing.pricing import prices
from billing.rating import PriceVersion
from controlplane.endpoints import corrections_kept, images, measured_starts, questions
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.questions import CPU
from controlplane.endpoints.states import State
from controlplane.fleet.models import Device as DeviceRow
from controlplane.placement import devices
from controlplane.placement.devices import Device
from controlplane.placement.memory.predict import Question, served
from controlplane.placement.mix import WHOLE
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import engines, refining
from controlplane.placement.speed.corrections import Key, likeness
from controlplane.placement.speed.engines import Engine, Learned, Running, TooSmall
from controlplane.placement.speed.load import Shape

LINE = "brq_"  # how ids of requests of batches begin


class Unforeseen(Exception):
    """Nothing can be said of its speed; the message says why, for a person."""


@dataclass(frozen=True)
class Standing:
    """What an endpoint has now; `replicas` are at least the one that somebody who waits wakes."""

    replicas: int
    devices: int
    price: PriceVersion | None  # of a device-hour


@dataclass(frozen=True)
class Paced:
    """An engine as it is used; `key` is what measurements of it are kept by."""

    engine: Engine
    key: Key


def standing(endpoint: Endpoint, now: datetime) -> Standing:
    ready = Replica.objects.filter(endpoint=endpoint, state=State.READY).count()
    account = endpoint.project.organization.account
    price = prices.in_force(
        Meter.DEVICE_SECONDS,
        endpoint.device_kind,
        at=now,
        currency=account.currency,
        account_id=account.id,
    )
    replicas = max(1, ready)
    return Standing(replicas, replicas * endpoint.devices_each, price)


def engine(endpoint: Endpoint, shape: Shape, at_once: int, share: float, now: datetime) -> Paced:
    """One replica's, with at most so many requests at once, and that share of its places. Raises
    Unforeseen."""
    if endpoint.device_kind == CPU:
        raise Unforeseen(f"there is no speed for {CPU}")
    if endpoint.engine == images.CUSTOM or endpoint.image is not None:
        raise Unforeseen("the speed of an image of one's own is not known")
    if endpoint.engine != "vllm":
        raise Unforeseen(f"predictions are of vLLM's speed, not of {endpoint.engine}'s")
    if endpoint.device_share < WHOLE:
        raise Unforeseen("the speed of a shared device is not known")
    try:
        with questions.sense():
            asked, learned = _question(endpoint, now)
            found = engines.build(asked, endpoint.model, shape, learned, _running(endpoint))
    except Refusal as refusal:
        raise Unforeseen(f"it takes {refusal.fact}") from None
    except TooSmall as why:
        raise Unforeseen(str(why)) from None
    each = max(1, min(int(share * found.limits.sequences), -(-at_once // found.lanes)))
    found = replace(found, limits=replace(found.limits, sequences=each))
    scheme = served(asked.model, asked.arguments).quantization.scheme
    key = Key(likeness(asked.model), asked.device.name, found.arguments.ranks, scheme)
    return Paced(found, key)


def learn(
    endpoint: Endpoint,
    paced: Paced,
    *,
    about: str,
    predicted: float,
    measured: float,
    now: datetime,
) -> bool:
    """Keep how much slower than that it was, by tokens in the same seconds, for later predictions;
    whether it is news. `about`: what was measured, once."""
    return corrections_kept.measured(
        paced.key,
        about=about,
        organization=endpoint.project.organization,
        shared=endpoint.pool.organization_id is None,
        ratio=paced.engine.machine.slower * predicted / measured,
        now=now,
    )


def alone(endpoint: Endpoint, began: datetime, ended: datetime) -> bool:
    """Whether nothing but batches asked anything of it then, as far as gateways have told."""
    asked = UsageInbox.objects.filter(endpoint_id=endpoint.id)
    beside = asked.filter(opened_at__lt=ended, closed_at__gt=began)
    return not beside.exclude(request_id__startswith=LINE).exists()


def _question(endpoint: Endpoint, now: datetime) -> tuple[Question, Learned]:
    wish = Wish(endpoint.source, endpoint.model, endpoint.revision)
    known = questions.known(endpoint.project, wish, now)
    device = _device(endpoint)
    organization = endpoint.project.organization
    asked = questions.question(
        known,
        device,
        questions.arguments(endpoint.model, endpoint.engine_args),
        questions.version(endpoint.engine_version),
        measured_starts.starts(organization, device.name),
    )
    corrections = corrections_kept.of(organization, likeness(known.model))
    return asked, Learned(corrections, refining.installed())


def _device(endpoint: Endpoint) -> Device:
    """The least of its kind in its pool."""
    rows = DeviceRow.objects.filter(
        node__pool=endpoint.pool, node__removed_at=None, healthy=True, kind=endpoint.device_kind
    )
    least = rows.order_by("memory_bytes").values_list("memory_bytes", flat=True).first()
    found = questions.device(endpoint.device_kind, least or 0)
    # A part of one, or one with another memory, is not what was measured.
    whole = found in devices.known().values()
    return found if whole else replace(found, throughput=None)


def _running(endpoint: Endpoint) -> Running | None:
    """Of the replica that holds least."""
    ready = Replica.objects.filter(endpoint=endpoint, state=State.READY)
    said = [
        Running(int(report["max_num_seqs"]), int(report["kv_cache_tokens"]))
        for report in ready.values_list("engine_report", flat=True)
        if report.get("max_num_seqs") and report.get("kv_cache_tokens")
    ]
    return min(said, key=lambda one: one.tokens, default=None)
