"""What engines compile is kept for the next one, for its organization alone, within a bound."""

import os
from pathlib import Path

import pytest

from workers.agent import caches

MOST = 1 << 20
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="another's files are root's to give")


def take(
    directory: Path, replica: str, organization: str = "org_a", uid: int | None = None
) -> Path:
    key = caches.key(
        organization=organization, model="/m", environment="/e", device_kind="nvidia-h100"
    )
    return caches.take(directory, key, replica, uid, most_bytes=MOST)


def fill(slot: Path, size: int, name: str = "graph.so") -> None:
    (slot / "vllm").mkdir(exist_ok=True)
    (slot / "vllm" / name).write_bytes(b"x" * size)


def test_the_next_engine_finds_it_at_the_same_path(tmp_path: Path) -> None:
    slot = take(tmp_path, "rep_1")
    fill(slot, 10)
    caches.give_back(slot)
    assert take(tmp_path, "rep_2") == slot
    assert (slot / "vllm" / "graph.so").read_bytes() == b"x" * 10


def test_two_at_once_and_two_organizations_never_share_one(tmp_path: Path) -> None:
    first, second = take(tmp_path, "rep_1"), take(tmp_path, "rep_2")
    assert first != second and first.parent == second.parent
    assert take(tmp_path, "rep_1") == first  # the same replica again, after a crash of the agent
    for slot in (first, second):
        caches.give_back(slot)
    assert take(tmp_path, "rep_3", "org_b").parent != first.parent
    keys = {
        caches.key(organization=o, model=m, environment=e, device_kind=d)
        for o, m, e, d in [
            ("a", "m", "e", "d"), ("b", "m", "e", "d"), ("a", "n", "e", "d"), ("a", "m", "f", "d"),
            ("a", "m", "e", "f"), ("am", "", "e", "d"),
        ]
    }  # fmt: skip
    assert len(keys) == 6


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    slots = [take(tmp_path, f"rep_{n}", f"org_{n}") for n in range(3)]
    for slot in slots:
        fill(slot, MOST // 2)
    for slot in slots:
        caches.give_back(slot)
    held = take(tmp_path, "rep_1", "org_1")
    assert held == slots[1]
    assert [slot.exists() for slot in slots] == [False, True, True]
    # One that is in use stays, however much there is.
    fill(slots[2], 3 * MOST, "more.so")
    used = take(tmp_path, "rep_2", "org_2")
    caches.give_back(used)
    take(tmp_path, "rep_9", "org_9")
    assert [slot.exists() for slot in slots] == [False, True, False]


def test_what_a_killed_agent_left_is_given_back(tmp_path: Path) -> None:
    lives, died = take(tmp_path, "rep_1", "org_a"), take(tmp_path, "rep_2", "org_b")
    caches.sweep(tmp_path, {"rep_1"})
    assert take(tmp_path, "rep_3", "org_a") != lives
    assert take(tmp_path, "rep_3", "org_b") == died
    caches.sweep(tmp_path / "none", set())


@root_only
def test_it_is_its_engines_alone_and_nobodys_in_between(tmp_path: Path) -> None:
    first, second = 200_001, 200_002
    slot = take(tmp_path, "rep_1", uid=first)
    fill(slot, 10)
    for path in (slot / "vllm", slot / "vllm" / "graph.so"):
        os.chown(path, first, first)
    assert slot.stat().st_uid == first and slot.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o777 == 0o700  # other engines cannot even look
    caches.give_back(slot)
    assert slot.stat().st_uid == 0
    assert take(tmp_path, "rep_2", uid=second) == slot
    owners = {path.stat().st_uid for path in (slot, slot / "vllm", slot / "vllm" / "graph.so")}
    assert owners == {second}


@root_only
@pytest.mark.parametrize("trick", ["symlink", "hardlink", "foreign", "fifo"])
def test_what_no_cache_holds_is_thrown_away(tmp_path: Path, trick: str) -> None:
    """An engine that plants a link gets no file of anybody else's handed over with its cache."""
    treasure = tmp_path / "treasure"
    treasure.write_text("secret")
    directory = tmp_path / "caches"
    slot = take(directory, "rep_1", uid=200_001)
    fill(slot, 10)
    os.chown(slot / "vllm", 200_001, 200_001)
    os.chown(slot / "vllm" / "graph.so", 200_001, 200_001)
    planted = slot / "vllm" / "planted"
    match trick:
        case "symlink":
            planted.symlink_to(treasure)
        case "hardlink":
            os.link(treasure, planted)
        case "foreign":
            planted.write_text("another engine's")
            os.chown(planted, 200_003, 200_003)
        case "fifo":
            os.mkfifo(planted)
    caches.give_back(slot)
    again = take(directory, "rep_2", uid=200_002)
    assert again == slot and list(again.iterdir()) == []
    assert treasure.stat().st_uid == 0 and treasure.read_text() == "secret"
