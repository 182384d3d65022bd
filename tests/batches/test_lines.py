"""Lines and their leases, and how batches end, step by step on a clock of the test's own."""

import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.models import UsageInbox
from compliance import audit, places
from compliance.models import AuditEvent
from controlplane.batches import content, files, finishing, lines, services
from controlplane.batches.models import Batch, File, FileChunk, Line, Status
from controlplane.tenancy import services as tenancy
from controlplane.tenancy.models import ApiKey
from tests.endpoints.world import World
from workers.batching import sending

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
URL = "/v1/chat/completions"

pytestmark = pytest.mark.django_db


class Desk:
    """A project with a key, and a runner's steps by hand."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = world.now
        self.key: ApiKey
        self.key, _ = tenancy.issue_key(
            actor=audit.SYSTEM,
            project=world.project,
            name="night",
            scopes=["inference"],
            now=self.now,
        )
        world.node()
        world.endpoint(name="tiny", min_replicas=0)

    def file(self, raw: bytes, **given: Any) -> File:
        upload = files.begin(actor=audit.SYSTEM, project=self.world.project, now=self.now)
        for at in range(0, len(raw), 70_000):
            upload.write(raw[at : at + 70_000])
        facts: dict[str, Any] = {"filename": "in", "purpose": "batch", **given}
        return files.create(actor=audit.SYSTEM, upload=upload, now=self.now, **facts)

    def batch(self, many: int, pad: int = 0) -> Batch:
        asked = [
            {
                "custom_id": f"c{n}",
                "method": "POST",
                "url": URL,
                "body": {"model": "tiny", "pad": "x" * pad},
            }
            for n in range(many)
        ]
        raw = b"\n".join(json.dumps(one).encode() for one in asked)
        batch = services.create(
            actor=audit.SYSTEM,
            key=self.key,
            input_file_id=self.file(raw).id,
            endpoint=URL,
            completion_window="24h",
            now=self.now,
        )
        finishing.advance(self.now)
        batch.refresh_from_db()
        assert (batch.status, batch.total) == (Status.IN_PROGRESS, many)
        return batch

    def later(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def claim(self, owner: str = "one", most: int = 10) -> list[Line]:
        found = lines.streams(self.now)
        return [
            line
            for stream in found
            for line in lines.claim(stream, owner, now=self.now, lease_s=30, most=most)
        ]

    def settle(
        self,
        line: Line,
        owner: str = "one",
        *,
        failed: bool = False,
        tokens: tuple[int, int] | None = None,
    ) -> bool:
        batch = Batch.objects.get(id=line.batch_id)
        box = content.Box(bytes(batch.sealed_key), services.context(batch.id), batch.project_id)
        sealed = box.seal(json.dumps({"id": line.id, "by": owner}).encode(), line.id)
        return lines.settle(line, owner, result=sealed, failed=failed, now=self.now, tokens=tokens)

    def read(self, file_id: str) -> list[dict[str, Any]]:
        raw = b"".join(content.read(File.objects.get(id=file_id)))
        return [json.loads(one) for one in raw.splitlines()]


@pytest.fixture
def desk(db: None) -> Desk:
    return Desk(World.build())


def booked(line: Line, finish: str) -> None:
    UsageInbox.objects.create(
        request_id=line.request_id, gateway_id="g", key_id="k", project_id="p", endpoint_id="e",
        replica_id="r", operation="chat.completions", opened_at=START, closed_at=START, status=200,
        finish=finish, counted_by="engine", input_tokens=1, cached_tokens=0, output_tokens=1,
    )  # fmt: skip


def test_a_line_is_one_runners_and_has_one_result(desk: Desk) -> None:
    batch = desk.batch(3)
    (stream,) = lines.streams(desk.now, "eu-de-1")
    assert (stream.batch_id, stream.model) == (batch.id, "tiny")
    assert lines.streams(desk.now, "eu-fr-1") == []
    first = desk.claim("one", 2)
    second = desk.claim("two", 5)
    assert [line.number for line in first] == [1, 2]
    assert [line.number for line in second] == [3]
    assert desk.claim("three") == []
    assert not desk.settle(first[0], "two")
    assert desk.settle(first[0], "one")
    assert not desk.settle(first[0], "one")
    assert not finishing.advance(desk.now)  # some run
    assert desk.settle(first[1], "one", failed=True)
    assert desk.settle(second[0], "two")
    assert services.counts([batch])[batch.id] == services.Counts(3, 2, 1)
    finishing.advance(desk.later(1))
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.COMPLETED, 2, 1)
    assert [one["by"] for one in desk.read(batch.output_file_id)] == ["one", "two"]
    assert [one["id"] for one in desk.read(batch.error_file_id)] == [first[1].id]
    assert not Line.objects.exists()
    assert not finishing.advance(desk.now)  # once


def test_a_stream_is_what_waits_of_one_model(desk: Desk) -> None:
    first, second = desk.batch(6), desk.batch(2)
    later = desk.now + timedelta(seconds=5)
    changes: list[dict[str, Any]] = [
        {"model": "b"},
        {"model": "a"},
        {"model": "a", "not_before": later},
        {"model": "c", "not_before": later},
        {"model": "d", "state": "done"},
        {"model": "e", "state": "running"},
    ]
    for number, each in enumerate(changes, 1):
        Line.objects.filter(batch=first, number=number).update(**each)

    def found(now: datetime) -> list[tuple[str, str]]:
        return [(one.batch_id, one.model) for one in lines.streams(now)]

    last = (second.id, "tiny")
    assert found(desk.now) == [(first.id, "a"), (first.id, "b"), last]
    assert found(later) == [*((first.id, model) for model in "abc"), last]
    Batch.objects.filter(id=first.id).update(ends_as="cancelled")
    assert found(later) == [last]
    assert found(second.expires_at) == []


@pytest.mark.parametrize(
    ("finish", "attempt", "paid"),
    [("complete", 1, True), ("client_gone", 2, False), ("", 1, False)],
)
def test_what_a_lost_runner_held_is_another_s(
    desk: Desk, finish: str, attempt: int, paid: bool
) -> None:
    desk.batch(1)
    (line,) = desk.claim("lost")
    if finish:
        booked(line, finish)
    assert lines.take_over(desk.later(29)) == 0
    assert lines.take_over(desk.later(2)) == 1
    (again,) = desk.claim("next")
    assert (again.id, again.attempt, again.paid) == (line.id, attempt, paid)
    assert again.request_id == f"{line.id}-{attempt}"
    assert not desk.settle(line, "lost")  # it comes too late
    assert desk.settle(again, "next")


def test_who_renews_keeps_and_only_what_it_still_runs(desk: Desk) -> None:
    desk.batch(2)
    first, second = desk.claim()
    desk.later(20)
    assert lines.renew("one", [first.id], now=desk.now, lease_s=30) == 1
    assert lines.take_over(desk.later(15)) == 1
    (line,) = desk.claim("two")
    assert line.id == second.id


def test_a_line_that_was_refused_waits_and_has_a_new_id(desk: Desk) -> None:
    desk.batch(1)
    (line,) = desk.claim()
    later = desk.now + timedelta(seconds=5)
    assert lines.put_back(line, "one", not_before=later, fault=True, known=True)
    assert desk.claim() == []
    desk.later(5)
    (again,) = desk.claim()
    assert (again.attempt, again.failures) == (2, 1)
    assert lines.put_back(again, "one", not_before=desk.now, fault=False, known=False)
    assert desk.claim() == []  # the books are asked first
    booked(again, "complete")
    assert lines.take_over(desk.later(1)) == 1
    (third,) = desk.claim()
    assert (third.attempt, third.paid) == (2, True)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_a_line_has_one_result_and_one_charge(desk: Desk, seed: int) -> None:
    """Runners claim, answer, are refused or die at any moment; the books hear of it now or late."""
    chance = random.Random(seed)
    batch = desk.batch(5)
    held: list[tuple[str, Line]] = []
    late: list[tuple[str, str]] = []  # (request id, finish) that have not been shipped yet
    owners = itertools.count()

    def book(line: Line, finish: str) -> None:
        late.append((line.request_id, finish))
        if chance.random() < 0.8:
            ship()

    def ship() -> None:
        while late:
            request_id, finish = late.pop(0)
            if not UsageInbox.objects.filter(request_id=request_id).exists():  # as the gateway's
                booked(Line(id=request_id[:-2], attempt=int(request_id[-1])), finish)

    def step(deadly: bool) -> None:
        what = chance.randrange(7 if deadly else 3)
        if what == 0 or not held:
            owner = f"r{next(owners)}"
            held.extend((owner, line) for line in desk.claim(owner, 2))
            return
        owner, line = held.pop(chance.randrange(len(held)))
        if what in (1, 2):
            book(line, "complete")
            desk.settle(line, owner)
        elif what == 3:  # it died with the answer
            book(line, "complete")
        elif what == 4:  # it died, and so the gateway cut its request off
            book(line, "client_gone")
        elif what == 5 and line.attempt < 8:
            book(line, "preempted")
            known = chance.random() < 0.7
            lines.put_back(line, owner, not_before=desk.now, fault=False, known=known)
        # else it died before it had sent anything

    for deadly in (True, False):
        for _ in range(60):
            step(deadly)
            desk.later(chance.choice((0, 1, 12)))
            held[:] = [one for one in held if one[1].lease_until >= desk.now]  # type: ignore[operator]
            lines.take_over(desk.now)
    ship()
    finishing.advance(desk.later(31))
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.COMPLETED, 5, 0)
    answers = [one["id"] for one in desk.read(batch.output_file_id)]
    assert len(set(answers)) == len(answers) == 5
    charged = UsageInbox.objects.filter(finish="complete").values_list("request_id", flat=True)
    assert len({one.rpartition("-")[0] for one in charged}) == len(charged) <= 5


def test_lines_of_one_chunk_are_read_together(desk: Desk) -> None:
    """Three lines in two chunks, and the second one's is in both."""
    batch = desk.batch(3, pad=content.CHUNK_BYTES // 2)
    sources = sending.Sources()
    claimed = desk.claim()
    with CaptureQueriesContext(connection) as asked:
        letters = [sending.prepare(line, sources) for line in (*claimed, *claimed)]
    assert [one.custom_id for one in letters] == ["c0", "c1", "c2"] * 2
    assert sum("batches_filechunk" in one["sql"] for one in asked) == 2
    sources.keep([batch.id])
    with CaptureQueriesContext(connection) as asked:
        sending.prepare(claimed[0], sources)
    assert not any("batches_filechunk" in one["sql"] for one in asked)
    sources.keep([])
    with CaptureQueriesContext(connection) as asked:
        sending.prepare(claimed[0], sources)
    assert any("batches_filechunk" in one["sql"] for one in asked)
    files.delete(actor=audit.SYSTEM, file=File.objects.get(id=batch.input_file_id), now=desk.now)
    with pytest.raises(sending.NotSent):  # what is remembered of it counts no more
        sending.prepare(claimed[0], sources)


def test_a_cancelled_batch_keeps_what_is_done(desk: Desk) -> None:
    batch = desk.batch(3, pad=content.CHUNK_BYTES)
    done, running = desk.claim(most=2)
    desk.settle(done)
    services.cancel(actor=audit.SYSTEM, batch=batch, now=desk.now)
    assert desk.claim() == []
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert batch.status == Status.CANCELLING  # one runs
    desk.settle(running)
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.CANCELLED, 2, 1)
    assert len(desk.read(batch.output_file_id)) == 2
    (undone,) = desk.read(batch.error_file_id)
    assert (undone["custom_id"], undone["error"]["code"]) == ("c2", "batch_cancelled")
    assert AuditEvent.objects.filter(action="batch.end", target_id=batch.id).count() == 1


