"""A release on its way to a pool's nodes: what the sweep does, and what the operator may."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import msgspec
import pytest
from django.core.management import call_command
from django.db import connections

from compliance import audit
from compliance.models import AuditEvent
from controlplane.endpoints import assignments
from controlplane.fleet import (
    agent_rollouts,
    bundle,
    errors,
    findings,
    older_wire,
    services,
    waves,
    wire,
)
from controlplane.fleet.models import AgentRelease, AgentRollout, AgentUpdate, Node, Pool
from tests.fleet.machine import Join, inventory, report

OLD = "a" * 64
POLICY = waves.Policy(canary_share=0.1, wave_size=2, pause_s=60.0, limit_s=600.0)


class Fleet:
    """Nodes that report what the test says that they run; each one's reports come in order."""

    def __init__(self, join: Join, count: int, now: datetime) -> None:
        self.now, self.seq = now, 0
        self.listening_since: datetime | None = now - timedelta(days=1)
        self.nodes = [join(f"gpu-{at}")[0] for at in range(count)]
        self.states = {node.id: wire.AgentState(sha256=OLD) for node in self.nodes}
        self.silent: set[str] = set()
        self.hear()

    def hear(self) -> None:
        self.seq += 1
        for node in self.nodes:
            if node.id in self.silent:
                continue
            found = msgspec.structs.replace(inventory(), agent=self.states[node.id])
            said = report(seq=self.seq, inventory=found)
            assert services.heartbeat(node=node, report=said, signed_at=self.now, now=self.now)

    def sweep(self, later_s: float = 0.0) -> int:
        self.now += timedelta(seconds=later_s)
        self.hear()
        return agent_rollouts.tend(now=self.now, listening_since=self.listening_since)

    def wished(self) -> dict[str, wire.AgentRelease]:
        found = {node.id: assignments.desired(node, self.now).agent for node in self.nodes}
        return {id: release for id, release in found.items() if release is not None}

    def obey(self) -> None:
        for id, release in self.wished().items():
            self.states[id] = wire.AgentState(sha256=release.sha256)


@pytest.fixture
def fleet(join: Join, now: datetime) -> Fleet:
    return Fleet(join, 4, now)


@pytest.fixture
def rollout(fleet: Fleet, pool: Pool) -> AgentRollout:
    return begin(fleet, pool)


def begin(fleet: Fleet, pool: Pool, release: AgentRelease | None = None) -> AgentRollout:
    return agent_rollouts.begin(
        pool=pool,
        release=release or agent_rollouts.release(fleet.now),
        policy=POLICY,
        actor=audit.SYSTEM,
        now=fleet.now,
    )


def told() -> list[str]:
    found = AuditEvent.objects.filter(action__startswith="agent_rollout").order_by("id")
    return [
        action.removeprefix("agent_rollout.") for action in found.values_list("action", flat=True)
    ]


def test_canaries_then_waves_then_the_end(fleet: Fleet, rollout: AgentRollout) -> None:
    assert fleet.wished() == {}
    assert fleet.sweep() == 1
    (canary,) = fleet.wished()
    assert fleet.wished()[canary].sha256 == bundle.current().digest
    assert fleet.sweep(10) == 0  # again and again: it is told once, and the others wait
    assert list(fleet.wished()) == [canary]
    fleet.obey()
    assert fleet.sweep(10) == 1
    assert fleet.sweep(59) == 0  # the pause
    assert fleet.sweep(1) == 1
    assert len(fleet.wished()) == 3
    fleet.obey()
    for _ in range(3):
        fleet.sweep(60)
        fleet.obey()
    rollout.refresh_from_db()
    assert rollout.state == "done" and fleet.wished() == {}
    assert agent_rollouts.counts(rollout, fleet.now)["updated"] == 4
    assert told() == ["begin", "wave", "wave", "wave", "finish"]
    waves_of = AgentUpdate.objects.order_by("wave").values_list("wave", flat=True)
    assert list(waves_of) == [0, 1, 1, 2]


