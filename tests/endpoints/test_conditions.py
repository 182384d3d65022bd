"""How an endpoint is, in a word. No database: rows are made and never saved."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.endpoints.conditions import ADVICE, Status, Summary, summarize
from controlplane.endpoints.models import Endpoint, Replica
from controlplane.endpoints.states import LIVE, Reason, State

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def how(*states: State, **facts: Any) -> Summary:
    endpoint = Endpoint(**({"name": "chat", "created_at": NOW} | facts))
    replicas = [
        Replica(state=state, generation=1, reason=Reason.ENGINE_EXITED, state_at=NOW)
        for state in states
    ]
    return summarize(endpoint, replicas)


@pytest.mark.parametrize(
    ("states", "facts", "status"),
    [
        ([], {}, Status.PENDING),
        ([State.REQUESTED], {}, Status.PENDING),
        ([State.PLACED], {}, Status.STARTING),
        ([State.REQUESTED, State.PROBING], {}, Status.STARTING),
        ([State.READY], {}, Status.READY),
        ([State.READY, State.DRAINING], {}, Status.READY),
        ([State.READY, State.STARTING], {}, Status.UPDATING),
        ([State.READY], {"generation": 2}, Status.UPDATING),
        ([State.UNREACHABLE], {}, Status.UNREACHABLE),
        ([State.FAILED], {"failures": 1}, Status.FAILED),
        ([State.FAILED, State.STARTING], {"failures": 1}, Status.STARTING),
        ([State.STOPPED], {"min_replicas": 0}, Status.SCALED_TO_ZERO),
        ([State.DRAINING], {"stopped_at": NOW}, Status.STOPPING),
        ([State.STOPPED], {"stopped_at": NOW}, Status.STOPPED),
        ([State.DRAINING], {"stopped_at": NOW, "deleted_at": NOW}, Status.STOPPING),
        ([], {"stopped_at": NOW, "deleted_at": NOW}, Status.DELETED),
    ],
)
def test_one_word(states: list[State], facts: dict[str, Any], status: Status) -> None:
    assert how(*states, **facts).status is status


def test_conditions_say_what_is_wrong() -> None:
    summary = how(State.FAILED, failures=2, retry_at=NOW + timedelta(seconds=20))
    ready, scheduled, healthy, funded, *_ = summary.conditions
    assert (ready.type, ready.status) == ("Ready", "False")
    assert (scheduled.type, scheduled.status) == ("Scheduled", "True")
    assert (healthy.type, healthy.status) == ("Healthy", "False")
    assert (funded.type, funded.status) == ("Funded", "True")
    assert healthy.reason == "engine_exited"
    assert healthy.message.endswith("(next try at 12:00:20 UTC)")
    assert ADVICE[Reason.ENGINE_EXITED] in summary.message


def test_waiting_for_devices_says_for_which() -> None:
    waiting = Replica(
        state=State.REQUESTED,
        generation=1,
        reason=Reason.NO_CAPACITY,
        detail="n1: 0 of 2 devices of kind cpu free, 1 needed",
        state_at=NOW,
    )
    summary = summarize(Endpoint(name="chat", created_at=NOW), [waiting])
    assert summary.message == waiting.detail
    assert summary.conditions[1].status == "False"
    assert summary.conditions[1].reason == "no_capacity"


def test_every_failure_has_advice() -> None:
    assert {reason.value for reason in ADVICE} <= {reason.value for reason in Reason}
    assert LIVE  # the words below are the ones a failed replica may carry
    for reason in (Reason.FETCH_FAILED, Reason.ENGINE_EXITED, Reason.NODE_LOST):
        assert ADVICE[reason].endswith(".")
