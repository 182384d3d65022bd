"""The rows of rollouts: how one is opened and how it ends. Callers hold the endpoint's lock."""

from datetime import datetime, timedelta

from django.conf import settings

from controlplane.endpoints.backoff import delay_s
from controlplane.endpoints.models import Endpoint, EndpointVersion, Rollout, Transition
from controlplane.endpoints.rollout_plan import RolloutPlan
from controlplane.endpoints.rollout_progress import Outcome, RolloutReason
from controlplane.endpoints.states import State
from controlplane.endpoints.version_spec import ADDED, FIELDS


def under_way(endpoint_id: str) -> Rollout | None:
    return Rollout.objects.filter(endpoint=endpoint_id, state=Outcome.PROGRESSING).first()


def newest(endpoint: Endpoint) -> Rollout | None:
    """The one that is under way, or was last."""
    return Rollout.objects.filter(endpoint=endpoint).order_by("-id").first()


def open(
    endpoint: Endpoint,
    version: EndpointVersion,
    plan: RolloutPlan,
    *,
    by: str,
    note: str,
    now: datetime,
) -> None:
    """The endpoint is to run `version`. One that is under way ends here.

    What serves is then still what that one came from: going back there needs no rollout.
    """
    stable = endpoint.generation
    if (old := under_way(endpoint.id)) is not None:
        stable = old.from_number
        back = version.number == stable
        reason = RolloutReason.ROLLED_BACK if back else RolloutReason.SUPERSEDED
        end(old, Outcome.ABORTED if back else Outcome.SUPERSEDED, reason, now=now)
    adopt(endpoint, version)
    if version.number == stable:
        return
    Rollout.objects.create(
        endpoint=endpoint,
        from_number=stable,
        to_number=version.number,
        plan=plan.kept(),
        reason=RolloutReason.STARTING,
        share=plan.steps[0].share if plan.steps else None,
        progress_at=now,
        started_at=now,
        started_by=by,
        note=note,
    )


def adopt(endpoint: Endpoint, version: EndpointVersion) -> None:
    """Wish for this version from now on, and try it at once."""
    for name in FIELDS:
        setattr(endpoint, name, (ADDED | version.spec)[name])
    endpoint.generation = version.number
    endpoint.failures, endpoint.retry_at = 0, None
    endpoint.save(update_fields=[*FIELDS, "generation", "failures", "retry_at"])


def end(
    rollout: Rollout, outcome: Outcome, reason: RolloutReason, *, now: datetime, detail: str = ""
) -> bool:
    """True if this call ended it."""
    return bool(
        Rollout.objects.filter(id=rollout.id, state=Outcome.PROGRESSING).update(
            state=outcome, reason=reason, detail=detail[:300], ended_at=now
        )
    )


def counted(endpoint_id: str, number: int, to: State, fault: bool, now: datetime) -> bool:
    """Whether the move is one of a version on its way, whose back-off then is the rollout's.

    Failures are never forgotten there: one that starts and dies again and again has failed.
    """
    mine = Rollout.objects.filter(endpoint=endpoint_id, to_number=number, state=Outcome.PROGRESSING)
    if to is State.READY:
        return bool(mine.update(retry_at=None))
    if to is not State.FAILED or not fault:
        return False
    row = mine.values_list("id", "failures").first()
    if row is None:
        return False
    failures = min(row[1] + 1, 1000)
    wait_s = delay_s(failures, settings.RETRY_BASE_S, settings.RETRY_MAX_S)
    return bool(mine.update(failures=failures, retry_at=now + timedelta(seconds=wait_s)))


def previous(endpoint: Endpoint) -> int | None:
    """The version that served before the one that is wished for."""
    rows = Rollout.objects.filter(endpoint=endpoint, to_number=endpoint.generation)
    served = rows.filter(state__in=(Outcome.PROGRESSING, Outcome.COMPLETE)).order_by("-id")
    return served.values_list("from_number", flat=True).first()


def was_ready(endpoint_id: str, number: int) -> bool:
    """Whether a replica of the version has ever served."""
    return Transition.objects.filter(
        replica__endpoint=endpoint_id, replica__generation=number, to_state=State.READY
    ).exists()
