"""How an endpoint is, in one word for people and in conditions for programs. Asks no database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controlplane.endpoints import adapters
from controlplane.endpoints.models import Endpoint, Replica, Rollout
from controlplane.endpoints.rollout_progress import ADVICE as ROLLOUT_ADVICE
from controlplane.endpoints.rollout_progress import Outcome, RolloutReason
from controlplane.endpoints.states import COMING, LIVE, Reason, State


class Status(StrEnum):
    PENDING = "pending"  # it waits for devices, or for the reconciler
    STARTING = "starting"
    READY = "ready"
    UPDATING = "updating"  # it serves, and some replicas are being replaced
    UNREACHABLE = "unreachable"  # its nodes are silent
    ASLEEP = "asleep"  # a request wakes its engine
    SCALED_TO_ZERO = "scaled_to_zero"  # a request wakes it
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # the last start failed; another follows after the back-off
    DELETED = "deleted"


@dataclass(frozen=True)
class Condition:
    """As in Kubernetes. `status` is "True" or "False"; `reason` is empty, or of a closed list:
    states.Reason, but of Progressing rollout_progress.RolloutReason and of AdaptersLoaded
    wire.AdapterReason."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_at: datetime


@dataclass(frozen=True)
class Summary:
    status: Status
    message: str
    ready_replicas: int
    conditions: tuple[Condition, ...]


# What somebody can do about it.
ADVICE: dict[Reason, str] = {
    Reason.CAPPED: "What may wait warm today is used up: raise the cap, or await its next day.",
    Reason.SCHEDULED: "A schedule or a declared burst wants it: change that to have fewer.",
    Reason.NO_CAPACITY: "Wait for devices to become free, stop another endpoint, or add a node.",
    Reason.FETCH_FAILED: "Check that the nodes reach the model's source; it is tried again.",
    Reason.MODEL_NOT_FOUND: "Check the model's name or path, and the revision.",
    Reason.ACCESS_DENIED: "Give the project a secret that the model's source accepts.",
    Reason.ENGINE_EXITED: "Read the last log lines: an engine argument may not suit the model.",
    Reason.PROBE_FAILED: "The engine listened but did not answer: read the last log lines.",
    Reason.TOOL_PROBE_FAILED: "Set the engine arg `tool_call_parser` that suits the model, use a "
    "model whose chat template knows tools, or leave `tools` out of the capabilities.",
    Reason.SCHEMA_PROBE_FAILED: "Use a model with a chat template, or leave `json_schema` out of "
    "the capabilities.",
    Reason.START_TIMEOUT: "The start made no progress: read the last log lines.",
    Reason.DEVICE_DIRTY: "Nothing to do: it is tried on another device. The operator finds what is "
    "left on this one, and the cure, on its node's page.",
    Reason.NODE_UNREACHABLE: "The node is silent: check its network and its agent.",
    Reason.NODE_LOST: "The node was given up: a replica is made elsewhere if there is room.",
    Reason.ENGINE_MISSING: "The engine ended while its node was not looking; it is started again.",
    Reason.BUDGET_EXHAUSTED: "A budget does not pay for its devices: raise it, or await its reset.",
    Reason.CANNOT_SLEEP: "Its engine refused to sleep; it serves on, and sleeps no more.",
    Reason.YIELDED: "Another endpoint needed its devices; asked for, it starts again.",
    Reason.ROLLED_BACK: "Its version was taken back: see the endpoint's newest rollout.",
    Reason.IMAGE_NOT_FOUND: "Check the image's reference: registry, repository, tag or digest.",
    Reason.CONTAINERS_MISSING: "No node of the pool runs images: set one up with podman or Docker "
    "(STOA_AGENT_CONTAINERS), or choose another pool.",
    Reason.WALLS_MISSING: "The node cannot isolate tenants: run its agent with the rights for it.",
}


def summarize(
    endpoint: Endpoint, replicas: Sequence[Replica], rollout: Rollout | None = None
) -> Summary:
    """`replicas`: those that live, and at least the newest of those that are over.

    `rollout`: the newest, if there was one.
    """
    live = [r for r in replicas if r.state in LIVE]
    ready = [r for r in live if r.state == State.READY]
    ended = sorted((r for r in replicas if r.state not in LIVE), key=lambda r: r.state_at)
    status, message = _status(endpoint, live, ready, ended[-1] if ended else None)
    return Summary(
        status=status,
        message=message,
        ready_replicas=len(ready),
        conditions=(
            _ready(endpoint, live, ready, message),
            _scheduled(endpoint, live),
            _healthy(endpoint, ended),
            _funded(endpoint),
            *_proved(ready),
            *_adapters(endpoint, live),
            _available(endpoint, status, ready),
            *([_progressing(rollout)] if rollout is not None else []),
        ),
    )


def _status(
    endpoint: Endpoint, live: list[Replica], ready: list[Replica], last: Replica | None
) -> tuple[Status, str]:
    if endpoint.deleted_at is not None:
        return (Status.STOPPING, "being deleted") if live else (Status.DELETED, "deleted")
    if endpoint.stopped_at is not None:
        return (Status.STOPPING, "stopping") if live else (Status.STOPPED, "stopped")
    if ready:
        if any(r.generation != endpoint.generation or r.state in COMING for r in live):
            return Status.UPDATING, f"{len(ready)} ready, others on their way"
        return Status.READY, f"{len(ready)} ready"
    if any(r.state == State.UNREACHABLE for r in live):
        return Status.UNREACHABLE, ADVICE[Reason.NODE_UNREACHABLE]
    coming = [r for r in live if r.state in COMING]
    if started := [r for r in coming if r.state != State.REQUESTED]:
        return Status.STARTING, f"a replica is {started[0].state}"
    if coming:
        return Status.PENDING, coming[0].detail or "waiting for devices"
    if any(r.state == State.ASLEEP for r in live):
        return Status.ASLEEP, "its engine sleeps; a request wakes it"
    if endpoint.unfunded_at is not None:
        return Status.PENDING, ADVICE[Reason.BUDGET_EXHAUSTED]
    if endpoint.failures and last is not None and last.state == State.FAILED:
        return Status.FAILED, _failure(last)
    if endpoint.min_replicas == 0:
        return Status.SCALED_TO_ZERO, "no replica runs; a request wakes it"
    return Status.PENDING, "a replica is about to be made"


