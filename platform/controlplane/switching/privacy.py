"""The room's table, classified; and the bundles that came in, which hold whatever they hold."""

from datetime import datetime
from pathlib import Path

from django.db.models import QuerySet

from compliance.privacy import registry, stores
from compliance.privacy.registry import PROCESSOR, levels
from compliance.privacy.stores import Found, Outcome
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.switching import bundle
from controlplane.switching.models import SwitchingImport

_TABLE = "switching_switchingimport"


class Archive(stores.Base):
    """With their organization they go; for one of its people the evidence of others stays."""

    place = "files"
    tables = (_TABLE,)
    order = 70

    def __init__(self, kind: str) -> None:
        self.name, self.kind = f"switching.bundles/{kind}", kind
        self.action = stores.DELETE if kind == ORGANIZATION else stores.KEEP
        self.ground = (
            "the organization's evidence of an earlier contract, whole or not at all: it goes when "
            "the organization says so, or goes"
            if kind == PERSON
            else ""
        )

    def find(self, subject: Subject) -> Found:
        count = self._rows(subject).count()
        return Found(count, (f"{_TABLE}.notes", "switching") if count else ())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        if self.kind == PERSON:
            return self.plan(subject, now)
        rows = list(self._rows(subject))
        for row in rows:
            _place(row).unlink(missing_ok=True)
            SwitchingImport.objects.filter(pk=row.pk).update(notes=[], ids={})
        return Outcome(stores.DELETE, len(rows))

    def _rows(self, subject: Subject) -> "QuerySet[SwitchingImport]":
        rows = SwitchingImport.objects.order_by("id")
        if subject.kind != self.kind:
            return rows.none()
        if self.kind == PERSON:
            return rows.filter(organization__memberships__user_id=subject.id)
        return rows.filter(organization_id=subject.id).exclude(ids={})


def _place(row: SwitchingImport) -> Path:
    return bundle.folder() / f"{row.bundle_sha256}.zip"


def register() -> None:
    registry.table(
        SwitchingImport,
        category="evidence",
        role=PROCESSOR,
        purpose="telling what an organization brought from another installation",
        basis="instruction",
        retention="export_record",
        columns=levels(
            none="id origin bundle_id bundle_sha256 size_bytes counts created_at",
            pseudonymous="organization_id ids created_by",
            personal="notes",
        ),
    )
    for kind in (PERSON, ORGANIZATION):
        stores.register(Archive(kind))
