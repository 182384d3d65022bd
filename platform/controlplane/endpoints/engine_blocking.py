"""A blocked engine version: who is on it, told at once, and rolled to another by a deadline.

Owners may move before that. Rolling begins ahead of the deadline, so that it is over by then; what
went back to the old version, since the new one did not serve, is rolled once more at the deadline.
`tend` is run again and again, by any number of processes: each step finds what is left to do.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from compliance import audit
from controlplane.endpoints import engine_versions, versions
from controlplane.endpoints.engine_models import EngineVersion
from controlplane.endpoints.engine_versions import Status
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica
from controlplane.endpoints.states import LIVE
from controlplane.tenancy import notices
from controlplane.tenancy.errors import TenancyError

log = logging.getLogger(__name__)

LEAD = timedelta(hours=6)  # rolling begins so long before the deadline, or at half the time
MOST = timedelta(days=180)


@dataclass(frozen=True)
class OnIt:
    """An endpoint on a version: that it wishes for it, or that so many replicas still run it."""

    endpoint: Endpoint
    wishes: bool
    replicas: int


def block(
    *,
    actor: audit.Actor,
    version: EngineVersion,
    deadline: datetime,
    now: datetime,
    replacement: str = "",
    note: str = "",
) -> EngineVersion:
    """Nobody may choose it any more; owners of endpoints on it are told, and rolled by `deadline`
    to `replacement`, by default the newest that is supported. Raises Invalid."""
    if not now <= deadline <= now + MOST:
        message = f"expected a time from now to {MOST.days} days from now"
        raise Invalid(message, code="invalid_deadline", field="deadline")
    with transaction.atomic():
        row = engine_versions.locked(version)
        if (row.status, row.deadline) == (Status.BLOCKED, deadline):
            return row
        others = EngineVersion.objects.filter(engine=row.engine).exclude(pk=row.pk)
        there = {one.version: one for one in others}
        target = there.get(replacement) if replacement else engine_versions.newest(there)
        if target is None or target.status != Status.SUPPORTED:
            message = f"there is no supported version of {row.engine} to roll to: add one first"
            raise Invalid(message, code="no_replacement", field="replacement")
        row.replacement, row.deadline = target.version, deadline
        engine_versions.put(row, Status.BLOCKED, note, now)
        engine_versions.tell(row, "engine_version.block", actor, now)
        _tell_owners(row, now)
        # What was to be rolled to this one would never be: nobody may choose it any more.
        for one in others.select_for_update().filter(
            status=Status.BLOCKED, replacement=row.version
        ):
            one.replacement = target.version
            one.save(update_fields=["replacement"])
            engine_versions.tell(one, "engine_version.block", actor, now)
    return row


def support(*, actor: audit.Actor, version: EngineVersion, now: datetime) -> EngineVersion:
    """It may be chosen again; what was told of its block no longer holds, and what was not rolled
    yet stays."""
    with transaction.atomic():
        row = engine_versions.locked(version)
        if row.status == Status.SUPPORTED:
            return row
        told = _key(row)
        engine_versions.put(row, Status.SUPPORTED, "", now)
        engine_versions.tell(row, "engine_version.support", actor, now)
        if told:
            notices.withdraw(actor=actor, about=_target(row), key=told, now=now)
    return row


def tend(*, now: datetime) -> int:
    """Ship, tell and roll what is due; how many endpoints were sent on their way."""
    engine_versions.ship(now)
    done = 0
    for row in EngineVersion.objects.filter(status=Status.BLOCKED).order_by("id"):
        with transaction.atomic():
            _tell_owners(row, now)
        if now >= rolls_at(row):
            done += sum(_roll(row, one.endpoint, now) for one in on_it(row) if one.wishes)
    return done


def rolls_at(row: EngineVersion) -> datetime:
    """When rolling begins."""
    assert row.deadline is not None
    return row.deadline - min(LEAD, (row.deadline - row.changed_at) / 2)


def on_it(row: EngineVersion) -> list[OnIt]:
    """The endpoints on a version, by what they wish for and by what their replicas run."""
    runs = dict(
        _replicas(row).values("endpoint").annotate(n=Count("id")).values_list("endpoint", "n")
    )
    mine = Endpoint.objects.filter(engine=row.engine, deleted_at=None)
    wishing = Q(engine_version=row.version)
    unnamed = Q(engine_version="", image__isnull=True)
    if row.version in engine_versions.shipped(row.engine):
        # As nodes have it: this version, unless one that runs says another.
        wishing |= unnamed & ~Q(id__in=_elsewhere(row))
    else:
        wishing |= unnamed & Q(id__in=runs)
    wishes = set(mine.filter(wishing).values_list("id", flat=True))
    found = Endpoint.objects.filter(id__in=wishes | runs.keys(), deleted_at=None)
    rows = found.select_related("project__organization").order_by("id")
    return [OnIt(one, one.id in wishes, runs.get(one.id, 0)) for one in rows]


def _replicas(row: EngineVersion) -> QuerySet[Replica]:
    """Those that live and run it, by their own word or by their version's."""
    live = Replica.objects.filter(state__in=LIVE, endpoint__engine=row.engine)
    return live.filter(says(row.version) | Q(version__spec__engine_version=row.version))


