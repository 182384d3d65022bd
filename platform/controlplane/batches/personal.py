"""Where this room holds data of people and of organizations, and what an erasure does there."""

from datetime import datetime

from django.db.models import QuerySet

from compliance import audit
from compliance.privacy import stores
from compliance.privacy.stores import Found, Outcome, Rows
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.batches import files
from controlplane.batches.models import Batch, File

_OF = {PERSON: "created_by", ORGANIZATION: "project__organization_id"}


class Files(stores.Base):
    """Files that they asked to have kept, each with its key; batches that need one end."""

    order = 30
    tables: tuple[str, ...] = ("batches_file", "batches_filechunk")

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"batches.files/{kind}", kind

    def _rows(self, subject: Subject) -> QuerySet[File]:
        mine = File.objects.filter(**{_OF[self.kind]: subject.id})
        return mine.select_related("project__organization")

    def find(self, subject: Subject) -> Found:
        count = self._rows(subject).count()
        return Found(count, ("batches_file.filename", "batches_filechunk.blob") if count else ())

    def export(self, subject: Subject) -> list[dict[str, object]]:
        """What there is; content is a tenant's, who fetches it by the API of files."""
        return [
            {
                "file": one.id,
                "filename": one.filename,
                "bytes": one.bytes,
                "created_at": stores.plain(one.created_at),
            }
            for one in self._rows(subject).order_by("id")
        ]

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        rows = list(self._rows(subject))
        for file in rows:
            files.delete(actor=audit.SYSTEM, file=file, now=now)
        return Outcome(stores.DELETE, len(rows))


class Batches(Rows):
    """With their lines, whose results are sealed."""

    @property
    def tables(self) -> tuple[str, ...]:
        return ("batches_batch", "batches_line")


def register() -> None:
    for kind in _OF:
        stores.register(Files(kind))
    stores.register(
        Batches(
            name="batches.batches",
            model=Batch,
            of="project__organization_id",
            kind=ORGANIZATION,
            order=31,
        )
    )
