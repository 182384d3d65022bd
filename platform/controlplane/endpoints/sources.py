"""Where a model may come from, and what it is called there.

hub      `org/name` at the hub (STOA_HUB_URL)
mirror   `org/name` at the operator's own (STOA_MIRROR_URL); everybody's
s3       `s3://bucket/folder` at a service of STOA_S3_ENDPOINTS
upload   `upl_…`: weights that the project brought itself
path     an absolute path on the nodes of a pool of one's own
"""

import re
from typing import Protocol

from django.conf import settings
from django.db import transaction

from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Endpoint, Replica, Upload
from controlplane.fleet.wire import SourceKind
from controlplane.tenancy import project_secrets
from controlplane.tenancy.models import Project

_CODE = "invalid_model"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[A-Za-z0-9!_.*'()-]+)*/?")
_UPLOAD = re.compile(r"upl_[0-9a-hjkmnp-tv-z]{26}")

# The kind of secret that opens a source.
SECRETS = {SourceKind.HUB: project_secrets.Kind.HUB, SourceKind.S3: project_secrets.Kind.S3}
_PINS = 16  # of an endpoint: as many names of models as it is likely to go back to


class Wish(Protocol):
    """The part of an endpoint's specification that says what it serves."""

    @property
    def source(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str: ...


def check(wish: Wish) -> str:
    """The kind of its source in full. Raises Invalid for what is called so nowhere."""
    kind = wish.source or (SourceKind.PATH if wish.model.startswith("/") else SourceKind.HUB)
    if kind not in set(SourceKind):
        known = ", ".join(SourceKind)
        raise Invalid(f"source is one of {known}", code="invalid_source", field="source")
    if kind == SourceKind.PATH:
        path("model", wish.model)
    elif kind == SourceKind.S3:
        _s3(wish.model)
    elif kind == SourceKind.UPLOAD:
        if not _UPLOAD.fullmatch(wish.model):
            raise _invalid("expected the id of an upload, `upl_…`")
    else:
        _hub(kind, wish.model, wish.revision)
    if kind not in (SourceKind.HUB, SourceKind.MIRROR) and wish.revision:
        what = "a path" if kind == SourceKind.PATH else f"a model of source {kind}"
        raise Invalid(f"{what} has no revision", code=_CODE, field="revision")
    return kind


def path(field: str, value: str) -> None:
    """An absolute path, and nothing that leads elsewhere."""
    steps = value.split("/")[1:]
    plain = value.isprintable() and all(steps) and not {".", ".."} & set(steps)
    if not value.startswith("/") or not plain or len(value) > 300:
        raise Invalid("expected an absolute path without `.` or `..`", code=_CODE, field=field)


def place(field: str, value: str, revision: str) -> None:
    """An absolute path, or a hub id with a revision: what an adapter may be named by."""
    if value.startswith("/"):
        path(field, value)
        if revision:
            raise Invalid("a path has no revision", code=_CODE, field="revision")
        return
    _check_revision(revision)
    if not _HUB_ID.fullmatch(value) or ".." in value:
        message = f"expected a hub id `org/name` or an absolute path, not {_shown(value)}"
        raise Invalid(message, code=_CODE, field=field)


def check_access(project: Project, source: str, model: str, secret: str) -> None:
    """Raises Invalid for an upload or a secret that the project has not, or that opens nothing."""
    if source == SourceKind.UPLOAD and not _complete(project, model):
        raise _invalid("the project has no complete upload of this id")
    if secret:
        _check_secret(project, source, secret)


def _complete(project: Project, upload_id: str) -> bool:
    return Upload.objects.filter(id=upload_id, project=project, finished_at__isnull=False).exists()


def _check_secret(project: Project, source: str, name: str) -> None:
    kind = SECRETS.get(SourceKind(source))
    if kind is None:
        raise _no_secret(f"a model of source {source} needs no secret")
    if project_secrets.find(project, kind, name) is None:
        raise _no_secret(f"the project has no {kind} secret of this name")


def is_public_name(source: str) -> bool:
    """Whether a model's name may stand in the log: paths and buckets may hold a person's name."""
    return source in (SourceKind.HUB, SourceKind.MIRROR)


def pinned(wish: Wish, pins: dict[str, str]) -> str:
    """The exact revision that a replica should serve; as wished for, until one has served."""
    return pins.get(_pin_key(wish)) or wish.revision


def pin(replica_id: str, revision: str) -> None:
    """A replica serves `revision`: its successors serve the same until the wish is another."""
    replica = Replica.objects.select_related("version").get(id=replica_id)
    keep_pin(replica, _pin_key(replica.version), revision)


def keep_pin(replica: Replica, key: str, revision: str) -> None:
    """Under `key` the replica's endpoint serves `revision` from here on, unless one is kept."""
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update(no_key=True).get(id=replica.endpoint_id)
        if key in endpoint.pinned:
            return
        kept = list(endpoint.pinned.items())[1 - _PINS :]
        Endpoint.objects.filter(id=endpoint.id).update(pinned={**dict(kept), key: revision})


def _pin_key(wish: Wish) -> str:
    return f"{wish.source} {wish.model}@{wish.revision}"


def _hub(kind: str, model: str, revision: str) -> None:
    if kind == SourceKind.MIRROR and not settings.MIRROR_URL:
        message = "the operator has no mirror (STOA_MIRROR_URL)"
        raise Invalid(message, code="invalid_source", field="source")
    if not _HUB_ID.fullmatch(model) or ".." in model:
        raise _invalid(f"expected a hub id `org/name` or an absolute path, not {_shown(model)}")
    _check_revision(revision)


def _check_revision(revision: str) -> None:
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        message = "expected a branch, tag or commit of at most 64 characters"
        raise Invalid(message, code=_CODE, field="revision")


def _s3(model: str) -> None:
    if not settings.S3_ENDPOINTS:
        message = "the operator allows no S3 service (STOA_S3_ENDPOINTS)"
        raise Invalid(message, code="invalid_source", field="source")
    if not _BUCKET.fullmatch(model) or ".." in model:
        raise _invalid(f"expected s3://bucket/folder, not {_shown(model)}")


def _no_secret(message: str) -> Invalid:
    return Invalid(message, code="invalid_secret", field="secret")


def _invalid(message: str) -> Invalid:
    return Invalid(message, code=_CODE, field="model")


def _shown(value: str) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in value[:80]) or "nothing"
