"""A rotation while everything goes on, killed between any two statements: nothing is unreadable."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from django.db import connection

from compliance import audit, ids, keys
from compliance.keys import boxes, rotation
from compliance.keys.passphrase import FileKms
from compliance.models import AuditEvent, DataKey, KekVersion
from compliance.subjects import Subject
from tests.billing.dying import Killed, dying
from workers import keykeeping

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def subjects(count: int) -> list[Subject]:
    return [Subject("organization", ids.new("org")) for _ in range(count)]


def said(action: str) -> int:
    return AuditEvent.objects.filter(action=action).count()


@pytest.mark.django_db(transaction=True)
def test_writers_go_on_while_keys_are_rotated(own_kms: FileKms) -> None:
    stop = Event()

    def work(seed: int) -> list[tuple[Subject, bytes, bytes]]:
        """Seals and opens, new subjects and old ones, until the rotations are over."""
        drawn, known = random.Random(seed), subjects(5)
        made: list[tuple[Subject, bytes, bytes]] = []
        while not stop.is_set() or len(made) < 20:
            known += subjects(1) if drawn.random() < 0.3 else []
            subject, plain = drawn.choice(known), drawn.randbytes(20)
            made.append((subject, plain, keys.seal(plain, subject=subject, context="c")))
            if drawn.random() < 0.2:
                boxes.forget()  # as another process that has unwrapped nothing
            subject, plain, blob = drawn.choice(made)
            assert keys.unseal(blob, subject=subject, context="c") == plain
        connection.close()
        return made

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(work, seed) for seed in range(3)]
        for number in range(1, 4):
            while DataKey.objects.count() < number * 10:
                pass
            rotation.rotate(actor=audit.SYSTEM, now=NOW)
            rotation.rewrap(now=NOW, limit=4)
        stop.set()
        made = [one for writer in writers for one in writer.result(60)]
    assert keykeeping.tend(NOW) + rotation.rewrap(now=NOW).done >= 0
    assert set(DataKey.objects.values_list("kek", flat=True)) == {"file/4"}
    assert (said("kms.rotate"), said("data_key.rewrap")) == (4, 3)
    with pytest.raises(rotation.Refused) as caught:
        rotation.retire(kek="file/3", actor=audit.SYSTEM, now=NOW)
    assert caught.value.code == "backups_need_it"
    later = NOW + timedelta(hours=2)
    rotation.retire(kek="file/3", actor=audit.SYSTEM, now=later)
    assert [one.kek for one in own_kms.versions()] == ["file/4"]
    assert KekVersion.objects.filter(retired_at=later).count() == 3
    boxes.forget()
    for subject, plain, blob in made:
        assert keys.unseal(blob, subject=subject, context="c") == plain


@pytest.mark.django_db(transaction=True)
def test_a_rewrap_that_is_killed_is_finished_by_the_next(own_kms: FileKms) -> None:
    blobs = [(one, keys.seal(b"x", subject=one, context="c")) for one in subjects(3)]
    rotation.rewrap(now=NOW)
    before = said("kms.rotate")
    after = 0
    while True:
        own_kms.rotate(NOW)  # in the KMS itself: nobody told us
        before += 1
        after += 1
        try:
            with dying(after):
                rotation.rewrap(now=NOW, limit=2)
        except Killed:
            connection.close()
            boxes.forget()
            for subject, blob in blobs:
                assert keys.unseal(blob, subject=subject, context="c") == b"x"
            rotation.rewrap(now=NOW, limit=2)
            done = None
        else:
            done = after
        newest = own_kms.versions()[-1].kek
        assert set(DataKey.objects.values_list("kek", flat=True)) == {newest}
        assert said("kms.rotate") == before
        assert said("data_key.rewrap") == before - 1
        if done:
            break
    assert after > 20


@pytest.mark.django_db
def test_the_doctor_tells_of_a_key_that_is_old_or_away(own_kms: FileKms) -> None:
    rotation.note_versions(now=NOW)
    made = own_kms.versions()[-1].created_at
    fine = keykeeping.finding(made + timedelta(days=364))
    assert fine.ok and fine.figures == {"kek_age_days": 364, "waiting": 0}
    late = keykeeping.finding(made + timedelta(days=367))
    assert not late.ok and late.cure == "`stoa keys rotate`"
    keys.seal(b"x", subject=subjects(1)[0], context="c")
    own_kms.rotate(NOW)
    rotation.note_versions(now=NOW)
    stuck = keykeeping.finding(NOW + timedelta(hours=2))
    assert not stuck.ok and stuck.figures["waiting"] == 1
    own_kms._path.rename(own_kms._path.with_suffix(".away"))
    assert not keykeeping.finding(NOW).ok
    assert keykeeping.tend(NOW) == 0
