"""Seconds that a node proves, held against our own clock: the less is billed, whatever happens."""

import base64
import logging
import random
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from django.conf import settings
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from billing.meters import keeping, signed
from billing.meters import metering as evidence
from billing.models import MeterFinding, NodeBatch, NodeRecord, UsageEvent
from compliance import grants
from controlplane.endpoints import funding, node_records
from controlplane.endpoints.models import Replica, ServingInterval
from tests.endpoints.world import World, organization
from tests.workers.node_stand import Signer, Stand, founded, record
from workers import metering, reconciling
from workers.agent.records import Phase

pytestmark = pytest.mark.django_db


@pytest.fixture
def stand(world: World, tmp_path: Path) -> Stand:
    return Stand(world, tmp_path)


def kinds() -> list[str]:
    return sorted(MeterFinding.objects.values_list("kind", flat=True))


@pytest.mark.parametrize("seed", range(6))
def test_what_both_agree_on_is_billed_whatever_happens(stand: Stand, seed: int) -> None:
    chance = random.Random(seed)
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(45):
        stand.later(chance.choice((0.3, 2.0, 4.7, 4.7, 11.0, 33.3)))
        match chance.randrange(12):
            case 0:
                stand.report(heard=False)
            case 1:
                stand.report(answered=False)
            case 2:
                stand.again(chance)
            case 3:
                stand.skew += chance.choice((3600, -3600, -1))
            case 4:
                stand.start()  # the agent was killed
            case 5 if chance.random() < 0.15:
                stand.reboot()
            case 6:
                stand.meter()
            case _:
                stand.report()
        for interval in stand.intervals():  # never more than that, at any time
            assert stand.charged(interval) <= stand.agreed(interval)
    stand.stop()
    for _ in range(3):
        stand.again(chance)
        stand.report()
    stand.later(70)
    stand.meter()
    assert stand.intervals()
    for interval in stand.intervals():
        assert stand.charged(interval) == stand.agreed(interval)
        proved = interval.proved_us or 0
        assert proved / 1e6 <= interval.served_s + 0.002
    events = list(UsageEvent.objects.order_by("id").values())
    stand.again(chance)
    stand.meter()
    assert list(UsageEvent.objects.order_by("id").values()) == events
    assert "conflict" not in kinds() and "overlap" not in kinds() and "gap" not in kinds()


def test_a_step_of_the_wall_clock_changes_nothing_and_is_told(stand: Stand) -> None:
    stand.enter(Phase.READY)
    stand.report()
    for step in (0, 3600, 0, -3600, -1, 0):
        stand.skew += step
        for _ in range(8):
            stand.later(5)
            stand.report()
    stand.stop()
    stand.meter()
    [interval] = stand.intervals()
    assert stand.charged(interval) == stand.agreed(interval) == 240
    assert kinds() == ["clock_jump", "clock_jump"]  # a leap second is none


def test_a_node_that_counts_too_fast_is_paid_by_our_clock(world: World, tmp_path: Path) -> None:
    stand = Stand(world, tmp_path, rate=1.5)
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(30):
        stand.later(5)
        stand.report()
    stand.stop(after_s=0.0)
    stand.meter()
    [interval] = stand.intervals()
    assert stand.charged(interval) == 150
    assert "fast_clock" in kinds()


def test_seconds_that_we_cannot_see_are_not_billed(stand: Stand) -> None:
    """Unreachable, and after the stop was asked for."""
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(12):
        stand.later(5)
        stand.report()
    for _ in range(20):
        stand.later(5)
        stand.report(heard=False)
    stand.report()  # it is back
    for _ in range(12):
        stand.later(5)
        stand.report()
    stand.stop(after_s=30)
    stand.meter()
    first, second = stand.intervals()
    assert (stand.charged(first), stand.charged(second)) == (60, 60)
    outside = MeterFinding.objects.filter(kind="outside")
    assert 125 <= sum(one.seconds for one in outside) <= 130
    assert {one.endpoint_id for one in outside} == {stand.endpoint.id}


