"""Where this room holds data of people and of organizations, and what an erasure does there.

Endpoints and replicas themselves stay, by their ids: the books and the log refer to them.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Model, QuerySet

from compliance import audit
from compliance.privacy import stores
from compliance.privacy.stores import ERASED, Found, Outcome, Rows
from compliance.subjects import ORGANIZATION, Subject
from controlplane.endpoints import services, uploads
from controlplane.endpoints.models import (
    Alias,
    Endpoint,
    EndpointVersion,
    LogLine,
    ModelFacts,
    Pull,
    PullNode,
    Quote,
    Replica,
    Rollout,
    Transition,
    Upload,
)

# In a version's spec, so that it may be replaced at all (migration 0046).
MARK = "erased"


def register() -> None:
    stores.register(Endings())
    stores.register(Engines())
    stores.register(Specs())
    stores.register(Uploads())
    for store in (*_of_people(), *_of_organizations()):
        stores.register(store)


class Endings(stores.Base):
    """An organization's endpoints are deleted first."""

    name, kind, order, moves = "endpoints.live", ORGANIZATION, 10, True

    def _rows(self, subject: Subject) -> QuerySet[Endpoint]:
        mine = Endpoint.objects.filter(project__organization_id=subject.id, deleted_at=None)
        return mine.select_related("project__organization")

    def find(self, subject: Subject) -> Found:
        return Found(self._rows(subject).count())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        live = list(self._rows(subject))
        for endpoint in live:
            services.delete(actor=audit.SYSTEM, endpoint=endpoint, now=now)
        return Outcome(stores.DELETE, len(live))


class Engines(stores.Base):
    """Then its engines end, with what nodes keep of them: logs, caches of their own."""

    name, kind, place, order, moves = "endpoints.engines", ORGANIZATION, "nodes", 11, True

    def find(self, subject: Subject) -> Found:
        mine = Replica.objects.filter(endpoint__project__organization_id=subject.id)
        return Found(mine.filter(released_at=None).count())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        if left := self.find(subject).rows:
            raise stores.NotYet(f"{left} engines have not ended yet")
        return Outcome(stores.DELETE, 0)


class Specs(stores.Base):
    """What versions of its endpoints were to run with; their numbers and sizes stay."""

    name, kind, order, action = "endpoints.specs", ORGANIZATION, 40, stores.PSEUDONYMISE
    tables: tuple[str, ...] = ("endpoints_endpointversion",)

    def _rows(self, subject: Subject) -> QuerySet[EndpointVersion]:
        mine = EndpointVersion.objects.filter(endpoint__project__organization_id=subject.id)
        return mine.exclude(spec__has_key=MARK)

    def find(self, subject: Subject) -> Found:
        count = self._rows(subject).count()
        return Found(count, ("endpoints_endpointversion.spec",) if count else ())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        rows = list(self._rows(subject))
        for row in rows:
            row.spec = {name: _blank(value) for name, value in row.spec.items()} | {MARK: True}
            row.note = ""
            row.save(update_fields=["spec", "note"])
        return Outcome(stores.PSEUDONYMISE, len(rows))


class Uploads(stores.Base):
    """Weights that its projects brought, and their files."""

    name, kind, place, order = "endpoints.uploads", ORGANIZATION, "files", 40
    tables: tuple[str, ...] = ("endpoints_upload", "endpoints_uploadfile")

    def _rows(self, subject: Subject) -> QuerySet[Upload]:
        mine = Upload.objects.filter(project__organization_id=subject.id)
        return mine.select_related("project__organization")

    def find(self, subject: Subject) -> Found:
        count = self._rows(subject).count()
        folders = sum(Path(settings.UPLOADS_DIR, one.id).exists() for one in self._rows(subject))
        return Found(count + folders, ("endpoints_upload.name",) if count else ())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        rows = list(self._rows(subject))
        for upload in rows:
            uploads.delete_upload(actor=audit.SYSTEM, upload=upload, now=now)
        return Outcome(stores.DELETE, len(rows))


def _of_people() -> Iterator[Rows]:
    """Words that they typed about a change."""
    for name, model, by in (
        ("versions", EndpointVersion, "created_by"),
        ("rollouts", Rollout, "started_by"),
    ):
        yield Rows(
            name=f"endpoints.{name}/person",
            model=model,
            of=by,
            action=stores.PSEUDONYMISE,
            put={"note": ""},
        )


def _of_organizations() -> Iterable[Rows]:
    project = "project__organization_id"
    for name, model, of in (
        ("log_lines", LogLine, "replica__endpoint__project__organization_id"),
        ("quotes", Quote, project),
        ("model_facts", ModelFacts, project),
        ("pull_nodes", PullNode, "pull__project__organization_id"),
        ("pulls", Pull, project),
        ("aliases", Alias, project),
    ):
        yield Rows(name=f"endpoints.{name}", model=model, of=of, kind=ORGANIZATION, order=40)
    emptied: tuple[tuple[str, type[Model], str, dict[str, Any]], ...] = (
        ("replicas", Replica, "endpoint__" + project, {"log_tail": "", "detail": ""}),
        ("transitions", Transition, "replica__endpoint__" + project, {"detail": ""}),
        ("rollouts", Rollout, "endpoint__" + project, {"detail": "", "note": ""}),
        ("endpoints", Endpoint, project, _NAMELESS),
    )
    for name, rows, of, put in emptied:
        yield Rows(
            name=f"endpoints.{name}",
            model=rows,
            of=of,
            kind=ORGANIZATION,
            action=stores.PSEUDONYMISE,
            put=put,
            order=41,
        )


_NAMELESS: dict[str, Any] = {
    **{"name": ERASED, "secret": "", "model": "", "revision": "", "pinned": {}},
    **{"engine_args": {}, "image": None, "adapters": [], "schedules": [], "bursts": []},
}


def _blank(value: Any) -> Any:
    """Of the same kind, and empty: numbers say how large it was, and stay."""
    if isinstance(value, str | list | dict):
        return type(value)()
    return value
