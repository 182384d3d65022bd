"""A key-encryption key of a test's own: what it rotates and retires nobody else needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from django.test import override_settings

from compliance.keys import boxes, kms
from compliance.keys.passphrase import FileKms


@contextmanager
def own_file(folder: Path, now: datetime) -> Iterator[FileKms]:
    """As STOA_KMS=file with a file in `folder`, its first version of `now`."""
    path = folder / "own" / "kek.json"
    driver = FileKms(path, "of this test", cost=1 << 8)
    driver.create(now)
    said = {"KMS": "file", "KMS_FILE": str(path), "KMS_PASSPHRASE": "of this test"}
    with override_settings(**said), fresh():
        yield driver


@contextmanager
def fresh() -> Iterator[None]:
    """Drivers are made of the settings anew, and no key is remembered."""
    kms.driver.cache_clear()
    boxes.forget()
    try:
        yield
    finally:
        kms.driver.cache_clear()
        boxes.forget()