def test_what_no_record_proves_is_not_billed_and_keeps_the_invoice_back(stand: Stand) -> None:
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(60):
        stand.later(5)
        stand.report()
    stand.stop(after_s=0.0)
    stand.meter()
    [interval] = stand.intervals()
    assert stand.charged(interval) == 300
    account = stand.endpoint.project.organization.account_id
    month = (stand.world.now - timedelta(days=20), stand.world.now + timedelta(days=20))
    later = stand.world.now + timedelta(hours=2)
    assert reconciling.reconcile(later) == 0
    # A hole of 90 s, as if two records had never come.
    ServingInterval.objects.filter(id=interval.id).update(
        proved_us=(interval.proved_us or 0) - 90_000_000, reconciled_at=None
    )
    assert reconciling.reconcile(later) == 2  # and the usage is more than what was agreed
    assert reconciling.reconcile(later) == 0
    [hole] = [one for one in evidence.unexplained(account, *month) if one.kind == "unproved"]
    assert hole.seconds == 90 and hole.interval_id == interval.id
    stand.world.later(60)
    stand.meter()
    assert stand.charged(interval, "credit") == 90
    assert evidence.unexplained("acc_other", *month) == []


def test_under_a_hard_budget_a_hole_is_not_filled_later(world: World, signer: Signer) -> None:
    """What would have paid for it has gone back, and nothing more is reserved for it."""
    id = placed(world, signer)
    Replica.objects.filter(id=id).update(funded_until=world.now + timedelta(hours=1))
    interval = ServingInterval.objects.create(replica_id=id, started_at=world.now, proved_us=0)

    def said(*numbers: int) -> tuple[int, int]:
        batches = [signer.batch(record(id, n, 60 * n - 60, 60 * n)) for n in numbers]
        node_records.note(signer.node_id, batches, world.now)
        interval.refresh_from_db()
        return (interval.proved_us or 0) // 60_000_000, interval.reached_us // 60_000_000

    assert said(1) == (1, 1)
    assert said(3) == (2, 3)
    world.later(200)
    assert said(2) == (2, 3)
    assert funding.unsettled([id], world.now) == {id: interval.started_at + timedelta(seconds=60)}
    ended = interval.started_at + timedelta(seconds=300)
    ServingInterval.objects.filter(id=interval.id).update(ended_at=ended, served_s=300)
    world.later(200)
    assert said(4) == (3, 4)
    world.later(30)
    assert said(5) == (3, 4)  # too long after its end


def test_the_last_minute_of_a_node_that_fell_silent_is_our_loss(stand: Stand) -> None:
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(30):
        stand.later(5)
        stand.report()
    stand.later(400)  # and nothing is heard of it any more
    stand.meter()
    [interval] = stand.intervals()
    assert stand.charged(interval) == stand.agreed(interval)
    assert 85 <= stand.charged(interval) <= 150
    reconciling.reconcile(stand.world.now + timedelta(hours=2))
    [hole] = MeterFinding.objects.filter(kind="unproved")
    assert not hole.blocks and "silent" in hole.detail


def test_a_crash_loop_bills_nothing(stand: Stand) -> None:
    stand.enter(Phase.STARTING)
    stand.report()
    stand.later(30)
    stand.record.reason = "engine_exited"
    stand.enter(Phase.FAILED)
    stand.report()
    stand.later(70)
    stand.meter()
    assert not UsageEvent.objects.exists()


def test_the_minute_in_which_a_replica_failed_is_given_back(stand: Stand) -> None:
    stand.enter(Phase.READY)
    stand.report()
    for _ in range(17):
        stand.later(5)
        stand.report()
    stand.meter()
    stand.record.reason = "engine_exited"
    stand.enter(Phase.FAILED)
    stand.report()
    for _ in range(2):
        stand.meter()
    [interval] = stand.intervals()
    assert (stand.charged(interval), stand.charged(interval, "credit")) == (85, 25)
    [credit] = UsageEvent.objects.filter(basis="credit")
    assert credit.flags == ["platform_fault", "engine_exited"]
    [finding] = MeterFinding.objects.filter(kind="platform_fault")
    assert finding.seconds == 25


