"""How far a rollout is, and whether it goes on, is over, or has failed. Pure; rollouts.py acts.

A rollout ends well when every replica is of its version and has been watched for a while. It
fails when the version does not get ready, or serves worse than the one before (verdict.py).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from controlplane.endpoints.models import Rollout
from controlplane.endpoints.rollout_plan import RolloutPlan, load


class Outcome(StrEnum):
    PROGRESSING = "progressing"
    COMPLETE = "complete"
    FAILED = "failed"  # by itself; the version before serves again
    ABORTED = "aborted"  # by somebody; the version before serves again
    SUPERSEDED = "superseded"  # by another change


class RolloutReason(StrEnum):
    """Why a rollout stands where it does. A closed list: people and alarms branch on it."""

    STARTING = "starting"  # the first replica of the version is to prove itself
    WAITING_FOR_DEVICES = "waiting_for_devices"
    ASLEEP = "asleep"  # nothing runs, and nobody asks
    STOPPED = "endpoint_stopped"
    CANARY = "canary"  # watched, with its share of traffic
    WAITING_FOR_TRAFFIC = "waiting_for_traffic"  # too few requests to judge by
    WAITING_FOR_PROMOTION = "waiting_for_promotion"
    REPLACING = "replacing"  # replica by replica
    WATCHING = "watching"  # all are replaced
    COMPLETE = "rollout_complete"
    PROMOTED = "promoted"
    START_FAILED = "start_failed"
    DEADLINE_EXCEEDED = "progress_deadline_exceeded"
    ERROR_RATE = "error_rate"
    LATENCY = "latency"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    DELETED = "endpoint_deleted"


ADVICE: dict[RolloutReason, str] = {
    RolloutReason.STARTING: "Wait: the old version serves until a replica of the new one answers.",
    RolloutReason.WAITING_FOR_DEVICES: "A new replica needs devices beside the old ones: free "
    "some, or roll without a canary, which replaces one after the other.",
    RolloutReason.ASLEEP: "Nothing runs: it goes on with the next request, or start the endpoint.",
    RolloutReason.STOPPED: "Start the endpoint: it goes on then.",
    RolloutReason.CANARY: "Wait, or promote or abort it.",
    RolloutReason.WAITING_FOR_TRAFFIC: "Send it requests, raise its share, or promote it.",
    RolloutReason.WAITING_FOR_PROMOTION: "Promote or abort it.",
    RolloutReason.REPLACING: "Wait: each old replica goes when a new one serves.",
    RolloutReason.WATCHING: "Wait, or promote it: all replicas are of the new version.",
    RolloutReason.START_FAILED: "Read the failed replica's last log lines; change the spec.",
    RolloutReason.DEADLINE_EXCEEDED: "Read the newest replica's log; a large model may need a "
    "longer progress_deadline_s.",
    RolloutReason.ERROR_RATE: "Read the engine's log of the new version's replicas.",
    RolloutReason.LATENCY: "Compare the two specs; a lower share of load may show the cause.",
}


@dataclass(frozen=True)
class Worse:
    """The new version serves worse than the old one, beyond chance."""

    reason: RolloutReason
    detail: str


@dataclass(frozen=True)
class Facts:
    """What is seen of an endpoint while a rollout is under way."""

    on: bool = True
    deleted: bool = False
    ready: int = 0  # replicas of the new version
    live: int = 0  # of it, on their way included
    waiting: bool = False  # one of it waits for devices
    others: int = 0  # live replicas of other versions, those that drain included
    draining: int = 0  # replicas that answer what they were asked and then end: that has its time
    awake: int = 0  # replicas of whatever version that live and do not sleep
    requests: int = 0  # that the new version got
    worse: Worse | None = None
    failure: str = ""  # the last failed start's own words
    fetched_at: datetime | None = None  # when more bytes of its weights came last
    listening_since: datetime | None = None  # before that nobody looked


@dataclass(frozen=True)
class Decision:
    reason: RolloutReason
    outcome: Outcome = Outcome.PROGRESSING
    detail: str = ""
    changes: dict[str, Any] = field(default_factory=dict)  # columns of the rollout


def judge(rollout: Rollout, facts: Facts, now: datetime) -> Decision:
    """What `rollout`, which is under way, comes to."""
    plan = load(rollout.plan)
    if facts.deleted:
        return Decision(RolloutReason.DELETED, Outcome.ABORTED)
    if rollout.failures >= plan.max_failed_starts + facts.ready:
        return Decision(RolloutReason.START_FAILED, Outcome.FAILED, facts.failure)
    if facts.worse is not None:
        return Decision(facts.worse.reason, Outcome.FAILED, facts.worse.detail)
    idle = not (facts.on and facts.awake)
    changes: dict[str, Any] = {}
    if idle or facts.draining or facts.ready > rollout.most_ready:
        changes = {"progress_at": now, "most_ready": max(facts.ready, rollout.most_ready)}
    if facts.ready and rollout.proved_at is None:
        changes["proved_at"] = now
    if not facts.on:
        return Decision(RolloutReason.STOPPED, changes=changes)
    if idle:
        return Decision(RolloutReason.ASLEEP, changes=changes)
    if facts.ready and rollout.share is not None:
        return _canary(rollout, plan, facts, now, changes)
    if not facts.others and facts.ready and facts.ready == facts.live:
        return _replaced(rollout, plan, now, changes)
    if _overdue(rollout, plan, facts, now) and not changes:
        detail = f"no progress in {plan.progress_deadline_s} s. {facts.failure}".strip()
        return Decision(RolloutReason.DEADLINE_EXCEEDED, Outcome.FAILED, detail)
    if facts.waiting:
        return Decision(RolloutReason.WAITING_FOR_DEVICES, changes=changes)
    reason = RolloutReason.REPLACING if facts.ready else RolloutReason.STARTING
    return Decision(reason, changes=changes)


def _canary(
    rollout: Rollout, plan: RolloutPlan, facts: Facts, now: datetime, changes: dict[str, Any]
) -> Decision:
    """A replica of it serves: no deadline runs, only the watch over this step."""
    changes |= {"progress_at": now} if rollout.step_at is None else {}
    since = changes.setdefault("step_at", rollout.step_at or now)
    step = plan.steps[rollout.step]
    if now - since < timedelta(seconds=step.for_s):
        return Decision(RolloutReason.CANARY, changes=changes)
    if not plan.automatic:
        return Decision(RolloutReason.WAITING_FOR_PROMOTION, changes=changes)
    if facts.requests < plan.min_requests * (rollout.step + 1):
        detail = f"{facts.requests} requests of {plan.min_requests * (rollout.step + 1)}"
        return Decision(RolloutReason.WAITING_FOR_TRAFFIC, detail=detail, changes=changes)
    changes |= stepped(rollout, plan, now)
    reason = RolloutReason.CANARY if changes["share"] is not None else RolloutReason.REPLACING
    return Decision(reason, changes=changes)


def stepped(rollout: Rollout, plan: RolloutPlan, now: datetime) -> dict[str, Any]:
    """The columns of a canary's next step; after the last one it rolls on."""
    step = rollout.step + 1
    last = step >= len(plan.steps)
    return {
        "step": step,
        "share": None if last else plan.steps[step].share,
        "step_at": None if last else now,
        "progress_at": now,
    }


def _replaced(
    rollout: Rollout, plan: RolloutPlan, now: datetime, changes: dict[str, Any]
) -> Decision:
    since = changes.setdefault("replaced_at", rollout.replaced_at or now)
    # A canary was watched before.
    if not plan.steps and now - since < timedelta(seconds=plan.for_s):
        return Decision(RolloutReason.WATCHING, changes=changes)
    return Decision(RolloutReason.COMPLETE, Outcome.COMPLETE, changes=changes)


def _overdue(rollout: Rollout, plan: RolloutPlan, facts: Facts, now: datetime) -> bool:
    if facts.listening_since is None:
        return False
    moments = (rollout.progress_at, facts.listening_since, facts.fetched_at)
    since = max(at for at in moments if at is not None)
    return now - since >= timedelta(seconds=plan.progress_deadline_s)
