"""Every driver of a KMS does the same: one suite for the file and for a real OpenBao."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.test import override_settings

from compliance import audit, keys
from compliance.keys import boxes, kms, rotation, transit
from compliance.keys.kms import KeyDestroyed, KmsAway
from compliance.keys.passphrase import FileKms
from compliance.keys.transit import TransitKms
from compliance.models import AuditEvent, DataKey
from compliance.sealing import SealBroken
from compliance.subjects import Subject
from tests.compliance.kms_places import fresh
from tests.compliance.openbao import OpenBao, running

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
KEY = bytes(range(32))
ADA = Subject("person", "usr_01k00000000000000000000000")
BOB = Subject("person", "usr_01k00000000000000000000001")

Driver = FileKms | TransitKms


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with running(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(params=["file", "transit"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    """Each test's own, with its first version."""
    made: Driver
    if request.param == "file":
        made = FileKms(tmp_path / "kms" / "kek.json", "a passphrase", cost=1 << 8)
    else:
        bao: OpenBao = request.getfixturevalue("bao")
        made = TransitKms(bao.url, bao.token_file, key=f"stoa-{abs(hash(tmp_path))}")
    with pytest.raises(KmsAway, match="stoa keys init"):
        made.versions()
    assert made.create(NOW)
    assert not made.create(NOW)
    return made


def test_a_wrapped_key_opens_in_its_own_context_alone(driver: Driver) -> None:
    kek, wrapped = driver.wrap(KEY, "dk_1|person|usr_1|data")
    assert kek == driver.versions()[-1].kek and kek.startswith(f"{driver.name}/")
    assert KEY not in wrapped
    assert driver.unwrap(kek, wrapped, "dk_1|person|usr_1|data") == KEY
    _, other = driver.wrap(KEY[::-1], "dk_2|person|usr_2|data")
    for broken, context in (
        (wrapped, "dk_2|person|usr_2|data"),
        (other, "dk_1|person|usr_1|data"),
        (wrapped[:-3] + b"AAA", "dk_1|person|usr_1|data"),
    ):
        with pytest.raises(SealBroken):
            driver.unwrap(kek, broken, context)
        with pytest.raises(SealBroken):
            driver.rewrap(kek, broken, context)


def test_versions_come_and_go_and_what_they_wrapped_with_them(driver: Driver) -> None:
    first, wrapped = driver.wrap(KEY, "c")
    with pytest.raises(ValueError, match="wraps"):
        driver.retire(first, NOW)
    second = driver.rotate(NOW + timedelta(days=1))
    assert [one.kek for one in driver.versions()] == [first, second]
    assert driver.unwrap(first, wrapped, "c") == KEY
    assert driver.wrap(KEY, "c")[0] == second
    moved, again = driver.rewrap(first, wrapped, "c")
    assert moved == second and again != wrapped
    driver.retire(first, NOW)
    assert [one.kek for one in driver.versions()] == [second]
    assert driver.unwrap(second, again, "c") == KEY
    with pytest.raises(KeyDestroyed):
        driver.unwrap(first, wrapped, "c")
    third = driver.rotate(NOW)
    assert third not in (first, second)  # a number is never used again


# --- the file alone ------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> FileKms:
    made = FileKms(tmp_path / "kek.json", "a passphrase", cost=1 << 8)
    made.create(NOW)
    return made


