"""Replicas are made and kept only while budgets pay for their devices.

Scaling reserves some minutes ahead, at its payer's dearest price, and asks again at half. What
cannot be paid for is not made, and what serves is drained while its last reservation still pays
for that. Draining is not billed, so nothing is served beyond a hard budget. In an outage nobody
can ask: `Replica.funded_until` says up to when serving is billed.
"""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import F, FloatField, Q
from django.db.models.functions import Coalesce, Extract, Floor, Least

from billing.models import Budget, Subject, Unit
from billing.pricing import prices
from billing.spending import reserving
from billing.spending.reserving import Ask, Payer
from controlplane.endpoints import notify
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica, ServingInterval
from controlplane.endpoints.node_records import PROOF_WAIT
from controlplane.endpoints.states import LIVE, State
from controlplane.tenancy.models import Project

# After a refusal nothing is asked for this long: gateways give back what they do not use.
RETRY_S = 30.0
_PAID = LIVE - {State.DRAINING, State.ASLEEP}
_ELAPSED_S = Extract(F("ended_at") - F("started_at"), "epoch", output_field=FloatField())
_PROVED_S = Coalesce(F("proved_us") / 1e6, F("served_s"), output_field=FloatField())


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
        version.device_share,
        endpoint.project.organization.account_id,
    )


def unmetered(now: datetime) -> Q:
    """Of serving intervals those that may be billed further: what is proved later is not."""
    due = Q(metered_s__lt=Floor(Least("served_s", _ELAPSED_S, _PROVED_S)))
    proving = Q(ended_at__gt=now - PROOF_WAIT, proved_us__isnull=False)
    return Q(ended_at=None) | due | proving & Q(metered_s__lt=Floor(Least("served_s", _ELAPSED_S)))


class Unfunded(Exception):
    """A hard budget does not pay for a replica."""


def fund(replica_id: str, endpoint_id: str, number: int, *, now: datetime) -> datetime | None:
    """Reserve for a replica of version `number`, about to be made; returns its `funded_until`.

    Raises Unfunded, which is remembered.
    """
    endpoint = Endpoint.objects.select_related("project__organization").get(id=endpoint_id)
    who = payer(endpoint, endpoint.versions.get(number=number))
    payable = reserving.payable([who])
    until = now + timedelta(seconds=settings.RESERVE_S)
    ask = Ask(replica_id, who, since=now, least=until, until=until)
    if reserving.reserve([ask], payable):
        _refused([endpoint_id], now)
        raise Unfunded(endpoint_id)
    _paid([endpoint_id])
    hard = any(budget.hard for budget in payable[who.organization_id, who.project_id])
    return until if hard else None


def renew(*, now: datetime) -> set[str]:
    """Reserve further for every replica that is kept; the ids of those that nobody pays for."""
    _forget(now)
    projects = _bounded()
    _unbound(projects)
    replicas = list(
        Replica.objects.filter(state__in=_PAID, released_at=None, endpoint__project__in=projects)
        .select_related("endpoint__project__organization")
        .prefetch_related("version")
        .defer("log_tail", "engine_report")
        .order_by("id")
    )
    if not replicas:
        return set()
    who = [payer(replica.endpoint, replica.version) for replica in replicas]
    budgets = reserving.payable(who)
    bounded = list(zip(replicas, who, strict=True))
    since = unsettled([replica.id for replica, _ in bounded], now)
    every = {budget for some in budgets.values() for budget in some}
    held = reserving.covered([replica.id for replica, _ in bounded], every)
    versions = prices.versions("EUR")
    funded: dict[str, datetime] = {}
    asking: dict[str, Replica] = {}
    asks = []
    for replica, one in bounded:
        paying = budgets[one.organization_id, one.project_id]
        start = since.get(replica.id, now)
        soon = now + timedelta(seconds=settings.RESERVE_S * _share(replica.id))
        if reserving.lasts(replica.id, one, paying, held, versions, since=start, until=soon):
            _funded(funded, replica, soon)
        else:
            asking[replica.id] = replica
            asks.append(_further(replica.id, one, start, now))
    # A refusal leaves what is held: while it lasts for the draining, nothing is lost.
    unpaid = reserving.reserve(asks, budgets) if asks else set()
    for replica in asking.values():
        if replica.id not in unpaid:
            _funded(funded, replica, now + timedelta(seconds=settings.RESERVE_S / 10))
    broke = {asking[id].endpoint_id for id in unpaid}
    _refused(broke, now)
    _paid({one.endpoint_id for one in asking.values()} - broke)
    _note(funded)
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
        ServingInterval.objects.filter(unmetered(now), replica__in=holders).values_list(
            "replica_id", flat=True
        )
    )
    return reserving.close([one for one in holders if one not in running | owing], now=now)


def _further(replica_id: str, who: Payer, since: datetime, now: datetime) -> Ask:
    least, until = settings.RESERVE_S / 10, settings.RESERVE_S
    return Ask(
        replica_id,
        who,
        since=since,
        least=now + timedelta(seconds=least),
        until=now + timedelta(seconds=until),
    )


def _share(replica_id: str) -> float:
    """Of RESERVE_S, what is left when more is asked for: half or more, and not of all at once."""
    return 0.5 + 0.2 * (zlib.crc32(replica_id.encode()) % 1000) / 1000


def _funded(funded: dict[str, datetime], replica: Replica, until: datetime) -> None:
    """What is held pays until then at least. It never goes back, and is not written each time."""
    known = replica.funded_until
    if known is None or known < until - timedelta(seconds=settings.RESERVE_S / 20):
        funded[replica.id] = until


def _note(funded: dict[str, datetime]) -> None:
    if funded:
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE endpoints_replica r SET funded_until = v.until"
                " FROM unnest(%s::text[], %s::timestamptz[]) AS v(id, until) WHERE r.id = v.id",
                [list(funded), list(funded.values())],
            )


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


def unsettled(replica_ids: Iterable[str], now: datetime) -> dict[str, datetime]:
    """Since when each has served what is not metered."""
    found: dict[str, datetime] = {}
    rows = ServingInterval.objects.filter(unmetered(now), replica__in=list(replica_ids))
    for row in rows:
        start = row.started_at + timedelta(seconds=row.metered_s)
        if row.proved_us is not None:
            # What is missing before the newest record is not billed any more.
            start += timedelta(microseconds=max(0, row.reached_us - row.proved_us))
        found[row.replica_id] = min(start, found.get(row.replica_id, now))
    return found


def _refused(endpoint_ids: Collection[str], now: datetime) -> None:
    if endpoint_ids:
        Endpoint.objects.filter(id__in=endpoint_ids).update(unfunded_at=now)
        notify.changed(*endpoint_ids)


def _paid(endpoint_ids: Collection[str]) -> None:
    was_refused = Endpoint.objects.filter(id__in=endpoint_ids).exclude(unfunded_at=None)
    if endpoint_ids and (ids := list(was_refused.values_list("id", flat=True))):
        was_refused.filter(id__in=ids).update(unfunded_at=None)
        notify.changed(*ids)


def _forget(now: datetime) -> None:
    """Nobody has asked for a while: what was refused then says nothing about now."""
    old = now - 3 * timedelta(seconds=RETRY_S)
    _paid(list(Endpoint.objects.filter(unfunded_at__lt=old).values_list("id", flat=True)))
