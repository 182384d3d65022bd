"""Which metered seconds were serving, which only kept warm, and which meter counts them.

A gateway's worker writes a row of `Activity` when requests come, at least every few seconds while
there are any, and once more when they have ended. What no row shows counts as warm. Seconds are
split only for a kind of device that has a price of its own for keeping warm then; else all are
device-seconds.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from billing import rating
from billing.models import Meter
from billing.pricing import prices
from controlplane.endpoints.models import Activity, ServingInterval
from controlplane.endpoints.serving import Slice

# A row says the most that was in flight since the one before, if that is no older.
COVERS = timedelta(seconds=10)
Span: TypeAlias = tuple[datetime, datetime]


@dataclass(frozen=True)
class Piece:
    """Whole seconds of one meter; all of a Slice together are its seconds."""

    at: datetime
    seconds: int
    meter: Meter


class Rates:
    """Which second meters have a price of their own for an account and a kind, and when."""

    def __init__(self) -> None:
        self._versions = prices.versions("EUR")
        self._tables: dict[str, rating.PriceTable] = {}

    def own(self, meter: Meter, account_id: str, device_kind: str, at: datetime) -> bool:
        table = self._tables.get(account_id)
        if table is None:
            table = rating.PriceTable(self._versions, "EUR", account_id)
            self._tables[account_id] = table
        price = table.at(meter, device_kind, at)
        return price is not None and price.device_kind == device_kind


def parts(
    due: Sequence[tuple[ServingInterval, Sequence[Slice]]],
) -> list[list[tuple[Slice, list[Piece]]]]:
    """Of each interval its slices, each as the pieces that it is made of."""
    rates, splits = Rates(), set()
    for interval, slices in due:
        endpoint, kind = interval.replica.endpoint, interval.replica.version.device_kind
        account_id = endpoint.project.organization.account_id
        if any(rates.own(Meter.WARM_SECONDS, account_id, kind, one.at) for one in slices):
            splits.add((interval.id, endpoint.id))
    first = min((one.at for _, slices in due for one in slices), default=None)
    spans = busy({id for _, id in splits}, first) if splits and first else {}
    split_ids = {id for id, _ in splits}
    return [
        [*_split(interval, slices, spans, rates if interval.id in split_ids else None)]
        for interval, slices in due
    ]


def _split(
    interval: ServingInterval,
    slices: Sequence[Slice],
    spans: Mapping[str, Sequence[Span]],
    rates: Rates | None,
) -> Iterator[tuple[Slice, list[Piece]]]:
    done, endpoint = interval.metered_s, interval.replica.endpoint
    account_id = endpoint.project.organization.account_id
    kind = interval.replica.version.device_kind
    for one in slices:
        if rates is not None and rates.own(Meter.WARM_SECONDS, account_id, kind, one.at):
            yield one, split(one, interval.started_at, done, spans.get(endpoint.id, ()))
        else:
            yield one, [Piece(one.at, one.seconds, Meter.DEVICE_SECONDS)]
        done += one.seconds


def busy(endpoint_ids: Collection[str], since: datetime) -> Mapping[str, Sequence[Span]]:
    """Of each endpoint the spans from `since` on in which a gateway had requests for it."""
    rows = (
        Activity.objects.filter(endpoint_id__in=endpoint_ids, at__gte=since)
        .order_by("at")
        .values_list("endpoint_id", "gateway_id", "worker", "in_flight", "waiting", "at")
    )
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    before: dict[tuple[str, str, int], datetime] = {}
    for endpoint_id, gateway, worker, in_flight, waiting, at in rows:
        key = (endpoint_id, gateway, worker)
        start = before.get(key)
        # After a quiet time a row comes at once, and so its requests had just begun.
        if start is None or at - start > COVERS:
            start = at - timedelta(seconds=1)
        if in_flight or waiting:
            spans[endpoint_id].append((start, at))
        before[key] = at
    return spans


def split(piece: Slice, started_at: datetime, before_s: int, spans: Iterable[Span]) -> list[Piece]:
    """The seconds of `piece`, the first of which is second `before_s` of its stretch."""
    first = started_at + timedelta(seconds=before_s)
    end = first + timedelta(seconds=piece.seconds)
    touched: set[int] = set()
    for start, stop in spans:
        if stop > first and start < end:
            low = max(0, math.floor((start - first).total_seconds()))
            high = min(piece.seconds, math.ceil((stop - first).total_seconds()))
            touched.update(range(low, high))
    pieces = [
        Piece(piece.at, len(touched), Meter.DEVICE_SECONDS),
        Piece(piece.at, piece.seconds - len(touched), Meter.WARM_SECONDS),
    ]
    return [one for one in pieces if one.seconds]
