"""Releases of the agent: by the API of the operator, and at the door where nodes fetch them."""

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.fleet import agent_rollouts, bundle
from controlplane.fleet.models import AgentRollout, Pool
from tests.api import house
from tests.api.door import Door, play
from tests.api.house import House, post, signed_in
from tests.api.test_agent_door import joined, pool, refused
from tests.fleet.machine import Machine

__all__ = ["joined", "pool"]  # fixtures

PATH = "/agent-rollouts"


@pytest.fixture
def operator(region: None) -> Client:
    return signed_in(house.user("ops@stoa.example", operator=True))


def test_a_rollout_is_begun_halted_resumed_and_aborted(alice: House, operator: Client) -> None:
    made = post(operator, PATH, {"pool": alice.pool.id, "wave_size": 3})
    assert made.status_code == 201, made.content
    rollout = made.json()
    assert rollout["release"] == bundle.current().digest
    assert (rollout["state"], rollout["wave_size"]) == ("running", 3)
    assert rollout["nodes"]["by_hand"] == [alice.node.id]  # it has said nothing yet
    where = f"{PATH}/{rollout['id']}"
    assert operator.get(f"/api/v1{where}").json() == rollout
    assert operator.get(f"/api/v1{PATH}").json()["data"] == [rollout]
    early = post(operator, f"{where}/resume", {})
    assert (early.status_code, early.json()["code"]) == (422, "rollout_not_open")
    AgentRollout.objects.update(state="halted", halt_reason="it hung")
    resumed = post(operator, f"{where}/resume", {}).json()
    assert (resumed["state"], resumed["halt_reason"]) == ("running", "")
    assert post(operator, f"{where}/abort", {}).json()["state"] == "aborted"


def test_what_makes_no_sense_is_refused_by_name(alice: House, operator: Client) -> None:
    for body, status, code in (
        ({"pool": "pool_nothing"}, 404, "not_found"),
        ({"pool": alice.pool.id, "release": "f" * 64}, 404, "not_found"),
        ({"pool": alice.pool.id, "canary_share": 7}, 422, "policy_invalid"),
    ):
        answer = post(operator, PATH, body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not AgentRollout.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_nodes_fetch_a_release_by_its_hash(pool: Pool, joined: tuple[object, Machine]) -> None:
    _, machine = joined
    release = agent_rollouts.release(timezone.now())

    async def scene(door: Door) -> None:
        where = f"/agent/v1/bundle/{release.sha256}"
        answer = await door.call("GET", where, machine=machine)
        assert answer.status_code == 200
        assert answer.content == bundle.current().content
        refused(await door.call("GET", where), 401, "credential_missing")
        other = await door.call("GET", f"/agent/v1/bundle/{'0' * 64}", machine=machine)
        refused(other, 404, "not_found")

    play(scene)
