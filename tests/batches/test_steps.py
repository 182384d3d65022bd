"""Reading a batch's input and writing its files, some way at a time: a death anywhere in a step
leaves what the step before it left, and the next one goes on from there."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.db import connection

from compliance import audit
from controlplane.batches import (
    content,
    copying,
    files,
    finishing,
    reading,
    services,
    writing,
)
from controlplane.batches.models import Batch, File, FileChunk, Line, Status
from controlplane.tenancy import services as tenancy
from tests.batches.test_lines import URL, Desk, desk
from workers.batching import runner
from workers.batching.runner import Runner

__all__ = ["desk"]  # a fixture

pytestmark = pytest.mark.django_db

LINES = 23


class Died(BaseException):
    """Nobody handles it, as nobody handles a kill."""


class Watch:
    """Counts what goes to the database, and dies in due time; keeps each chunk that was sent."""

    def __init__(self) -> None:
        self.left = 0
        self.chunks: dict[tuple[str, int], set[bytes]] = {}

    def tick(self) -> None:
        self.left -= 1
        if not self.left:
            raise Died

    def execute(self, run: Any, sql: str, *args: Any) -> Any:
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):  # the test's own
            self.tick()
        return run(sql, *args)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Stretches are a few lines, and chunks some hundred bytes."""
    found, real = Watch(), copying.copy

    def copy(table: str, columns: dict[str, str], rows: Any) -> None:
        rows = list(rows)
        if table == "batches_filechunk":
            for file_id, number, blob in rows:
                found.chunks.setdefault((file_id, number), set()).add(blob)
        found.tick()
        real(table, columns, rows)
        found.tick()

    monkeypatch.setattr(copying, "copy", copy)
    monkeypatch.setattr(content, "CHUNK_BYTES", 300)
    monkeypatch.setattr(content, "_CHUNKS_AT_ONCE", 2)
    monkeypatch.setattr(reading, "_STRETCH", 700)
    monkeypatch.setattr(writing, "_LINES", 4)
    monkeypatch.setattr(writing, "_BYTES", 500)
    with connection.execute_wrapper(found.execute):
        yield found


def step(batch: Batch, watch: Watch, at: int) -> bool | None:
    """One that dies at the database's nth word; None if it did."""
    watch.left = at
    try:
        return finishing.step(batch.id, batch.created_at)
    except Died:
        return None
    finally:
        watch.left = 0


def through(batch: Batch, watch: Watch, status: Status) -> tuple[int, int]:
    """Up to that status, each step only after a death at each word of it. Deaths and steps."""
    deaths = steps = 0
    while Batch.objects.get(id=batch.id).status != status:
        at = 1
        while (took := step(batch, watch, at)) is None:
            at += 1
        assert took
        deaths += at - 1
        steps += 1
    return deaths, steps


def asked(name: str, **body: Any) -> bytes:
    said = {"custom_id": name, "method": "POST", "url": URL, "body": {"model": "tiny", **body}}
    return json.dumps(said).encode()


def submit(desk: Desk, rows: Sequence[bytes]) -> Batch:
    return services.create(
        actor=audit.SYSTEM,
        key=desk.key,
        input_file_id=desk.file(b"\n".join(rows)).id,
        endpoint=URL,
        completion_window="24h",
        now=desk.now,
    )


def test_a_file_is_read_to_the_end_whoever_dies(desk: Desk, watch: Watch) -> None:
    names = [f"c-{n}" for n in range(LINES)]
    batch = submit(desk, [asked(name, pad="x" * (n % 7)) for n, name in enumerate(names)])
    deaths, steps = through(batch, watch, Status.IN_PROGRESS)
    assert steps >= 4 and deaths >= 20
    batch.refresh_from_db()
    assert (batch.total, batch.place) == (LINES, None)
    found = Line.objects.filter(batch=batch).order_by("number")
    assert [line.number for line in found] == list(range(1, LINES + 1))
    source = File.objects.get(id=batch.input_file_id)
    pieces = [json.loads(content.Reader(source).piece(one.offset, one.size)) for one in found]
    assert [one["custom_id"] for one in pieces] == names
    assert {line.model for line in found} == {"tiny"}
    assert len(desk.claim(most=100)) == LINES