def test_a_node_of_the_release_before_is_billed_as_it_was(stand: Stand) -> None:
    stand.enter(Phase.READY)
    stand.report()
    ServingInterval.objects.update(proved_us=None)
    for _ in range(13):
        stand.later(5)
        stand.report()
    metering.meter_replicas(stand.world.now)
    [event] = UsageEvent.objects.all()
    assert (event.quantity, event.flags) == (60, ["unproved"])


# --- evidence that does not fit ---------------------------------------------------------------


@pytest.fixture
def signer(world: World) -> Signer:
    return Signer(founded(world), world.node().id)


def placed(world: World, signer: Signer) -> str:
    node = world.pool.nodes.get(id=signer.node_id)
    return world.replica(world.endpoint(), node).id


def test_no_second_of_a_replica_is_kept_twice(world: World, signer: Signer) -> None:
    id = placed(world, signer)
    node_records.note(signer.node_id, [signer.batch(record(id, 1, 0, 60))], world.now)
    row = NodeRecord.objects.get()
    fields = {name: value for name, value in vars(row).items() if name not in ("_state", "id")}
    with pytest.raises(IntegrityError, match="noderecord_no_overlap"), transaction.atomic():
        NodeRecord.objects.create(**fields | {"seq": 2, "mono_start_us": 59_000_000})
    with pytest.raises(IntegrityError, match="noderecord_once"), transaction.atomic():
        shifted = {"mono_start_us": 60_000_000, "mono_end_us": 61_000_000}
        NodeRecord.objects.create(**fields | shifted)
    overlapping = signer.batch(record(id, 2, 30, 90))
    node_records.note(signer.node_id, [overlapping], world.now)
    assert NodeRecord.objects.count() == 1
    assert "overlap" in kinds()
    assert NodeBatch.objects.get(problem="overlap").body == overlapping.body


