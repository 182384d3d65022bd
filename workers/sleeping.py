"""Asleep seconds: a line of their own, where a kind of device has a price of its own for them."""

from collections.abc import Iterator
from datetime import datetime

from django.db import transaction
from django.db.models import F, FloatField, Q
from django.db.models.functions import Extract, Floor, Least

from billing.meters import usage
from billing.models import Meter
from billing.spending import reserving
from controlplane.endpoints import funding, serving
from controlplane.endpoints.models import AsleepInterval
from controlplane.endpoints.serving import Slice
from workers import device_usage
from workers.warmth import Rates

AT_ONCE = 500
_CLOCK_S = Extract(F("ended_at") - F("started_at"), "epoch", output_field=FloatField())
_PROVED_S = F("proved_us") / 1e6
_DUE = Q(ended_at=None, metered_s__lt=Floor(_PROVED_S)) | Q(
    metered_s__lt=Floor(Least(_PROVED_S, _CLOCK_S, output_field=FloatField()))
)


def meter(now: datetime) -> int:
    """Turn seconds that replicas slept into usage, minute by minute; returns the new events.

    What has no price is marked as metered, and is no usage.
    """
    ids = AsleepInterval.objects.filter(_DUE).order_by("id").values_list("id", flat=True)
    with transaction.atomic():
        rows = (
            AsleepInterval.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("replica__endpoint__project__organization")
            .prefetch_related("replica__version")
            .defer("replica__log_tail", "replica__engine_report")
            .filter(id__in=list(ids[:AT_ONCE]))
            .order_by("id")
        )
        due = [(one, slices) for one in rows if (slices := _slices(one, now))]
        rates = Rates()
        priced = [(one, [*_priced(one, slices, rates)]) for one, slices in due]
        written = usage.record(_event(one, piece) for one, slices in priced for piece in slices)
        reserving.settle([_served(one, slices) for one, slices in priced if slices])
        for one, slices in due:
            one.metered_s += sum(piece.seconds for piece in slices)
            one.save(update_fields=["metered_s"])
    return written


def _slices(interval: AsleepInterval, now: datetime) -> list[Slice]:
    return serving.slices(
        started_at=interval.started_at,
        ended_at=interval.ended_at,
        served_s=interval.proved_us / 1e6,
        metered_s=interval.metered_s,
        now=now,
    )


def _priced(interval: AsleepInterval, slices: list[Slice], rates: Rates) -> Iterator[Slice]:
    account_id = interval.replica.endpoint.project.organization.account_id
    kind = interval.replica.version.device_kind
    for one in slices:
        if rates.own(Meter.ASLEEP_SECONDS, account_id, kind, one.at):
            yield one


def _event(interval: AsleepInterval, piece: Slice) -> usage.Event:
    name = f"{interval.replica.id}:{interval.id}:{piece.name}"
    return device_usage.event(interval.replica, name, piece.at, Meter.ASLEEP_SECONDS, piece.seconds)


def _served(interval: AsleepInterval, slices: list[Slice]) -> reserving.Served:
    version = interval.replica.version
    meter = Meter.ASLEEP_SECONDS.value
    pieces = [(one.at, one.seconds * version.devices_each, meter) for one in slices]
    return reserving.Served(
        interval.replica_id, funding.payer(interval.replica.endpoint, version), pieces
    )
