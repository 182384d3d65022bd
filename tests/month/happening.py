"""The month as it happens, day by day: sessions on their nodes, then what workers do each night."""

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from django.db import connection, transaction

from billing.models import UsageInbox
from controlplane.endpoints.models import Endpoint
from controlplane.fleet.models import Region
from tests.month import nodes, traffic
from tests.month.customers import Company
from tests.month.nodes import Machine, Played
from tests.month.traffic import Session, Trouble
from workers import metering, reconciling, settling, sleeping

if TYPE_CHECKING:
    from tests.month.story import Told

AT_ONCE = 10_000
_ACTIVITY = (
    "COPY endpoints_activity (endpoint_id, gateway_id, in_flight, at, worker, waiting) FROM STDIN"
)


def live(
    companies: Sequence[Company], sessions: Sequence[Session], born: datetime, told: "Told"
) -> list[Played]:
    """Each day's sessions on their machines; at night they are metered, settled, reconciled."""
    region_authority = nodes.found_authority(Region.objects.get(), born)
    played: list[Played] = []
    with tempfile.TemporaryDirectory(prefix="stoa-month-") as folder:

        def machine(of: Endpoint, what: str) -> Machine:
            if (of.id, what) not in machines:
                place = Path(folder, f"{of.id}-{what}")
                machines[of.id, what] = Machine(region_authority, of, place, born)
            return machines[of.id, what]

        machines: dict[tuple[str, str], Machine] = {}
        days = [[*of] for _, of in groupby(sessions, key=lambda one: one.start.date())]
        for day in told.each(days, "served"):
            with transaction.atomic():  # so that the disk is waited for once
                _look(day)
                for one in day:
                    mine = machine(one.endpoint, "node")
                    spare = machine(one.endpoint, "spare") if one.trouble is Trouble.MOVE else mine
                    played.append(nodes.play(one, mine, spare))
            _night(day[0].start.replace(hour=0, minute=0, second=0) + timedelta(days=1, hours=3))
    return played


def told(played: Sequence[Played]) -> str:
    kinds = Counter(one.session.trouble for one in played if one.session.trouble)
    troubles = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{len(played):,} sessions; {troubles}"


def requests(played: Sequence[Played], end: datetime, seed: int, told: "Told") -> int:
    """What gateways delivered, booked; returns the events."""
    luck, total = random.Random(seed), 0
    asked: list[UsageInbox] = []
    for nth, one in enumerate(told.each(played, "requests")):
        asked += traffic.requests(one.session, one.replicas[0], nth, luck)
        if len(asked) >= AT_ONCE or nth == len(played) - 1:
            UsageInbox.objects.bulk_create(asked, batch_size=2_000)
            asked = []
            while (booked := metering.book_requests(end, limit=AT_ONCE)) > 0:
                total += booked * 3
    told.must(not UsageInbox.objects.filter(booked_at=None).exists(), "requests are not booked")
    return total


def _look(day: Sequence[Session]) -> None:
    """What gateways told of the day: it parts serving from warm seconds."""
    with connection.cursor() as cursor, cursor.copy(_ACTIVITY) as copy:
        for one in day:
            for row in traffic.activity(one):
                copy.write_row((*row, 0, 0))


def _night(now: datetime) -> None:
    while sleeping.meter(now):
        pass
    metering.meter_replicas(now)
    while settling.give_back(now):
        pass
    reconciling.reconcile(now)