def test_a_number_that_comes_again_with_other_content_is_set_aside_aloud(
    world: World, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    id = placed(world, signer)
    first, other = record(id, 1, 0, 60), record(id, 1, 0, 50)
    node_records.note(signer.node_id, [signer.batch(first)], world.now)
    for _ in range(2):
        node_records.note(signer.node_id, [signer.batch(other)], world.now)
    assert kinds().count("conflict") == 1
    assert [one.levelno for one in caplog.records if "conflict" in one.message] == [logging.ERROR]
    assert NodeRecord.objects.get().mono_end_us == 60_000_000
    assert NodeBatch.objects.filter(problem="conflict").count() == 1


def test_what_is_missing_is_told_until_it_came(world: World, signer: Signer) -> None:
    id = placed(world, signer)
    batches = {n: signer.batch(record(id, n, 60 * n, 60 * n + 60)) for n in (1, 2, 3, 5)}
    node_records.note(signer.node_id, [batches[1], batches[5]], world.now)
    [gap] = MeterFinding.objects.filter(kind="gap")
    assert "records 2 to 4" in gap.detail and gap.explained_at is None
    node_records.note(signer.node_id, [batches[3], batches[2]], world.now)
    gap.refresh_from_db()
    assert gap.explained_at is None
    late = signer.batch(record(id, 4, 240, 300))
    node_records.note(signer.node_id, [late], world.now)
    gap.refresh_from_db()
    assert gap.explanation == "they came late"


def test_only_the_nodes_own_key_speaks_for_it(world: World, signer: Signer) -> None:
    id = placed(world, signer)
    other = Signer(signer.authority, world.node("n2").id)
    stranger = Signer(signer.authority, signer.node_id)
    good = signer.batch(record(id, 1, 0, 60))
    altered = msgspec.structs.replace(good, body=good.body.replace(b'"seq":1', b'"seq":7'))
    elsewhere = Signer(founded(world), signer.node_id).batch(record(id, 1, 0, 60))
    founded_again = world.pool.region
    founded_again.ca_certificate = signer.authority.certificate_pem
    founded_again.save()
    said = [
        altered,
        other.batch(record(id, 1, 0, 60)),
        other.batch(record(id, 1, 0, 60), node_id=signer.node_id),
        signer.batch(record(id, 1, 0, 60), node_id=other.node_id),
        msgspec.structs.replace(good, signature=stranger.key.sign(good.body)),
        elsewhere,
        signer.batch(record(id, 1, 0, 600)),  # no record is so long
        signer.batch(record("../etc", 1, 0, 60)),
    ]
    node_records.note(signer.node_id, said, world.now)
    assert not NodeRecord.objects.exists()
    assert NodeBatch.objects.exclude(problem="").count() == len(said)
    assert kinds() == ["forged"] * len(said)
    node_records.note(signer.node_id, [good], world.now)
    assert NodeRecord.objects.count() == 1


def test_a_replica_of_another_node_proves_nothing_here(world: World, signer: Signer) -> None:
    node = world.node("n2")
    replica = world.replica(world.endpoint(), node)
    ServingInterval.objects.create(replica=replica, started_at=world.now, proved_us=0)
    node_records.note(signer.node_id, [signer.batch(record(replica.id, 1, 0, 60))], world.now)
    assert ServingInterval.objects.get().proved_us == 0
    assert kinds() == ["not_its_node"]


# --- whose it is, and how long it stays -------------------------------------------------------


def test_a_batch_is_shown_to_the_one_whose_it_is(world: World, signer: Signer) -> None:
    world.pool.organization = None  # anybody's
    world.pool.save()
    mine = placed(world, signer)
    node = world.pool.nodes.get(id=signer.node_id)
    other = world.replica(world.endpoint(project=organization("other"), name="b"), node).id
    batches = [
        signer.batch(record(mine, 1, 0, 60)),
        signer.batch(record(other, 2, 0, 60)),
        signer.batch(record(mine, 3, 60, 120), record(other, 4, 60, 120)),
    ]
    node_records.note(signer.node_id, batches, world.now)
    accounts = {one: owner.account_id for one, owner in node_records.owners([mine, other]).items()}
    kept = NodeBatch.objects.order_by("id").values_list("account_id", flat=True)
    assert list(kept) == [accounts[mine], accounts[other], ""]
    span = world.now - timedelta(hours=1), world.now + timedelta(hours=1)
    [row] = signed.batch_rows(accounts[mine], *span)
    told = dict(zip(signed.BATCHES, row, strict=True))
    assert base64.b64decode(str(told["body"])) == batches[0].body
    assert base64.b64decode(str(told["signature"])) == batches[0].signature
    [(sha256, node_id, _, der)] = signed.certificate_rows(accounts[mine], *span)
    assert (sha256, node_id) == (told["certificate_sha256"], signer.node_id)
    assert base64.b64decode(str(der)) == batches[0].certificate
    assert len([*signed.batch_rows(None, *span)]) == 3
    assert ("eu-de-1", signer.authority.certificate_pem) in signed.authority_rows(None, *span)


def test_records_stay_for_their_time_and_no_longer(world: World, signer: Signer) -> None:
    id, now = placed(world, signer), timezone.now()
    kept_d = timedelta(days=settings.METER_EVIDENCE_DAYS)
    for seq, at in enumerate((now - kept_d - timedelta(days=1), now - kept_d / 2, now), 1):
        batch = signer.batch(record(id, seq, 60 * seq, 60 * seq + 60))
        node_records.note(signer.node_id, [batch], at)
    grants.apply(settings.APP_ROLE, settings.GATEWAY_ROLE)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {settings.APP_ROLE}")
    with pytest.raises(DatabaseError, match="permission denied"), transaction.atomic():
        NodeRecord.objects.filter(seq=1)._raw_delete("default")
    assert keeping.expire(now - kept_d, at_once=1) == 2  # the record, and its batch
    assert keeping.expire(now - kept_d) == 0
    assert sorted(NodeRecord.objects.values_list("seq", flat=True)) == [2, 3]
    assert NodeBatch.objects.count() == 2
    assert keeping.expire(now + 9 * kept_d) == 0  # whatever a clock or a setting says
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
    with pytest.raises(DatabaseError, match="kept for thirteen months"), transaction.atomic():
        NodeRecord.objects.filter(seq=2)._raw_delete("default")
