"""Replicas are made and kept only while budgets pay for their devices.

Scaling reserves some minutes ahead, at list price, and asks again when half of that is used. What
cannot be paid for is not made, and what serves is drained while its last reservation still pays
for that. Draining is not billed, so nothing is served beyond a hard budget. In an outage nobody
can ask: `Replica.funded_until` says up to when serving is billed.
"""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F, FloatField, Q
from django.db.models.functions import Extract, Floor, Least

from billing import prices, reserving
from billing.models import Budget, Subject, Unit
from billing.reserving import Payer
from controlplane.endpoints import notify
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica, ServingInterval
from controlplane.endpoints.states import LIVE, State
from controlplane.tenancy.models import Project

# After a refusal nothing is asked for this long: gateways give back what they do not use.
RETRY_S = 30.0
_PAID = LIVE - {State.DRAINING, State.ASLEEP}
_ELAPSED_S = Extract(F("ended_at") - F("started_at"), "epoch", output_field=FloatField())
UNMETERED = Q(ended_at=None) | Q(metered_s__lt=Floor(Least("served_s", _ELAPSED_S)))


@dataclass(frozen=True)
class _Paid:
    """A replica that serves, or will, and since when it is not settled."""

    replica_id: str
    endpoint_id: str
    payer: Payer
    since: datetime


def payer(endpoint: Endpoint, version: EndpointVersion) -> Payer:
    """`version` is what the replica in question runs."""
    return Payer(
        endpoint.project.organization_id,
        endpoint.project_id,
        version.device_kind,
        version.devices_each,
    )


class Unfunded(Exception):
    """A hard budget does not pay for a replica."""


def fund(replica_id: str, endpoint_id: str, number: int, *, now: datetime) -> datetime | None:
    """Reserve for a replica of version `number`, about to be made; returns its `funded_until`.

    Raises Unfunded, which is remembered.
    """
    endpoint = Endpoint.objects.select_related("project").get(id=endpoint_id)
    who = payer(endpoint, endpoint.versions.get(number=number))
    budgets = reserving.payable([who])[who.organization_id, who.project_id]
    until = now + timedelta(seconds=settings.RESERVE_S)
    if reserving.reserve(replica_id, who, budgets, since=now, least=until, until=until):
        _paid(endpoint_id)
        return until if any(budget.hard for budget in budgets) else None
    _refused(endpoint_id, now)
    raise Unfunded(endpoint_id)


def renew(*, now: datetime) -> set[str]:
    """Reserve further for every replica that is kept; the ids of those that nobody pays for."""
    _forget(now)
    projects = _bounded()
    _unbound(projects)
    replicas = list(
        Replica.objects.filter(state__in=_PAID, released_at=None, endpoint__project__in=projects)
        .select_related("endpoint__project")
        .prefetch_related("version")
        .defer("log_tail", "engine_report")
        .order_by("id")
    )
    if not replicas:
        return set()
    who = [payer(replica.endpoint, replica.version) for replica in replicas]
    budgets = reserving.payable(who)
    bounded = list(zip(replicas, who, strict=True))
    since = _unsettled([replica.id for replica, _ in bounded], now)
    every = {budget for some in budgets.values() for budget in some}
    held = reserving.covered([replica.id for replica, _ in bounded], every)
    versions = prices.versions("EUR")
    unpaid = set()
    funded: dict[str, datetime] = {}
    for replica, one in bounded:
        paying = budgets[one.organization_id, one.project_id]
        start = since.get(replica.id, now)
        soon = now + timedelta(seconds=settings.RESERVE_S * _share(replica.id))
        if reserving.lasts(replica.id, one, paying, held, versions, since=start, until=soon):
            _funded(funded, replica, soon)
            continue
        if _further(replica.id, one, paying, start, now):
            _funded(funded, replica, now + timedelta(seconds=settings.RESERVE_S / 10))
            _paid(replica.endpoint_id)
        else:
            unpaid.add(replica.id)
            _refused(replica.endpoint_id, now)
    for until in set(funded.values()):
        ids = [id for id, each in funded.items() if each == until]
        Replica.objects.filter(id__in=ids).update(funded_until=until)
    return unpaid


