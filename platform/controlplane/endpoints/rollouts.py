"""Rollouts that are under way: looked at with each sweep, promoted and aborted by hand.

Each step is one transaction under the endpoint's lock, decided anew on what it finds there, so
any number of reconcilers may do it, and be killed at any line.
"""

from datetime import datetime

from django.db import transaction
from django.db.models import Count, Max, Q

from compliance import audit
from controlplane.endpoints import notify, rollout_health, rollout_rows, verdict
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, EndpointVersion, Replica, Rollout
from controlplane.endpoints.rollout_plan import load
from controlplane.endpoints.rollout_progress import (
    Decision,
    Facts,
    Outcome,
    RolloutReason,
    Worse,
    judge,
    stepped,
)
from controlplane.endpoints.states import LIVE, Reason, State
from controlplane.endpoints.wishes import locked, wished

_ENDED = {Outcome.COMPLETE: "rollout.complete", Outcome.FAILED: "rollout.fail"}


def promote(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Go on at once: a canary to its next share, or to all; what is watched is complete.

    Raises NotFound; Invalid where nothing is under way, or no replica of it was ready yet.
    """
    with transaction.atomic():
        endpoint = locked(endpoint)
        rollout = _open(endpoint)
        if rollout.proved_at is None:
            raise Invalid("no replica of the new version has been ready yet", code="not_proved")
        if rollout.share is not None:
            changes = stepped(rollout, load(rollout.plan), now)
            _put(rollout, Decision(RolloutReason.PROMOTED, changes=changes))
        elif rollout.replaced_at is not None:
            rollout_rows.end(rollout, Outcome.COMPLETE, RolloutReason.PROMOTED, now=now)
        else:
            return endpoint  # it goes on by itself
        _told(endpoint, rollout, actor, "rollout.promote", now)
    return endpoint


def abort(*, actor: audit.Actor, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Go back to the version that served before. Raises NotFound; Invalid: none is under way."""
    with transaction.atomic():
        endpoint = locked(endpoint)
        rollout = _open(endpoint)
        rollout_rows.end(rollout, Outcome.ABORTED, RolloutReason.ABORTED, now=now)
        rollout_rows.adopt(endpoint, _version(rollout, rollout.from_number))
        _told(endpoint, rollout, actor, "rollout.abort", now)
    return endpoint


def tend(
    *,
    now: datetime,
    listening_since: datetime | None,
    endpoint_id: str | None = None,
) -> int:
    """Take each rollout that is under way as far as it can go; how many moved."""
    rows = Rollout.objects.filter(state=Outcome.PROGRESSING).order_by("id")
    if endpoint_id is not None:
        rows = rows.filter(endpoint=endpoint_id)
    pairs = list(rows.values_list("id", "endpoint_id"))
    return sum(_tend(id, endpoint, now, listening_since) for id, endpoint in pairs)


def _tend(
    rollout_id: str, endpoint_id: str, now: datetime, listening_since: datetime | None
) -> bool:
    with transaction.atomic():
        endpoints = Endpoint.objects.select_for_update(no_key=True, of=("self",))
        endpoint = endpoints.select_related("project").get(id=endpoint_id)
        rollout = Rollout.objects.filter(id=rollout_id, state=Outcome.PROGRESSING).first()
        if rollout is None:
            return False
        facts = _facts(endpoint, rollout, listening_since)
        decision = judge(rollout, facts, now)
        if decision.outcome is Outcome.PROGRESSING:
            return _put(rollout, decision)
        _end(endpoint, rollout, decision, now)
        return True


def _facts(endpoint: Endpoint, rollout: Rollout, listening_since: datetime | None) -> Facts:
    mine = Q(generation=rollout.to_number)
    counts = Replica.objects.filter(endpoint=endpoint, state__in=LIVE).aggregate(
        ready=Count("id", filter=mine & Q(state=State.READY)),
        live=Count("id", filter=mine & ~Q(state=State.DRAINING)),
        waiting=Count("id", filter=mine & Q(state=State.REQUESTED, reason=Reason.NO_CAPACITY)),
        others=Count("id", filter=~mine),
        draining=Count("id", filter=Q(state=State.DRAINING)),
        awake=Count("id", filter=~Q(state=State.ASLEEP)),
        fetched_at=Max("progress_at", filter=mine),
    )
    failed = Replica.objects.filter(mine, endpoint=endpoint, state=State.FAILED)
    last = failed.order_by("-state_at").values_list("reason", "detail").first()
    got = rollout_health.requests(rollout).get(rollout.to_number, 0)
    return Facts(
        on=endpoint.stopped_at is None,
        deleted=endpoint.deleted_at is not None,
        ready=counts["ready"],
        live=counts["live"],
        waiting=bool(counts["waiting"]),
        others=counts["others"],
        draining=counts["draining"],
        awake=counts["awake"],
        requests=got,
        worse=_look(rollout, got),
        failure=": ".join(filter(None, last)) if last else "",
        fetched_at=counts["fetched_at"],
        listening_since=listening_since,
    )


def _look(rollout: Rollout, got: int) -> Worse | None:
    """The versions are compared at certain counts of requests, and at each of them once."""
    due = verdict.looks_due(got)
    if due <= rollout.looks:
        return None
    new, old = rollout_health.of(rollout)
    rollout.looks = due
    rollout.health = {"new": _seen(new), "old": _seen(old)}
    Rollout.objects.filter(id=rollout.id).update(looks=due, health=rollout.health)
    return verdict.worse(new, old, load(rollout.plan), due)


def _seen(one: verdict.Health) -> dict[str, float]:
    return {
        "requests": one.requests,
        "errors": one.errors,
        "first_p95_s": round(verdict.quantile_s(one.first), 4),
        "total_p95_s": round(verdict.quantile_s(one.total), 4),
    }


def _put(rollout: Rollout, decision: Decision) -> bool:
    """True if anything became different."""
    said = {"reason": decision.reason, "detail": decision.detail[:300]}
    changes = {
        name: value
        for name, value in (said | decision.changes).items()
        if getattr(rollout, name) != value
    }
    if not changes:
        return False
    Rollout.objects.filter(id=rollout.id, state=Outcome.PROGRESSING).update(**changes)
    if changes.keys() - {"progress_at"}:
        notify.changed(rollout.endpoint_id)
    return bool(changes.keys() - {"progress_at"})


def _end(endpoint: Endpoint, rollout: Rollout, decision: Decision, now: datetime) -> None:
    reason, outcome = decision.reason, decision.outcome
    if outcome is Outcome.FAILED and rollout_rows.was_ready(endpoint.id, rollout.from_number):
        rollout_rows.adopt(endpoint, _version(rollout, rollout.from_number))
    rollout_rows.end(rollout, outcome, reason, now=now, detail=decision.detail)
    if action := _ENDED.get(outcome):
        _told(endpoint, rollout, audit.SYSTEM, action, now, reason=reason)


def _told(
    endpoint: Endpoint,
    rollout: Rollout,
    actor: audit.Actor,
    action: str,
    now: datetime,
    *,
    reason: str = "",
) -> None:
    wished(
        endpoint,
        actor,
        action,
        now,
        reason=reason,
        change=[
            audit.Change("rollout", None, rollout.id),
            audit.Change("version", rollout.to_number, endpoint.generation),
        ],
    )


def _open(endpoint: Endpoint) -> Rollout:
    if (found := rollout_rows.under_way(endpoint.id)) is None:
        raise Invalid("no rollout is under way", code="no_rollout")
    return found


def _version(rollout: Rollout, number: int) -> EndpointVersion:
    return EndpointVersion.objects.get(endpoint=rollout.endpoint_id, number=number)