def test_after_its_window_a_batch_expires(desk: Desk) -> None:
    batch = desk.batch(2)
    (done,) = desk.claim(most=1)
    desk.settle(done)
    desk.later(86_400)
    assert lines.streams(desk.now) == []
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.EXPIRED, 1, 1)
    (undone,) = desk.read(batch.error_file_id)
    assert undone["error"]["code"] == "batch_expired"


def test_a_revoked_key_ends_its_batches(desk: Desk) -> None:
    batch = desk.batch(2)
    (done, _) = desk.claim()
    desk.settle(done)
    tenancy.revoke_key(actor=audit.SYSTEM, key=desk.key, now=desk.now)
    finishing.advance(desk.now)
    assert lines.streams(desk.now) == []
    lines.take_over(desk.later(31))
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.FAILED, 1, 1)
    assert batch.errors[0]["code"] == "invalid_api_key"
    assert len(desk.read(batch.output_file_id)) == 1


def test_a_bad_file_fails_its_batch_and_says_where(desk: Desk) -> None:
    batch = services.create(
        actor=audit.SYSTEM,
        key=desk.key,
        input_file_id=desk.file(b'{"custom_id": "a"}\nnonsense\n').id,
        endpoint=URL,
        completion_window="24h",
        now=desk.now,
    )
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert batch.status == Status.FAILED
    found = [(one["line"], one["code"]) for one in batch.errors]
    assert found == [(1, "missing_required_parameter"), (2, "invalid_json_line")]