def test_the_file_is_the_owners_and_opened_by_its_passphrase_alone(
    file: FileKms, tmp_path: Path
) -> None:
    path = tmp_path / "kek.json"
    assert path.stat().st_mode & 0o777 == 0o600
    kek, wrapped = file.wrap(KEY, "c")
    assert FileKms(path, "a passphrase").unwrap(kek, wrapped, "c") == KEY
    for other in ("another", ""):
        with pytest.raises(KmsAway, match="PASSPHRASE"):
            FileKms(path, other).unwrap(kek, wrapped, "c")
        before = path.read_bytes()
        with pytest.raises(KmsAway, match="PASSPHRASE"):
            FileKms(path, other).rotate(NOW)
        assert path.read_bytes() == before
    said = json.loads(path.read_text())
    said["versions"][0]["created_at"] = audit.stamp(NOW + timedelta(days=300))
    for broken in (json.dumps(said), "{}", "", before[: len(before) // 2].decode()):
        path.write_text(broken)
        with pytest.raises(KmsAway):
            FileKms(path, "a passphrase").versions()


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.rename"])
def test_a_rotation_that_is_cut_off_leaves_the_old_or_the_new_file(
    file: FileKms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    kek, wrapped = file.wrap(KEY, "c")

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(SystemExit):
            file.rotate(NOW)
    other = FileKms(tmp_path / "kek.json", "a passphrase")  # of a process that comes after it
    assert other.unwrap(kek, wrapped, "c") == KEY
    assert other.rotate(NOW) == "file/2"
    assert file.wrap(KEY, "c")[0] == "file/2"  # and the first sees that another rotated


# --- OpenBao alone -------------------------------------------------------------------------


def test_a_silent_or_foreign_openbao_is_away(
    bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transit, "TIMEOUT_S", 0.3)
    here = TransitKms(bao.url, bao.token_file, key="away")
    here.create(NOW)
    kek, wrapped = here.wrap(KEY, "c")
    bao.pause()
    try:
        with pytest.raises(KmsAway, match="does not answer"):
            here.unwrap(kek, wrapped, "c")
    finally:
        bao.go_on()
    assert here.unwrap(kek, wrapped, "c") == KEY
    (tmp_path / "token").write_text("another")
    with pytest.raises(KmsAway, match="403"):
        TransitKms(bao.url, tmp_path / "token", key="away").versions()
    with pytest.raises(KmsAway, match="TOKEN_FILE"):
        TransitKms(bao.url, tmp_path / "none", key="away").versions()
    with pytest.raises(KmsAway, match="404"):
        TransitKms(bao.url, bao.token_file, mount="elsewhere").wrap(KEY, "c")


@pytest.mark.django_db
def test_one_that_is_away_fails_what_needs_it_and_nothing_else(
    own_kms: FileKms, bao: OpenBao, tmp_path: Path
) -> None:
    """From the file to OpenBao by a rewrap; then it is gone."""
    blob = keys.seal(b"ada", subject=ADA, context="c")
    said = {"KMS": "transit", "KMS_URL": bao.url, "KMS_TOKEN_FILE": str(bao.token_file)}
    with override_settings(**said, KMS_NAME="moved"), fresh():
        assert rotation.init(now=NOW)
        assert keys.unseal(blob, subject=ADA, context="c") == b"ada"
        done = rotation.rewrap(now=NOW)
        assert (done.done, done.left, done.kek) == (1, 0, "transit/moved/1")
        boxes.forget()
        assert keys.unseal(blob, subject=ADA, context="c") == b"ada"
        gone = str(bao.token_file) + ".gone"
        kms.current()._token_file = Path(gone)  # type: ignore[attr-defined]
        assert keys.unseal(blob, subject=ADA, context="c") == b"ada"  # it is unwrapped here
        keys.seal(b"more", subject=ADA, context="c")
        events = AuditEvent.objects.count()
        DataKey.objects.update(created_at=NOW - timedelta(days=900))
        keys.seal(b"more", subject=ADA, context="c")  # its epoch is over, and goes on
        with pytest.raises(KmsAway), transaction.atomic():
            audit.record(
                actor=audit.SYSTEM,
                action="user.create",
                target=audit.Target("user", BOB.id),
                log=audit.PLATFORM,
                now=NOW,
                personal={"email": "bob@example.eu"},
            )
        assert (AuditEvent.objects.count(), DataKey.objects.count()) == (events, 1)
        boxes.forget()
        with pytest.raises(KmsAway):
            keys.unseal(blob, subject=ADA, context="c")
        kms.current()._token_file = bao.token_file  # type: ignore[attr-defined]
        assert keys.unseal(blob, subject=ADA, context="c") == b"ada"


def test_another_word_than_a_drivers_is_refused() -> None:
    with override_settings(KMS="hsm"), pytest.raises(ImproperlyConfigured, match="STOA_KMS"):
        kms.current()