def _elsewhere(row: EngineVersion) -> QuerySet[Replica, str]:
    """Endpoints with a replica that says that it runs another version."""
    said = Replica.objects.filter(state__in=LIVE, endpoint__engine=row.engine)
    known = said.filter(engine_report__has_key="version").exclude(engine_report__version="")
    others = known.exclude(says(row.version))
    return others.values_list("endpoint_id", flat=True)


def says(version: str) -> Q:
    """Replicas that say that they run it; builds of a version differ behind a plus."""
    return Q(engine_report__version=version) | Q(engine_report__version__startswith=f"{version}+")


def tried(row: EngineVersion, endpoint: Endpoint, now: datetime) -> bool:
    """Whether it was sent to the replacement since it became due: ahead, and at the deadline."""
    assert row.deadline is not None
    since = row.deadline if now >= row.deadline else rolls_at(row)
    sent = EndpointVersion.objects.filter(
        endpoint=endpoint,
        created_by=audit.SYSTEM.id,
        created_at__gte=since,
        spec__engine_version=row.replacement,
    )
    return sent.exists()


def _roll(row: EngineVersion, endpoint: Endpoint, now: datetime) -> bool:
    """Send an endpoint to the replacement, unless that was tried since it became due."""
    if tried(row, endpoint, now):
        return False
    try:
        changed = versions.change(
            actor=audit.SYSTEM,
            endpoint=endpoint,
            changes={"engine_version": row.replacement},
            note=f"{row} is blocked",
            now=now,
        )
    except TenancyError as error:  # one endpoint must not stop the others
        log.warning("endpoint %s is not rolled off %s: %s", endpoint.id, row, error)
        return False
    return changed.engine_version == row.replacement


def _tell_owners(row: EngineVersion, now: datetime) -> None:
    """Each organization once, whoever comes later too."""
    assert row.deadline is not None
    names = defaultdict(list)
    for one in on_it(row):
        own = "" if one.wishes or one.endpoint.image is None else " (own image)"
        names[one.endpoint.project.organization].append(f"{one.endpoint.name}{own}")
    why = f" The operator says: {row.note}." if row.note else ""
    for organization, mine in names.items():
        notices.tell(
            organization,
            subject=f"{row} is blocked",
            text=(
                f"Endpoints on it: {', '.join(sorted(mine)[:20])}.{why} By "
                f"{row.deadline:%Y-%m-%d %H:%M} UTC they are rolled to {row.engine} "
                f"{row.replacement}, replica by replica; change `engine_version` yourself to do "
                "it sooner. One with an image of its own is yours to change by then: it is not "
                "rolled, and serves on."
            ),
            about=_target(row),
            key=_key(row),
            now=now,
        )


def _target(row: EngineVersion) -> audit.Target:
    return audit.Target("engine_version", row.id)


def _key(row: EngineVersion) -> str:
    """Of this block: blocked anew, it is told anew."""
    return f"blocked {row.changed_at.isoformat()}" if row.status == Status.BLOCKED else ""
