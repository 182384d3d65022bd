"""Numbered lines: none lost, none with two numbers, whatever happens to the file."""

import os
from pathlib import Path

from controlplane.fleet.wire import LogChunk
from workers.agent import logs
from workers.agent.logs import Follower


def follow(tmp_path: Path) -> Follower:
    return Follower("rep_1", tmp_path / "cursor.json")


def take(follower: Follower, log: Path, *, final: bool = False) -> list[LogChunk]:
    """Every chunk there is, each arrived."""
    chunks = []
    while chunk := follower.read(log, final=final):
        follower.arrived()
        chunks.append(chunk)
    return chunks


def test_new_lines_are_numbered_from_one(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    assert take(follower, log) == []
    log.write_text("one\ntwo\nthr")
    (chunk,) = take(follower, log)
    assert (chunk.first_number, chunk.lines) == (1, ["one", "two"])
    with log.open("a") as file:
        file.write("ee\n")
    (chunk,) = take(follower, log)
    assert (chunk.first_number, chunk.lines) == (3, ["three"])


def test_the_last_words_need_no_end(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    log.write_text("one\nkilled in the mid")
    assert [c.lines for c in take(follower, log, final=True)] == [["one", "killed in the mid"]]
    assert take(follower, log, final=True) == []


def test_a_chunk_that_did_not_arrive_is_sent_again_the_same(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    log.write_text("one\ntwo\n")
    first = follower.read(log, final=False)
    log.write_text("one\ntwo\nthree\n")
    second = follower.read(log, final=False)
    assert first is not None and second is not None
    assert first.first_number == second.first_number == 1
    assert second.lines[:2] == first.lines


def test_a_new_agent_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    take(follow(tmp_path), log)
    log.write_text("one\ntwo\nthree\n")
    (chunk,) = take(follow(tmp_path), log)
    assert (chunk.first_number, chunk.lines) == (3, ["three"])


def test_without_its_note_a_new_agent_numbers_alike(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\n")
    before = take(follow(tmp_path), log)
    (tmp_path / "cursor.json").write_text("{")
    assert take(follow(tmp_path), log) == before


def test_numbers_go_on_over_a_rotation(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    log.write_text("one\ntwo\n")
    take(follower, log)
    log.rename(tmp_path / "log.1")
    log.write_text("three\n")
    (chunk,) = take(follower, log)
    assert (chunk.first_number, chunk.lines) == (3, ["three"])
    os.truncate(log, 0)
    assert take(follower, log) == []
    log.write_text("4\n")
    (chunk,) = take(follower, log)
    assert (chunk.first_number, chunk.lines) == (4, ["4"])


def test_chunks_and_lines_are_bounded(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    log.write_text("".join(f"{n}\n" for n in range(450)) + "x" * 5000 + "\n")
    chunks = take(follower, log)
    assert [len(chunk.lines) for chunk in chunks] == [200, 200, 51]
    assert [chunk.first_number for chunk in chunks] == [1, 201, 401]
    assert len(chunks[-1].lines[-1]) == 2000


def test_a_line_without_end_does_not_stop_the_rest(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    log.write_bytes(b"y" * 600_000 + b"\nafter\n")
    lines = [line for chunk in take(follower, log) for line in chunk.lines]
    assert lines[-1] == "after" and len(lines) == 4


def test_after_a_long_outage_the_newest_are_enough(tmp_path: Path) -> None:
    log, follower = tmp_path / "log", follow(tmp_path)
    line = b"z" * 99 + b"\n"
    log.write_bytes(line * 100_000 + b"last\n")
    chunks = take(follower, log)
    assert chunks[-1].lines[-1] == "last"
    assert chunks[-1].first_number + len(chunks[-1].lines) - 1 == 100_001
    assert sum(len(chunk.lines) for chunk in chunks) <= logs.SKIP_BEYOND_BYTES // 100 + 2


def test_text_is_what_a_database_takes() -> None:
    assert logs.clean(b"10%\r50%\r100%\n") == "100%"
    assert logs.clean(b"nul\0 and \xff") == "nul\N{REPLACEMENT CHARACTER} and \ufffd"
    assert logs.clean("größe\r\n".encode()) == "größe"


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    assert logs.tail(tmp_path / "none") == []
    log = tmp_path / "log"
    log.write_text("".join(f"{n}\n" for n in range(100)) + "end")
    assert logs.tail(log, 3) == ["98", "99", "end"]


def test_the_oldest_logs_go(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / str(age)).touch()
        os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
    logs.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    logs.prune(tmp_path / "none")
