"""From events to signed heads: every event has one leaf, no index is missing, nothing forks."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.conf import settings
from django.db import IntegrityError, ProgrammingError, connection, transaction

from compliance import audit, grants
from compliance.log import checkpoints, merkle, notes, proofs, sequencer, signing, tree
from compliance.models import AuditEvent, Log, LogCheckpoint, LogLeaf, LogPending
from tests.signers import running
from tests.test_layout import ROOT

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
OURS = "org_00000000000000000000000001"
THEIRS = "org_00000000000000000000000002"


def happen(log: str = OURS, times: int = 1) -> list[str]:
    return [
        audit.record(
            actor=audit.SYSTEM,
            action="price.create",
            target=audit.Target("price", f"prc_{n}"),
            log=log,
            now=NOW + timedelta(milliseconds=n),
        )
        for n in range(times)
    ]


def drain(limit: int = sequencer.BATCH) -> None:
    while sequencer.sequence(NOW, limit):
        pass


def check(owner: str) -> Log:
    """Contiguous, complete, and with the root that its bodies give."""
    log = Log.objects.get(owner=owner, closed_at=None)
    leaves = list(LogLeaf.objects.filter(log_id=log.id).order_by("index"))
    assert [leaf.index for leaf in leaves] == list(range(log.size))
    events = {one.id: bytes(one.body) for one in AuditEvent.objects.filter(log_id=owner)}
    assert {leaf.event_id for leaf in leaves} == events.keys()
    hashes = [merkle.leaf_hash(events[leaf.event_id]) for leaf in leaves]
    root = merkle.root(hashes)
    assert merkle.Frontier.load(log.size, bytes(log.peaks)).root() == root
    assert merkle.tree_root(tree.nodes(log.id), log.size) == root
    assert list(tree.hashes(log.id, 0, log.size)) == hashes
    return log


@pytest.mark.django_db
def test_each_owner_has_a_log_without_gaps() -> None:
    for times in (1, 5, 300, 3):
        happen(OURS, times)
        happen(THEIRS, 2)
        happen(audit.PLATFORM)
        drain(limit=64)
    assert not LogPending.objects.exists()
    assert check(OURS).origin == f"localhost/audit/t/{OURS}"
    assert check(OURS).size == 309
    assert (check(THEIRS).size, check(audit.PLATFORM).size) == (8, 4)
    assert sequencer.oldest_wait() is None


@pytest.mark.django_db
def test_what_is_rolled_back_takes_no_index() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        happen()
        _ = 1 / 0
    assert not LogPending.objects.exists()
    happen()
    drain()
    assert check(OURS).size == 1


@pytest.mark.django_db
def test_the_running_role_appends_and_can_neither_forge_nor_forget() -> None:
    happen(times=3)
    waiting = LogPending.objects.order_by("event_id").first()
    assert waiting is not None
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
        for statement in (
            "DELETE FROM compliance_logpending",
            "UPDATE compliance_logpending SET leaf_hash = ''",
            "INSERT INTO compliance_logpending VALUES ('evt_x', 'meta', '', now(), now())",
            "DELETE FROM compliance_log",
            "TRUNCATE compliance_logleaf",
            "UPDATE compliance_logleaf SET index = 7",
            "DELETE FROM compliance_lognode",
            "UPDATE compliance_logcheckpoint SET note = ''",
        ):
            with pytest.raises(ProgrammingError, match="denied"), transaction.atomic():
                cursor.execute(statement)
        forged = LogLeaf(
            log_id="log_1",
            index=0,
            event_id=waiting.event_id,
            leaf_hash=bytes(32),
            recorded_at=NOW,
            queued_at=NOW,
        )
        with pytest.raises(IntegrityError, match="not queued as they are"), transaction.atomic():
            forged.save(force_insert=True)
        drain()
        cursor.execute("RESET ROLE")
    assert check(OURS).size == 3


@pytest.mark.django_db
@pytest.mark.parametrize("table", ["logleaf", "lognode", "logcheckpoint", "loganchor"])
def test_the_logs_tables_only_grow(table: str) -> None:
    name = f"compliance_{table}"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT array_agg(tgname::text || tgenabled::text) FROM pg_trigger"
            " WHERE tgrelid = %s::regclass AND tgname LIKE 'append_only%%'",
            [name],
        )
        (found,) = cursor.fetchone()
        assert set(found) == {"append_only_rowsA", "append_only_truncateA"}
        with pytest.raises(IntegrityError, match="rows are only added"), transaction.atomic():
            cursor.execute(f"TRUNCATE {name}")
    assert name in grants.append_only_tables()


@pytest.mark.django_db
def test_events_of_before_are_brought_in_a_piece_at_a_time() -> None:
    """As after the upgrade: rows that no trigger queued, and new ones beside them."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE compliance_auditevent DISABLE TRIGGER queue_leaf")
        old = happen(times=25)
        cursor.execute("ALTER TABLE compliance_auditevent ENABLE ALWAYS TRIGGER queue_leaf")
        cursor.execute("INSERT INTO compliance_logbackfill VALUES ('')")
    new = happen(times=3)
    assert sequencer.sequence(NOW, 10) == 10
    assert Log.objects.get(owner=OURS).size == 10  # and then, perhaps, the worker is killed
    drain(limit=10)
    check(OURS)
    order = LogLeaf.objects.order_by("index").values_list("event_id", flat=True)
    assert list(order) == old + new
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM compliance_logbackfill")
        assert cursor.fetchone() == (0,)


