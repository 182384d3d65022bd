"""An export's bundle, from the database: its datasets, its log's part, and the signature."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from compliance.bundles import log_part, tables, writer
from compliance.bundles.kinds import Dataset, Kind, owner
from compliance.bundles.stored_log import StoredLog
from compliance.bundles.tables import Row
from compliance.log import signing
from compliance.log.models import LogCheckpoint
from compliance.models import Export

Progress = Callable[[int], None]


def build(
    export: Export,
    kind: Kind,
    head: LogCheckpoint,
    meta: dict[str, Any] | None,
    folder: Path,
    progress: Progress,
) -> tuple[Path, str]:
    """The bundle in `folder` and its manifest's SHA-256. `meta`: of `stored_log.in_meta`.
    `progress` hears of each row and document.

    Raises signing.SignerAway.
    """
    end = cut(export)
    log, profile = StoredLog(head, meta), export.profile
    parts: list[writer.Part] = []
    with _snapshot():
        datasets = kind.chosen(owner(export.log_id))
        if profile == writer.COUNTS_ONLY:
            parts += _counts(export, datasets, end, folder, progress)
        else:
            for dataset in datasets:
                parts += _tables(export, dataset, end, folder, progress)
            parts += _documents(export, kind, folder, progress)
        first, count = log.span(export.period_start, end)
        full = kind.events and profile == writer.FULL
        logged, proof = log_part.write(
            log,
            first,
            count,
            folder,
            openings=log.openings(first, first + count) if full else (),
            certificates=log.certificates(first, first + count) if full else (),
            rotations=log.rotations(),
            bodies=kind.events and profile != writer.COUNTS_ONLY,
        )
    said = writer.Head(
        kind=export.kind,
        id=export.id,
        log=export.log_id,
        origin=signing.origin_of(export.log_id),
        vkey=signing.vkey(),
        created_at=export.created_at,
        requested_by=export.requested_by,
        profile=profile,
        period=(export.period_start, max(end, export.period_start)),
        about=export.about,
    )
    target = folder / "bundle.zip"
    digest = writer.write(
        said, [*parts, *logged], target, signing.manifest, folder=folder, log_proof=proof
    )
    return target, digest


def cut(export: Export) -> datetime:
    """What happened after the export was asked for is left out: so a rebuild agrees."""
    return min(export.period_end, export.created_at)


def _tables(
    export: Export, dataset: Dataset, end: datetime, folder: Path, progress: Progress
) -> list[writer.Part]:
    rows = dataset.read(export, end)
    masked = dict.fromkeys(dataset.personal, pseudonym(export))
    mask = masked if export.profile == writer.PSEUDONYMISED else None
    return tables.write(dataset.name, dataset.columns, _counted(rows, progress), folder, mask)


def _counts(
    export: Export, datasets: Iterable[Dataset], end: datetime, folder: Path, progress: Progress
) -> list[writer.Part]:
    rows = (
        (one.name, sum(1 for _ in _counted(one.read(export, end), progress))) for one in datasets
    )
    return tables.write("counts", ("dataset", "rows"), rows, folder)


def _documents(
    export: Export, kind: Kind, folder: Path, progress: Progress
) -> Iterator[writer.Part]:
    if kind.documents:
        into = folder / "documents"
        into.mkdir()
        for path, source in kind.documents(export, into):
            if not path.startswith("documents/"):
                raise ValueError(f"{path!r}: documents of a bundle lie below documents/")
            progress(1)
            yield writer.Part(path, source)


def _counted(rows: Iterable[Row], progress: Progress) -> Iterator[Row]:
    for row in rows:
        progress(1)
        yield row


def pseudonym(export: Export) -> Callable[[str], str]:
    """The same text is the same pseudonym within one export, and another in the next."""
    key = hashlib.sha256(f"stoa export pseudonyms 1 {settings.MASTER_KEY}".encode()).digest()

    def masked(text: str) -> str:
        digest = hmac.digest(key, f"{export.id}\n{text}".encode(), "sha256")
        return f"pseudonym-{digest[:10].hex()}"

    return masked


@contextmanager
def _snapshot() -> Iterator[None]:
    """All datasets tell of the same moment. (Inside another transaction: of that one's view.)"""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield
