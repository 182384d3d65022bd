"""Two nodes are brought to another release, and stay on it when the next is no good: real door,
real launchers and agents (their engines are not), the real sweep."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from compliance import audit, sealing
from controlplane.fleet import agent_rollouts, joining, services, waves
from controlplane.fleet.models import AgentRelease, AgentRollout, AgentUpdate, Node, Pool
from tests.agent.node import TestNode
from tests.agent.releases import ENDS, Home, made
from tests.api.test_agents_tls import pool, url
from tests.gateway.house import eventually

__all__ = ["pool", "url"]  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)
PATIENCE_S = 120.0
POLICY = waves.Policy(canary_share=0.5, wave_size=1, pause_s=0.5, limit_s=90.0)


@pytest.fixture
def homes(url: str, pool: Pool, tmp_path: Path) -> Iterator[list[Home]]:
    found = []
    for name in ("gpu-1", "gpu-2"):
        now = timezone.now()
        _, secret = services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)
        node = TestNode(url)
        node.environment |= {
            "STOA_CONTROLPLANE_PIN": joining.pin(pool.region),
            "STOA_AGENT_TOKEN": secret,
            "STOA_AGENT_NAME": name,
        }
        found.append(Home(node))
        found[-1].launch()
    yield found
    for home in found:
        home.node.close()


def begun(pool: Pool, name: str, program: str = "") -> AgentRollout:
    sha256, content = made(name, program) if program else made(name)
    now = timezone.now()
    release = AgentRelease.objects.create(
        sha256=sha256,
        version=f"0.1.0+{sha256[:12]}",
        content=sealing.seal(content, context=f"agent_release:{sha256}"),
        created_at=now,
    )
    return agent_rollouts.begin(
        pool=pool, release=release, policy=POLICY, actor=audit.SYSTEM, now=now
    )


def ends(rollout: AgentRollout, state: str) -> None:
    def over() -> bool:
        now = timezone.now()
        agent_rollouts.tend(now=now, listening_since=now - timedelta(hours=1))
        rollout.refresh_from_db()
        assert rollout.state in ("running", state), rollout.halt_reason
        return rollout.state == state

    eventually(over, within_s=PATIENCE_S)


def run(sha256: str) -> list[str]:
    """The names of the nodes that say that they run it."""
    nodes = Node.objects.order_by("name")
    return [node.name for node in nodes if node.inventory.get("agent", {}).get("sha256") == sha256]


def test_a_good_release_reaches_both_and_a_bad_one_neither(homes: list[Home], pool: Pool) -> None:
    both = ["gpu-1", "gpu-2"]
    eventually(lambda: run(homes[0].first) == both, within_s=PATIENCE_S)
    good = begun(pool, "second")
    ends(good, "done")
    assert run(good.release_id) == both
    eventually(lambda: all(home.current == good.release_id[:12] for home in homes))
    told = AgentUpdate.objects.filter(rollout=good).order_by("wave")
    (canary, second) = told
    assert (canary.wave, second.wave) == (0, 1)
    assert canary.done_at is not None and canary.done_at < second.told_at

    bad = begun(pool, "third", ENDS)
    ends(bad, "halted")
    assert "its agent ended with status 9" in bad.halt_reason
    assert run(good.release_id) == both  # the canary is back, the other one never left
    assert AgentUpdate.objects.filter(rollout=bad).count() == 1