def close_ended(now: datetime) -> int:
    """Free what replicas held that are over and metered; returns the leases that ended."""
    holders = reserving.holders()
    if not holders:
        return 0
    running = set(
        Replica.objects.filter(id__in=holders, state__in=LIVE).values_list("id", flat=True)
    )
    owing = set(
        ServingInterval.objects.filter(UNMETERED, replica__in=holders).values_list(
            "replica_id", flat=True
        )
    )
    return reserving.close([one for one in holders if one not in running | owing], now=now)


def _further(
    replica_id: str, who: Payer, paying: list[Budget], since: datetime, now: datetime
) -> bool:
    """A refusal leaves what is held: while it lasts for the draining, nothing is lost."""
    return reserving.reserve(
        replica_id,
        who,
        paying,
        since=since,
        least=now + timedelta(seconds=settings.RESERVE_S / 10),
        until=now + timedelta(seconds=settings.RESERVE_S),
    )


def _share(replica_id: str) -> float:
    """Of RESERVE_S, what is left when more is asked for: half or more, and not of all at once."""
    return 0.5 + 0.2 * (zlib.crc32(replica_id.encode()) % 1000) / 1000


def _funded(funded: dict[str, datetime], replica: Replica, until: datetime) -> None:
    """What is held pays until then at least. It never goes back, and is not written each time."""
    known = replica.funded_until
    if known is None or known < until - timedelta(seconds=settings.RESERVE_S / 20):
        funded[replica.id] = until


def _bounded() -> list[str]:
    """The projects that have a hard budget in euro, or whose organization has."""
    hard = Budget.objects.filter(unit=Unit.NANO_EUR, hard=True, deleted_at=None)
    of = {
        subject: list(hard.filter(subject=subject).values_list("subject_id", flat=True))
        for subject in (Subject.ORGANIZATION, Subject.PROJECT)
    }
    found = Project.objects.filter(
        Q(organization__in=of[Subject.ORGANIZATION]) | Q(id__in=of[Subject.PROJECT])
    )
    return list(found.values_list("id", flat=True))


def _unbound(bounded: Collection[str]) -> None:
    """The others' hard budgets are gone: all of their time is billed."""
    free = Replica.objects.filter(
        state__in=_PAID, released_at=None, funded_until__isnull=False
    ).exclude(endpoint__project__in=bounded)
    if ids := list(free.values_list("id", flat=True)):
        Replica.objects.filter(id__in=ids).update(funded_until=None)


def _unsettled(replica_ids: Iterable[str], now: datetime) -> dict[str, datetime]:
    """Since when each has served what is not metered."""
    found: dict[str, datetime] = {}
    rows = ServingInterval.objects.filter(UNMETERED, replica__in=list(replica_ids))
    for row in rows:
        start = row.started_at + timedelta(seconds=row.metered_s)
        found[row.replica_id] = min(start, found.get(row.replica_id, now))
    return found


def _refused(endpoint_id: str, now: datetime) -> None:
    Endpoint.objects.filter(id=endpoint_id).update(unfunded_at=now)
    notify.changed(endpoint_id)


def _paid(endpoint_id: str) -> None:
    if Endpoint.objects.filter(id=endpoint_id).exclude(unfunded_at=None).update(unfunded_at=None):
        notify.changed(endpoint_id)


def _forget(now: datetime) -> None:
    """Nobody has asked for a while: what was refused then says nothing about now."""
    old = now - 3 * timedelta(seconds=RETRY_S)
    for endpoint_id in Endpoint.objects.filter(unfunded_at__lt=old).values_list("id", flat=True):
        _paid(endpoint_id)
