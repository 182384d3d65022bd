"""A switching bundle that comes in: kept, verified, and only then read."""

import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings

from compliance.bundles import stoa_verify
from compliance.bundles.writer import FULL
from controlplane.switching import catalogue, register
from controlplane.switching.models import SwitchingImport
from controlplane.tenancy.errors import Invalid

KIND = "switching"
_CHUNK = 1 << 20
_ABANDONED_S = 86_400
_LONGEST = 16 << 20  # of a line


@dataclass(frozen=True)
class Bundle:
    """A verified one. `path`: where it is kept as evidence, under its SHA-256; `lacks`: what the
    verifier misses in its log."""

    path: Path
    sha256: str
    size: int
    id: str
    origin: str
    organization_id: str
    lacks: tuple[str, ...] = ()

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a resource, as they are read."""
        with zipfile.ZipFile(self.path) as archive:
            path = catalogue.BY_NAME[name].path
            if path not in archive.namelist():
                raise _refused("incomplete", f"the bundle has no {path}")
            wanted = set(catalogue.BY_NAME[name].keys())
            with archive.open(path) as lines:
                while line := lines.readline(_LONGEST):
                    row = json.loads(line)
                    if row.keys() != wanted:
                        raise _refused("unreadable", f"{path} is not by its schema")
                    yield row


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def keep(source: Readable, vkeys: Sequence[str]) -> Bundle:
    """Copy it to the archive of bundles and verify the copy. Raises Invalid, and keeps nothing
    then: `invalid_vkey`, `bundle_refused`, `not_switching`, `profile_not_full`, `other_format`."""
    if not vkeys:
        words = "say by whose key it is signed"
        raise Invalid(words, code="invalid_vkey", field="vkey")
    try:
        keys = [stoa_verify.Vkey.parse(one) for one in vkeys]
    except stoa_verify.Usage as error:
        raise Invalid(str(error), code="invalid_vkey", field="vkey") from None
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    _forget()
    digest, size = hashlib.sha256(), 0
    descriptor, name = tempfile.mkstemp(dir=place, prefix="incoming.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as into:
            while piece := source.read(_CHUNK):
                into.write(piece)
                digest.update(piece)
                size += len(piece)
            into.flush()
            os.fsync(into.fileno())
        manifest, lacks = _verified(draft, keys)
        kept = place / f"{digest.hexdigest()}.zip"
        draft.replace(kept)
    finally:
        draft.unlink(missing_ok=True)
    return Bundle(
        path=kept,
        sha256=digest.hexdigest(),
        size=size,
        id=manifest["id"],
        origin=manifest["origin"],
        organization_id=manifest["log"],
        lacks=lacks,
    )


def _forget() -> None:
    """What imports left that were killed or refused: no row tells of it."""
    for path in [*folder().glob("*.zip"), *folder().glob("incoming.*")]:
        kept = SwitchingImport.objects.filter(bundle_sha256=path.stem).exists()
        if not kept and path.stat().st_mtime < time.time() - _ABANDONED_S:
            path.unlink(missing_ok=True)


def folder() -> Path:
    """Where bundles are kept that came in: evidence, to be backed up like uploads."""
    return Path(settings.VAR) / "switching"


def _verified(
    path: Path, keys: Sequence[stoa_verify.Vkey]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Its manifest, and what its log lacks: that a clock stepped back is no reason to hold a
    customer."""
    report = stoa_verify.verify(path, stoa_verify.Options(list(keys)))
    bad = [one["detail"] for one in report.checks if one["outcome"] not in ("ok", "note")]
    if report.exit_code() not in (stoa_verify.OK, stoa_verify.INCOMPLETE):
        raise _refused("bundle_refused", f"the bundle does not hold: {'; '.join(bad)[:300]}")
    with zipfile.ZipFile(path) as archive:
        manifest: dict[str, Any] = json.loads(archive.read("manifest.json"))
        if manifest["kind"] != KIND:
            words = f"this is a bundle of kind {manifest['kind']}: ask for {KIND}"
            raise _refused("not_switching", words)
        if manifest["profile"] != FULL:
            words = f"names are pseudonyms in one of profile {manifest['profile']}: ask for {FULL}"
            raise _refused("profile_not_full", words)
        listed = json.loads(archive.read(register.PATH))
        if listed.get("format") != catalogue.FORMAT:
            raise _refused("other_format", f"its format is {listed.get('format')!r:.60}")
    return manifest, tuple(bad)


def _refused(code: str, words: str) -> Invalid:
    return Invalid(words, code=code, field="bundle")
