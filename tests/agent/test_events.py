"""What the agent has to tell once outlives it, and goes away when it was heard."""

from pathlib import Path

import pytest

from controlplane.fleet import wire
from tests.agent.fake_controlplane import ControlPlane
from tests.agent.fake_runner import wait_until
from tests.agent.node import TestNode, kill
from workers.agent import events
from workers.agent.events import Events

KIND = wire.NodeEventKind.ORPHAN_ENDED


def test_an_event_waits_on_disk_until_it_was_taken(tmp_path: Path) -> None:
    told: list[int] = []
    ours = Events(tmp_path, told=lambda: told.append(1))
    first = ours.tell(KIND, {"pid": 1})
    second = ours.tell(KIND, {"pid": 2})
    assert told == [1, 1]
    again = Events(tmp_path)  # as after kill -9
    assert again.waiting() == [first, second]
    again.taken([first])
    assert again.waiting() == ours.waiting() == [second]
    again.taken([first, second])
    assert again.waiting() == []


def test_a_damaged_event_keeps_no_other_away(tmp_path: Path) -> None:
    ours = Events(tmp_path)
    first, second = ours.tell(KIND, {}), ours.tell(KIND, {})
    (tmp_path / "events" / f"{first.id}.json").write_text("{")
    assert ours.waiting() == [second]
    assert ours.waiting() == [second]


def test_what_nobody_takes_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST", 3)
    ours = Events(tmp_path)
    told = [ours.tell(KIND, {"pid": pid}) for pid in range(5)]
    assert ours.waiting() == told[2:]


def test_an_event_is_repeated_until_a_report_was_answered(
    plane: ControlPlane, node: TestNode
) -> None:
    told = Events(node.directory).tell(KIND, {"pid": 7})
    plane.answer = 503
    agent = node.agent(STOA_AGENT_TOKEN="")
    plane.answer = 200
    kill(agent)
    node.agent()
    wait_until(lambda: any(told in report.events for report in plane.reports))
    wait_until(lambda: plane.reports[-1].events == [])
    assert Events(node.directory).waiting() == []
