"""What a day of traffic teaches: how fast its engines were, over what the formula says of that day.

Once for each endpoint and day. The formula is asked about the traffic that came, not about what
somebody expected; what it has learned so far is left out, or it would learn of itself.
"""

import logging
from datetime import UTC, datetime, time, timedelta

from django.db import transaction
from django.db.models import Q

from controlplane.endpoints import corrections_kept, measured_starts, questions
from controlplane.endpoints.model_facts import Wish
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica, ServedDay
from controlplane.fleet.models import Device
from controlplane.placement.memory.predict import Question
from controlplane.placement.mix import WHOLE
from controlplane.placement.refusals import Refusal
from controlplane.placement.speed import engines, forecasts
from controlplane.placement.speed.engines import Engine, TooSmall
from controlplane.placement.speed.load import Load, Shape

log = logging.getLogger(__name__)

LEAST_REQUESTS = 100  # of which a day says something
AT_ONCE = 20  # days of endpoints in one go: each takes up to a second


def teach(now: datetime, limit: int = AT_ONCE) -> int:
    """Learn of days that are kept and were not looked at; how many were. Safe side by side.

    Each is learned in a transaction of its own: what is killed in between is looked at again.
    """
    done = 0
    while done < limit and _next(now):
        done += 1
    return done


def _next(now: datetime) -> bool:
    with transaction.atomic():
        rows = ServedDay.objects.select_for_update(skip_locked=True, of=("self",))
        row = rows.filter(taught_at=None).order_by("day", "id").first()
        if row is None:
            return False
        try:
            with questions.sense():
                _learn(row, now)
        except (Refusal, TooSmall) as why:
            log.info("%s: its day teaches nothing: %s", row.endpoint_id, why)
        row.taught_at = now
        row.save(update_fields=["taught_at"])
    return True


def _learn(row: ServedDay, now: datetime) -> None:
    """Raises Refusal, TooSmall with why nothing is learned."""
    figures, endpoint = row.figures, row.endpoint
    if figures["timed_requests"] < LEAST_REQUESTS or not figures["served_s"]:
        raise Refusal(f"{LEAST_REQUESTS} requests whose tokens were timed")
    version, device = _ran(endpoint, row)
    question = _question(endpoint, version, device, now)
    load = _load(row, version)
    engine = engines.build(question, version.model, load.shape)
    predicted = _forecast(engine, load)
    corrections_kept.measured(
        engines.key(question),
        about=f"{endpoint.id} {row.day.isoformat()}",
        organization=endpoint.project.organization,
        shared=endpoint.pool.organization_id is None,
        ratio=figures["tpot_s"]["p50"] / predicted.tpot_s.p50,
        ratio_ttft=figures["ttft_s"]["p50"] / predicted.ttft_s.p50,
        now=now,
    )


def _forecast(engine: Engine, load: Load) -> forecasts.Forecast:
    """Of one replica; one that could not keep up is not compared: its queue would be."""
    if not forecasts.keeps_up(engine, load, 1):
        raise Refusal("a load that the formula thinks possible")
    return forecasts.of_load(engine, load, 1)


def _load(row: ServedDay, version: EndpointVersion) -> Load:
    """What one replica got, in the mean of the time that it served."""
    figures = row.figures
    requests, read = figures["requests"], figures["input_tokens"]
    replica_s = figures["device_s"] / version.devices_each
    if replica_s <= 0 or read < requests or figures["output_tokens"] < requests:
        raise Refusal("its tokens and the seconds that it served")
    cached = min(0.99, figures["cached_tokens"] / read)
    shape = Shape(read / requests, figures["output_tokens"] / requests, cached)
    return Load(requests / replica_s, shape)


def _ran(endpoint: Endpoint, row: ServedDay) -> tuple[EndpointVersion, Device]:
    """The one version of the day, and a device that it was on."""
    begins = datetime.combine(row.day, time(), UTC)
    ends = begins + timedelta(days=1)
    there = Q(intervals__ended_at=None) | Q(intervals__ended_at__gt=begins)
    found = Replica.objects.filter(there, endpoint=endpoint, intervals__started_at__lt=ends)
    replicas = list(found.select_related("version", "node").distinct())
    if len({one.generation for one in replicas}) != 1:
        raise Refusal("one version that served all day")
    replica = replicas[0]
    version = replica.version
    if version.engine != "vllm" or version.image is not None:
        raise Refusal("an engine that we bring")
    if version.device_kind == questions.CPU or replica.node is None:
        raise Refusal("GPUs of one node")
    if version.device_share < WHOLE:
        raise Refusal("a device of its own: neighbours slow it down")
    device = Device.objects.filter(node=replica.node, kind=version.device_kind).first()
    if device is None:
        raise Refusal("its devices")
    return version, device


def _question(endpoint: Endpoint, version: EndpointVersion, row: Device, now: datetime) -> Question:
    wish = Wish(version.source, version.model, version.revision)
    found = questions.known(endpoint.project, wish, now)
    device = questions.device(row.kind, row.memory_bytes)
    if device.throughput is None or not questions.whole(device):
        raise Refusal(f"the checked speed of device {row.kind!r}")
    return questions.question(
        found,
        device,
        questions.arguments(version.model, version.spec["engine_args"]),
        questions.version(version.engine_version),
        measured_starts.starts(endpoint.project.organization, device.name),
    )