@pytest.mark.django_db
def test_heads_are_signed_and_stand_in_the_meta_log() -> None:
    with running():
        key = signing.verifier()
        assert checkpoints.sign_due(NOW) == 0  # nothing has happened
        event = happen(OURS, 3)[1]
        happen(THEIRS)
        drain()
        assert checkpoints.sign_due(NOW) == 2
        drain()
        assert checkpoints.sign_due(NOW) == 1  # the meta log's
        assert checkpoints.sign_due(NOW) == 0
        first = checkpoints.newest(OURS)
        assert first is not None
        happen(OURS, 300)
        drain()
        assert checkpoints.sign_due(NOW + checkpoints.EVERY / 2) == 0
        assert checkpoints.sign_due(NOW + checkpoints.EVERY) == 1
        drain()
        checkpoints.sign_due(NOW + 2 * checkpoints.EVERY)

    proof = proofs.inclusion(event)
    head = notes.parse_checkpoint(notes.open_note(proof.note, [key]))
    body = bytes(AuditEvent.objects.get(id=event).body)
    assert (head.origin, head.size) == (proof.origin, proof.size) == (proof.origin, 303)
    assert merkle.included(merkle.leaf_hash(body), proof.index, proof.size, proof.proof, head.root)
    since = proofs.consistency(OURS, first.size)
    assert (since.old, since.new) == (3, 303)
    assert merkle.consistent(3, bytes(first.root), 303, head.root, since.proof)
    for one in (first, checkpoints.newest(OURS)):
        assert one is not None
        meta = proofs.in_meta(one)
        assert meta is not None
        top = notes.parse_checkpoint(notes.open_note(meta.note, [key]))
        assert top.origin == "localhost/audit/meta"
        assert json.loads(meta.body) == {"c": json.loads(bytes(one.blind))["c"]}
        assert checkpoints.blinded(meta.salt, one.note) == meta.body
        leaf = merkle.leaf_hash(meta.body)
        assert merkle.included(leaf, meta.index, meta.size, meta.proof, top.root)


@pytest.mark.django_db
def test_no_proof_is_given_of_what_no_head_covers() -> None:
    (event,) = happen()
    with pytest.raises(proofs.NotYet):
        proofs.inclusion(event)
    drain()
    with pytest.raises(proofs.NotYet):
        proofs.inclusion(event)
    with pytest.raises(proofs.Unknown):
        proofs.inclusion("evt_00000000000000000000000000")
    with pytest.raises(proofs.NotYet):
        proofs.consistency(OURS, 0)
    with running():
        checkpoints.sign_due(NOW)
        assert proofs.inclusion(event).size == 1
        with pytest.raises(proofs.Unknown):
            proofs.consistency(OURS, 2)