def test_a_node_that_goes_back_halts_it_and_a_resumption_tries_again(
    fleet: Fleet, rollout: AgentRollout
) -> None:
    fleet.sweep()
    ((canary, wish),) = fleet.wished().items()
    node = Node.objects.get(pk=canary)
    fleet.states[canary] = wire.AgentState(
        sha256=OLD, failed=wish.sha256, attempt=1, why="it did not report"
    )
    version = node.desired_version
    fleet.sweep(5)
    rollout.refresh_from_db()
    assert rollout.state == "halted" and "it did not report" in rollout.halt_reason
    node.refresh_from_db()
    assert node.desired_version == version + 1  # its wish is withdrawn, and it hears that
    assert fleet.wished() == {} and fleet.sweep(600) == 0
    agent_rollouts.resume(rollout=rollout, actor=audit.SYSTEM, now=fleet.now)
    assert fleet.sweep() == 1
    (again,) = fleet.wished().values()
    assert again.attempt == 2  # else the agent would not try it
    assert fleet.sweep(1) == 0  # what it says of the first attempt counts no more
    with pytest.raises(errors.NotOpen):
        agent_rollouts.resume(rollout=rollout, actor=audit.SYSTEM, now=fleet.now)
    agent_rollouts.abort(rollout=rollout, actor=audit.SYSTEM, now=fleet.now)
    assert fleet.wished() == {}
    with pytest.raises(errors.NotOpen):
        agent_rollouts.abort(rollout=rollout, actor=audit.SYSTEM, now=fleet.now)
    assert told() == ["begin", "wave", "halt", "resume", "wave", "abort"]


@pytest.mark.parametrize("trouble", ["silent", "critical", "old"])
def test_an_updated_node_that_gets_worse_halts_it(
    fleet: Fleet, rollout: AgentRollout, trouble: str
) -> None:
    fleet.sweep()
    (canary,) = fleet.wished()
    fleet.obey()
    fleet.sweep(10)
    if trouble == "silent":
        fleet.silent.add(canary)
    elif trouble == "critical":
        wrong = wire.Finding(check="gpu_xid", severity=wire.Severity.CRITICAL)
        findings.note(Node.objects.get(pk=canary), [wrong], fleet.now + timedelta(seconds=5))
    else:
        fleet.states[canary] = wire.AgentState(sha256=OLD)
    fleet.sweep(30)
    rollout.refresh_from_db()
    assert rollout.state == "halted" and canary in rollout.halt_reason


def test_agents_that_cannot_update_themselves_are_left_alone(
    join: Join, pool: Pool, now: datetime
) -> None:
    fleet = Fleet(join, 1, now)
    by_hand, _ = join("by-hand")
    services.heartbeat(node=by_hand, report=report(inventory=inventory()), signed_at=now, now=now)
    rollout = begin(fleet, pool)
    fleet.sweep()
    fleet.obey()
    fleet.sweep(1)
    fleet.sweep(1)
    rollout.refresh_from_db()
    assert rollout.state == "done"
    assert agent_rollouts.counts(rollout, now)["by_hand"] == [by_hand.id]


def test_a_second_release_supersedes_the_first(
    fleet: Fleet, pool: Pool, rollout: AgentRollout
) -> None:
    fleet.sweep()
    assert begin(fleet, pool) == rollout  # the same again is the one that is under way
    other = AgentRelease.objects.create(
        sha256="c" * 64, version="0.2.0", content=b"x", created_at=fleet.now
    )
    second = begin(fleet, pool, other)
    rollout.refresh_from_db()
    assert rollout.state == "superseded" and fleet.wished() == {}
    fleet.sweep()
    (wish,) = fleet.wished().values()
    assert wish.sha256 == other.sha256
    assert second.state == "running"


def test_releases_are_kept_and_handed_out(fleet: Fleet, rollout: AgentRollout) -> None:
    packed = bundle.current()
    assert agent_rollouts.content(packed.digest) == packed.content
    assert agent_rollouts.content("d" * 64) is None
    kept = AgentRelease.objects.get()
    assert kept.version.endswith("+" + packed.digest[:12])
    # Who can write to the database alone does not choose what nodes run.
    AgentRelease.objects.create(
        sha256="e" * 64, version="0.2.0", content=bytes(kept.content), created_at=fleet.now
    )
    assert agent_rollouts.content("e" * 64) is None
    AgentRelease.objects.filter(pk=packed.digest).update(content=packed.content)
    assert agent_rollouts.content(packed.digest) is None
    assert agent_rollouts.release(fleet.now).sha256 == packed.digest
    assert agent_rollouts.content(packed.digest) == packed.content


