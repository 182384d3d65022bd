"""Room in the weight cache: what goes first, and what never goes while somebody reads it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.fake_door import Node, hub_source
from tests.agent.fake_hub import FakeHub, Repo
from workers.agent.weights.cache import Cache, locked
from workers.agent.weights.errors import ModelError

SIZE = 1000


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    def repo(number: int) -> Repo:
        config = b"{}".ljust(10)
        weights = bytes([number]) * (SIZE - 10)
        return Repo({"config.json": config, "model.safetensors": weights})

    with FakeHub({f"owner/m{number}": repo(number) for number in range(4)}) as hub:
        yield hub


def bring(hub: FakeHub, node: Node, number: int, holder: str = "") -> Path:
    return node.fetch(hub_source(hub.url, f"owner/m{number}"), holder=holder).folder


def aged(folder: Path, seconds: int) -> None:
    os.utime(folder.with_name(f"{folder.name}.json"), (seconds, seconds))


def test_what_was_used_longest_ago_makes_room(hub: FakeHub, tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    node = Node(cache)
    oldest, newer = bring(hub, node, 0), bring(hub, node, 1)
    aged(oldest, 100)
    aged(newer, 200)
    bring(hub, node, 0)  # from the cache; which is a use
    aged(newer, 200)
    bring(hub, node, 2)
    assert (oldest.exists(), newer.exists()) == (True, False)
    assert cache.used_bytes() <= 2 * SIZE
    assert sum(path.stat().st_size for path in tmp_path.glob("blobs/*/*")) == cache.used_bytes()


def test_what_is_held_stays(hub: FakeHub, tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    node = Node(cache)
    held, other = bring(hub, node, 0, "abc-rep_1"), bring(hub, node, 1, "abc-rep_2")
    with pytest.raises(ModelError, match="the rest of the weight cache is in use") as caught:
        bring(hub, node, 2)
    assert caught.value.reason == "fetch_failed"
    assert held.exists() and other.exists()
    cache.keep("abc-", {"abc-rep_1"})
    bring(hub, node, 2)
    assert (held.exists(), other.exists()) == (True, False)
    cache.keep("abd-", set())  # another agent's holders are none of ours
    with pytest.raises(ModelError):
        bring(hub, Node(Cache(tmp_path, limit_bytes=SIZE)), 3)
    cache.release("abc-rep_1")
    bring(hub, Node(Cache(tmp_path, limit_bytes=SIZE)), 3)
    assert not held.exists()


def test_parts_and_drafts_that_nobody_works_on_go_first(hub: FakeHub, tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2 * SIZE)
    node = Node(cache)
    kept = bring(hub, node, 0)
    left, busy = cache.part("a" * 64), cache.part("b" * 64)
    left.write_bytes(bytes(SIZE // 2))
    busy.write_bytes(bytes(SIZE // 4))
    with locked(tmp_path / "parts" / f"{'b' * 64}.lock"):
        cache.make_room(SIZE // 2)
        assert (kept.exists(), left.exists(), busy.exists()) == (True, False, True)


def test_a_snapshot_that_lost_a_file_is_brought_anew(hub: FakeHub, tmp_path: Path) -> None:
    node = Node(Cache(tmp_path))
    folder = bring(hub, node, 0)
    (folder / "model.safetensors").unlink()
    again = bring(hub, node, 0)
    assert (again / "model.safetensors").read_bytes() == bytes(SIZE - 10)
    (again.with_name(f"{again.name}.json")).write_bytes(b"{")
    assert bring(hub, node, 0) == again


def test_more_than_the_disk_has_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="GB are needed"):
        Cache(tmp_path).make_room(1 << 60)