def test_a_deleted_file_is_gone_and_ends_what_needs_it(desk: Desk) -> None:
    batch = desk.batch(2)
    file = File.objects.get(id=batch.input_file_id)
    (done, _) = desk.claim()
    desk.settle(done)
    files.delete(actor=audit.SYSTEM, file=file, now=desk.now)
    assert not FileChunk.objects.filter(file_id=file.id).exists()
    lines.take_over(desk.later(31))
    finishing.advance(desk.now)
    batch.refresh_from_db()
    assert (batch.status, batch.completed, batch.failed) == (Status.FAILED, 1, 1)
    assert len(desk.read(batch.output_file_id)) == 1 and not batch.error_file_id


def test_files_expire_and_are_erased(desk: Desk) -> None:
    short = desk.file(b"x", kept_s=3600)
    long = desk.file(b"y")
    never = files.begin(actor=audit.SYSTEM, project=desk.world.project, now=desk.now)
    never.write(b"z" * content.CHUNK_BYTES)
    assert files.expire(desk.later(3600)) == 2
    assert set(File.objects.values_list("id", flat=True)) == {long.id}
    assert AuditEvent.objects.filter(action="file.expire").get().target_id == short.id
    (place,) = (one for one in places.places() if one.name == "batch_files")
    assert set(place.tables) >= {"batches_file", "batches_filechunk", "batches_line"}
    assert place.erase(desk.world.project.id, desk.now) == 1
    assert not File.objects.exists() and not FileChunk.objects.exists()


def test_content_is_bound_to_its_file_and_place(desk: Desk) -> None:
    raw = bytes(range(256)) * 2048 + b"end"
    file = desk.file(raw)
    assert b"".join(content.read(file)) == raw
    assert content.Reader(file).piece(262_140, 10) == raw[262_140:262_150]
    first, second = FileChunk.objects.filter(file=file).order_by("number")[:2]
    blobs = bytes(first.blob), bytes(second.blob)
    FileChunk.objects.filter(id=first.id).update(blob=blobs[1])
    with pytest.raises(InvalidTag):
        content.Reader(file).piece(0, 10)
    assert blobs[0][:16] != raw[:16]