def _failure(replica: Replica) -> str:
    reason = Reason(replica.reason)
    return f"{reason}: {replica.detail or ADVICE.get(reason, '')}".rstrip(": ")


def _ready(
    endpoint: Endpoint, live: list[Replica], ready: list[Replica], message: str
) -> Condition:
    if ready:
        since = min(r.state_at for r in ready)
        return Condition("Ready", "True", "", message, since)
    newest = max(live, key=lambda r: r.state_at, default=None)
    if newest is None:
        since = endpoint.stopped_at or endpoint.created_at
        return Condition("Ready", "False", "", message, since)
    return Condition("Ready", "False", newest.reason, message, newest.state_at)


def _scheduled(endpoint: Endpoint, live: list[Replica]) -> Condition:
    """Whether every replica that is wanted has its devices."""
    waiting = [r for r in live if r.state == State.REQUESTED]
    if not waiting:
        since = max((r.state_at for r in live), default=endpoint.created_at)
        return Condition("Scheduled", "True", "", "", since)
    oldest = min(waiting, key=lambda r: r.state_at)
    return Condition("Scheduled", "False", oldest.reason, oldest.detail, oldest.state_at)


def _available(endpoint: Endpoint, status: Status, ready: list[Replica]) -> Condition:
    """Whether it answers: as many serve as are always wanted, or a request wakes it."""
    since = max((r.state_at for r in ready), default=endpoint.created_at)
    if status is Status.SCALED_TO_ZERO:
        return Condition("Available", "True", RolloutReason.ASLEEP, "a request wakes it", since)
    least = max(1, endpoint.min_replicas)
    enough = len(ready) >= least and endpoint.stopped_at is None
    message = f"{len(ready)} of {least} ready"
    return Condition("Available", "True" if enough else "False", "", message, since)


def _progressing(rollout: Rollout) -> Condition:
    """As of a Deployment: False where the newest rollout failed or was broken off."""
    reason = RolloutReason(rollout.reason)
    fine = rollout.state in (Outcome.PROGRESSING, Outcome.COMPLETE, Outcome.SUPERSEDED)
    way = f"version {rollout.from_number} to {rollout.to_number}"
    parts = (way, rollout.detail, ROLLOUT_ADVICE.get(reason, ""))
    message = ". ".join(part.rstrip(".") for part in parts if part)
    at = rollout.ended_at or rollout.progress_at
    return Condition("Progressing", "True" if fine else "False", reason, message, at)


def _funded(endpoint: Endpoint) -> Condition:
    """False while a budget refuses to pay for a replica."""
    if endpoint.unfunded_at is None:
        return Condition("Funded", "True", "", "", endpoint.created_at)
    reason = Reason.BUDGET_EXHAUSTED
    return Condition("Funded", "False", reason, ADVICE[reason], endpoint.unfunded_at)


def _proved(ready: list[Replica]) -> list[Condition]:
    """What all of its replicas showed that they can do, and by which recipe."""
    proofs = [one.proof for one in ready if one.proof.get("recipe") or one.proof.get("proved")]
    if not proofs or len(proofs) < len(ready):
        return []
    common = [one for one in proofs[0]["proved"] if all(one in p["proved"] for p in proofs)]
    names = sorted({one["recipe"] for one in proofs if one["recipe"]})
    message = ", ".join(common) or "nothing was to be proved"
    message += f"; recipe {', '.join(names)}" if names else "; no recipe"
    status = "True" if common else "False"
    return [Condition("CapabilitiesProved", status, "", message, min(r.state_at for r in ready))]


def _adapters(endpoint: Endpoint, live: list[Replica]) -> list[Condition]:
    """Whether each of its LoRA adapters is loaded wherever it serves; for an endpoint with any."""
    states = adapters.states(endpoint, live)
    if not states:
        return []
    since = max((r.state_at for r in live), default=endpoint.created_at)
    failed = next((one for one in states if one.status == "failed"), None)
    if failed is not None:
        message = f"{failed.name}: {failed.message}"
        return [Condition("AdaptersLoaded", "False", failed.reason, message, since)]
    waiting = [one.name for one in states if one.status != "loaded"]
    message = f"not loaded yet: {', '.join(waiting)}" if waiting else ""
    return [Condition("AdaptersLoaded", "False" if waiting else "True", "", message, since)]


def _healthy(endpoint: Endpoint, ended: list[Replica]) -> Condition:
    """False from a failed start until a replica gets ready."""
    last = ended[-1] if ended else None
    if not endpoint.failures or last is None or last.state != State.FAILED:
        return Condition("Healthy", "True", "", "", endpoint.created_at)
    message = _failure(last)
    if endpoint.retry_at is not None:
        message += f" (next try at {endpoint.retry_at:%H:%M:%S} UTC)"
    return Condition("Healthy", "False", last.reason, message, last.state_at)