@pytest.mark.django_db
def test_a_head_that_was_signed_and_not_kept_is_signed_again() -> None:
    happen(times=3)
    drain()
    with running(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogCheckpoint, "save", lambda *_, **__: os._exit)  # dies before the row
        log = Log.objects.get(owner=OURS)
        checkpoints.sign(log, NOW)
        patch.undo()
        assert not LogCheckpoint.objects.exists()
        happen(times=2)
        drain()
        log.refresh_from_db()
        assert checkpoints.sign_due(NOW) == 1
        assert signing.head(log.origin).size == 5


@pytest.mark.django_db
def test_an_altered_log_is_refused_and_says_so() -> None:
    """By the tables' owner, who can switch triggers off: the leaf, its nodes and the frontier."""
    with running():
        happen(times=4)
        drain()
        checkpoints.sign_due(NOW)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE compliance_logleaf DISABLE TRIGGER append_only_rows")
            cursor.execute(
                "UPDATE compliance_logleaf SET leaf_hash = %s WHERE index = 1",
                [bytes(32)],
            )
        hashes = list(tree.hashes(Log.objects.get(owner=OURS).id, 0, 4))
        frontier = merkle.Frontier()
        frontier.extend(hashes)
        Log.objects.filter(owner=OURS).update(peaks=frontier.dump())
        happen()
        drain()
        checkpoints.sign_due(NOW + checkpoints.EVERY)
        assert Log.objects.get(owner=OURS).refused == "inconsistent"
        assert OURS not in checkpoints.due(NOW + 9 * checkpoints.EVERY).values_list("owner")


_PROGRAM = """
import django; django.setup()
from datetime import UTC, datetime
from compliance.log import sequencer
print("ready", flush=True)
while True:
    sequencer.sequence(datetime.now(UTC), 7)
"""


@pytest.fixture
def sequencers(transactional_db: None) -> Iterator[list[subprocess.Popen[str]]]:
    """Two programs that sequence without rest, of this test's database."""
    database = connection.settings_dict
    host = f"{database['HOST']}:{database['PORT']}"
    url = f"postgresql://{database['USER']}:{database['PASSWORD']}@{host}/{database['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    command = [sys.executable, "-c", _PROGRAM]
    children: list[subprocess.Popen[str]] = []

    def start() -> None:
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        children.append(child)

    start()
    start()
    yield children
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout
        child.stdout.close()


def test_two_at_once_and_kills_leave_one_log(sequencers: list[subprocess.Popen[str]]) -> None:
    """Writers beside two sequencers, one of which is killed: what is left is one whole log."""
    for round_ in range(4):
        happen(OURS if round_ % 2 else THEIRS, 120)
        if round_ == 2:
            sequencers[0].kill()
    for child in sequencers:
        child.kill()
        child.wait()
    while LogPending.objects.exists():  # the lock of who was killed goes with its connection
        sequencer.sequence(NOW, 50)
    assert check(OURS).size == check(THEIRS).size == 240
    assert not LogPending.objects.exists()


def test_while_one_appends_another_does_nothing(transactional_db: None) -> None:
    happen(times=3)
    held, done = threading.Event(), threading.Event()
    database = connection.settings_dict

    def hold() -> None:
        with psycopg.connect(
            host=database["HOST"],
            port=database["PORT"],
            user=database["USER"],
            password=database["PASSWORD"],
            dbname=database["NAME"],
        ) as other:
            other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [sequencer.LOCK])
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    assert sequencer.sequence(NOW) == 0
    assert LogPending.objects.count() == 3
    done.set()
    thread.join()
    drain()
    assert check(OURS).size == 3
