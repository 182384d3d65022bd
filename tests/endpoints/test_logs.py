"""The newest lines of an engine's log."""

import pytest

from controlplane.endpoints import logs
from controlplane.endpoints.models import LogLine, Replica
from controlplane.fleet.models import Node
from controlplane.fleet.wire import LogChunk
from tests.endpoints.world import World


@pytest.fixture
def replica(world: World, node: Node) -> Replica:
    return world.replica(world.endpoint(), node)


def send(world: World, node: Node, replica: Replica, first: int, *lines: str) -> int:
    chunk = LogChunk(replica_id=replica.id, first_number=first, lines=list(lines))
    return logs.append(node, chunk, world.now)


def numbers(replica: Replica) -> list[int]:
    return list(LogLine.objects.filter(replica=replica).values_list("number", flat=True))


def test_each_line_once_in_any_order(world: World, node: Node, replica: Replica) -> None:
    assert send(world, node, replica, 3, "c", "d") == 2
    assert send(world, node, replica, 1, "a", "b", "c") == 2
    assert send(world, node, replica, 1, "a") == 0
    assert [line.text for line in logs.tail(replica, 3)] == ["b", "c", "d"]
    assert [line.text for line in logs.after(replica, 2)] == ["c", "d"]


def test_only_the_newest_stay(
    world: World, node: Node, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "KEEP_LINES", 3)
    send(world, node, replica, 1, *"abcde")
    assert numbers(replica) == [3, 4, 5]
    send(world, node, replica, 6, "f")
    assert numbers(replica) == [4, 5, 6]
    assert send(world, node, replica, 1, "a") == 0  # late, and not among the newest
    assert numbers(replica) == [4, 5, 6]


def test_whatever_an_engine_prints_can_be_kept(world: World, node: Node, replica: Replica) -> None:
    send(world, node, replica, 1, "nul \0 byte", "x" * 5000, "half a pair \ud800")
    kept = [line.text for line in logs.tail(replica, 10)]
    assert kept == ["nul � byte", "x" * 2000, "half a pair ?"]


def test_nobody_writes_into_anothers_log(world: World, replica: Replica) -> None:
    assert send(world, world.node("n2"), replica, 1, "forged") == 0
    assert numbers(replica) == []


def test_numbers_that_no_log_has_are_refused(world: World, node: Node, replica: Replica) -> None:
    assert send(world, node, replica, 2**62, "a") == 0
    assert send(world, node, replica, 1) == 0