def test_agents_of_the_release_before_do_not_hear_of_it(
    fleet: Fleet, rollout: AgentRollout
) -> None:
    fleet.sweep()
    (canary,) = fleet.wished()
    whole = assignments.desired(Node.objects.get(pk=canary), fleet.now)
    assert whole.agent is not None
    assert "agent" not in msgspec.json.decode(older_wire.encode(whole, 1), type=dict)


@pytest.mark.parametrize(
    "wrong",
    [{"canary_share": 2.0}, {"wave_size": 0}, {"pause_s": -1.0}, {"limit_s": float("nan")}],
)
def test_a_policy_that_makes_no_sense_is_refused(
    fleet: Fleet, pool: Pool, wrong: dict[str, float]
) -> None:
    with pytest.raises(errors.InvalidPolicy):
        agent_rollouts.begin(
            pool=pool,
            release=agent_rollouts.release(fleet.now),
            policy=waves.Policy(**wrong),  # type: ignore[arg-type]
            actor=audit.SYSTEM,
            now=fleet.now,
        )


def test_the_command(fleet: Fleet, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("agents", "rollout", "--region", pool.region_id)
    row = AgentRollout.objects.get()
    assert f"{row.id}  {pool.name}" in capsys.readouterr().out
    call_command("agents", "abort", row.id, "--json")
    assert json.loads(capsys.readouterr().out)["state"] == "aborted"
    call_command("agents")
    assert capsys.readouterr().out == ""


def test_a_sweep_that_dies_in_the_middle_leaves_nothing_half_done(
    fleet: Fleet, rollout: AgentRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        pass

    real = agent_rollouts._tell

    def dies(*_: object, **__: object) -> None:
        raise Dead

    monkeypatch.setattr(agent_rollouts, "_tell", dies)  # the last thing of each step
    versions = list(Node.objects.order_by("id").values_list("desired_version", flat=True))
    with pytest.raises(Dead):
        fleet.sweep()
    assert fleet.wished() == {} and not AgentUpdate.objects.exists()
    assert list(Node.objects.order_by("id").values_list("desired_version", flat=True)) == versions
    monkeypatch.setattr(agent_rollouts, "_tell", real)
    assert fleet.sweep() == 1
    assert len(fleet.wished()) == 1


@pytest.mark.django_db(transaction=True)
def test_sweeps_at_once_tell_one_wave(join: Join, pool: Pool, now: datetime) -> None:
    fleet = Fleet(join, 4, now)
    begin(fleet, pool)
    begun = threading.Barrier(4)

    def sweep(_: int) -> int:
        try:
            begun.wait(30)
            return agent_rollouts.tend(now=now, listening_since=fleet.listening_since)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(sweep, range(4))) == 1
    assert len(fleet.wished()) == 1 and told() == ["begin", "wave"]


def test_an_outage_of_ours_is_held_against_no_node(fleet: Fleet, rollout: AgentRollout) -> None:
    fleet.sweep()
    fleet.obey()
    fleet.sweep(10)
    fleet.silent = set(fleet.states)  # nobody could be heard for an hour
    fleet.listening_since = None
    assert fleet.sweep(3600) == 0
    fleet.listening_since = fleet.now  # we are back, and none of them has had its turn yet
    assert fleet.sweep() == 0
    rollout.refresh_from_db()
    assert rollout.state == "running"
    fleet.silent.clear()
    assert fleet.sweep(1) == 1  # the next wave
    assert rollout.updates.count() == 3
    # A node that was told before an outage has the whole limit after it.
    fleet.listening_since = fleet.now + timedelta(seconds=3600)
    assert fleet.sweep(3600 + 500) == 0
    rollout.refresh_from_db()
    assert rollout.state == "running"
    assert fleet.sweep(500) == 1
    rollout.refresh_from_db()
    assert rollout.state == "halted" and "in time" in rollout.halt_reason