def test_what_is_wrong_far_behind_undoes_all_of_it(desk: Desk, watch: Watch) -> None:
    rows = [asked(f"c-{n}") for n in range(LINES)]
    rows[3], rows[-2] = b"{", asked("c-0")  # the second is far from the first of its name
    batch = submit(desk, rows)
    through(batch, watch, Status.FAILED)
    batch.refresh_from_db()
    found = [(one["line"], one["code"]) for one in batch.errors]
    assert found == [(4, "invalid_json_line"), (LINES - 1, "duplicate_custom_id")]
    assert (batch.total, batch.place, Line.objects.count()) == (0, None, 0)


def test_where_a_file_is_read_to_is_not_in_the_clear(desk: Desk, watch: Watch) -> None:
    batch = submit(desk, [asked(f"c-{n}") for n in range(LINES)])
    assert step(batch, watch, 0)
    batch.refresh_from_db()
    box = content.Box(bytes(batch.sealed_key), f"batch:{batch.id}", batch.project_id)
    place = reading._place(batch, box)
    assert 0 < place.lines < LINES
    assert batch.place is not None
    assert not any(digest in bytes(batch.place) for digest in place.seen)
    assert services.counts([batch])[batch.id].total == place.lines


def test_who_is_cancelled_while_it_is_read_has_asked_for_nothing(desk: Desk, watch: Watch) -> None:
    batch = submit(desk, [asked(f"c-{n}") for n in range(LINES)])
    assert step(batch, watch, 0)
    assert Line.objects.exists()
    services.cancel(actor=audit.SYSTEM, batch=batch, now=desk.now)
    through(batch, watch, Status.CANCELLED)
    batch.refresh_from_db()
    assert (batch.total, batch.completed, batch.failed) == (0, 0, 0)
    assert not batch.error_file_id and not Line.objects.exists()


def answered(desk: Desk, many: int) -> Batch:
    """Its first lines have results, of which each fifth is an error."""
    batch = submit(desk, [asked(f"c-{n}") for n in range(LINES)])
    finishing.advance(desk.now)
    for line in desk.claim(most=many):
        assert desk.settle(line, failed=line.number % 5 == 0)
    batch.refresh_from_db()
    return batch


def once(watch: Watch) -> None:
    """Files are whole, nothing lies beside them, and no nonce was used for two contents."""
    numbers: dict[str, list[int]] = {}
    for file_id, number in FileChunk.objects.order_by("number").values_list("file_id", "number"):
        numbers.setdefault(file_id, []).append(number)
    for file in File.objects.filter(complete=True, bytes__gt=0):
        assert numbers.pop(file.id) == list(range(-(-file.bytes // content.CHUNK_BYTES)))
    assert not numbers
    assert not File.objects.filter(complete=False).exists()
    assert all(len(blobs) == 1 for blobs in watch.chunks.values())


def test_files_are_written_once_whoever_dies(desk: Desk, watch: Watch) -> None:
    batch = answered(desk, LINES)
    ids = list(Line.objects.order_by("number").values_list("number", "id"))
    deaths, steps = through(batch, watch, Status.COMPLETED)
    assert steps >= 7 and deaths >= 60
    batch.refresh_from_db()
    good = [id for number, id in ids if number % 5]
    assert [one["id"] for one in desk.read(batch.output_file_id)] == good
    bad = [id for number, id in ids if not number % 5]
    assert [one["id"] for one in desk.read(batch.error_file_id)] == bad
    assert (batch.total, batch.completed, batch.failed) == (LINES, len(good), len(bad))
    assert (batch.place, Line.objects.count()) == (None, 0)
    once(watch)


def test_progress_is_told_while_files_are_written(desk: Desk, watch: Watch) -> None:
    batch = answered(desk, LINES)
    told = []
    while batch.status != Status.COMPLETED:
        told.append(services.counts([batch])[batch.id])
        assert step(batch, watch, 0)
        batch.refresh_from_db()
    assert set(told) == {services.Counts(LINES, 19, 4)}


def test_what_was_not_run_is_fixed_before_it_is_written(desk: Desk, watch: Watch) -> None:
    """The input is deleted between two attempts at the same chunk."""
    batch = answered(desk, 6)
    services.cancel(actor=audit.SYSTEM, batch=batch, now=desk.now)
    while Line.objects.filter(state="pending").exists():
        assert step(batch, watch, 0)
    watch.chunks.clear()  # of the input
    at = 1
    while step(batch, watch, at) is None and not watch.chunks:
        at += 1
    files.delete(actor=audit.SYSTEM, file=File.objects.get(id=batch.input_file_id), now=desk.now)
    finishing.advance(desk.now)
    batch.refresh_from_db()
    undone = desk.read(batch.error_file_id)
    assert [one.get("custom_id") for one in undone] == [None, *(f"c-{n}" for n in range(6, LINES))]
    assert (batch.total, batch.completed, batch.failed) == (LINES, 5, LINES - 5)
    once(watch)


def test_a_file_that_is_erased_while_it_is_written_is_gone(desk: Desk, watch: Watch) -> None:
    batch = answered(desk, LINES)
    while not (half := File.objects.filter(complete=False)).exists():
        assert step(batch, watch, 0)
    written = LINES - Line.objects.count()
    for file in half:
        files.delete(actor=audit.SYSTEM, file=file, now=desk.now)
    finishing.advance(desk.now)
    batch.refresh_from_db()
    rest = desk.read(batch.output_file_id) + desk.read(batch.error_file_id)
    assert 0 < len(rest) == LINES - written
    assert batch.completed + batch.failed == LINES


def test_a_line_that_was_just_claimed_is_waited_for(desk: Desk, watch: Watch) -> None:
    """A claim that began before the batch ended may be committed after."""
    batch = answered(desk, 6)
    services.cancel(actor=audit.SYSTEM, batch=batch, now=desk.now)
    assert step(batch, watch, 0)
    line = Line.objects.filter(state="pending").first()
    assert line is not None
    Line.objects.filter(id=line.id).update(state="running", owner="one", lease_until=desk.now)
    while Line.objects.filter(state="pending").exists():
        assert finishing.step(batch.id, desk.now)
    assert not finishing.step(batch.id, desk.now)
    assert finishing.due() == {}
    assert desk.settle(line)
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert (batch.completed, batch.failed) == (6, LINES - 6)


def another(desk: Desk) -> Batch:
    """Another project's, whose only line is wrong."""
    project = tenancy.create_project(
        actor=audit.SYSTEM, organization=desk.world.project.organization, name="other", now=desk.now
    )
    key, _ = tenancy.issue_key(
        actor=audit.SYSTEM, project=project, name="day", scopes=["inference"], now=desk.now
    )
    upload = files.begin(actor=audit.SYSTEM, project=project, now=desk.now)
    upload.write(b"{")
    file = files.create(
        actor=audit.SYSTEM, upload=upload, filename="in", purpose="batch", now=desk.now
    )
    return services.create(
        actor=audit.SYSTEM,
        key=key,
        input_file_id=file.id,
        endpoint=URL,
        completion_window="24h",
        now=desk.now,
    )


def test_a_large_batch_holds_up_nobody(
    desk: Desk, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of a batch, then lost lines are taken over, and it is another project's turn."""
    small = submit(desk, [asked("c")])
    finishing.step(small.id, desk.now)
    (line,) = desk.claim("lost")
    large = [submit(desk, [asked(f"c-{n}") for n in range(LINES)]) for _ in range(2)]
    other = another(desk)
    desk.later(31)
    monkeypatch.setattr(runner, "_TEND_S", -1.0)  # there is time for one step
    tending = Runner(
        "one", gateway_url="http://127.0.0.1:1", concurrency=1, lease_s=30, clock=lambda: desk.now
    )
    assert tending._tend_once() == (1, 1)
    line.refresh_from_db()
    assert (line.state, line.unsure) == ("pending", True)
    assert tending._tend_once() == (0, 1)
    status = dict(Batch.objects.values_list("id", "status"))
    assert [status[one.id] for one in (*large, other)] == ["validating", "validating", "failed"]
    assert Batch.objects.get(id=large[0].id).total > Batch.objects.get(id=large[1].id).total == 0
