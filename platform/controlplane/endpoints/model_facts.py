"""What is known of a model before it is started: its config.json, and the bytes of its tensors.

A node reads them where it brought the files, and says so once; of an upload they are read here. A
model that is not open to everybody at its source is known to the project that may have it alone,
and so is everything that nodes say which serve one organization: these may be its own.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from django.db.models import Q

from controlplane.endpoints import logs, uploads
from controlplane.endpoints.models import ModelFacts, PullNode, Replica, Upload
from controlplane.fleet import wire
from controlplane.fleet.models import Node
from controlplane.fleet.wire import SourceKind
from controlplane.placement.memory import checkpoint
from controlplane.placement.memory.checkpoint import Checkpoint
from controlplane.placement.models import plausible
from controlplane.placement.refusals import Refusal
from controlplane.tenancy.models import Project

log = logging.getLogger(__name__)

MOST = 16  # of one report; an agent sends fewer
MOST_GROUPS = 5_000
_MOST_BYTES = 1 << 50
_GROUP = re.compile(r"[A-Za-z0-9_.]{1,80}")


@dataclass(frozen=True)
class Wish:
    """Which model it is; `revision` as it is asked for."""

    source: str
    model: str
    revision: str = ""


def note(node: Node, said: Sequence[wire.ModelFacts], now: datetime) -> list[ModelFacts]:
    """Keep what a node says of models that it was asked to bring; what of it is news.

    Idempotent. Which model that is its word does not say: the wish does.
    """
    news = []
    for one in said[:MOST]:
        found = _asked(node, one)
        if found is None:
            continue
        project, wish = found
        public = (
            wish.source == SourceKind.MIRROR or (one.public and wish.source == SourceKind.HUB)
        ) and node.pool.organization_id is None
        revision = logs.clean(one.revision)[:64]
        try:
            row, new = _keep(
                None if public else project, wish, revision, one.config, one.tensors, now
            )
        except Refusal as refusal:
            log.info("%s: of a model's facts nothing is kept: %s", node.id, refusal.fact)
        else:
            news += [row] if new else []
    return news


def find(project: Project, wish: Wish, now: datetime) -> ModelFacts | None:
    """The newest that is known of it to this project; None: nothing yet."""
    rows = ModelFacts.objects.filter(source=wish.source, model=wish.model)
    rows = rows.filter(Q(project=project) | Q(project=None))
    named = Q(asked=wish.revision) | (Q(revision=wish.revision) if wish.revision else Q())
    found = rows.filter(named).order_by("-seen_at").first()
    if found is None and wish.source == SourceKind.UPLOAD:
        return _of_upload(project, wish, now)
    return found


def _of_upload(project: Project, wish: Wish, now: datetime) -> ModelFacts | None:
    """Read where it lies, once: a whole upload never changes."""
    whole = Upload.objects.filter(id=wish.model, project=project, finished_at__isnull=False)
    upload = whole.first()
    if upload is None:
        return None
    files = {file.path: uploads.place(file) for file in upload.files.all()}

    def opened(name: str) -> BinaryIO:
        return files[name].open("rb")

    found: Checkpoint = checkpoint.read(files, opened)
    try:
        return _keep(project, wish, "", found.config, found.tensors, now)[0]
    except Refusal as refusal:
        log.info("%s: of its files nothing is known: %s", upload.id, refusal.fact)
        return None


def _asked(node: Node, said: wire.ModelFacts) -> tuple[Project, Wish] | None:
    """Whose model it is and which, where this node was asked to bring one by that name."""
    if said.pull_id:
        rows = PullNode.objects.filter(node_id=node.id, pull_id=said.pull_id)
        row = rows.select_related("pull__project").first()
        if row is None:
            return None
        return row.pull.project, Wish(row.pull.source, row.pull.model, row.pull.revision)
    here = Q(node_id=node.id) | Q(members__node=node)
    replicas = Replica.objects.filter(here, id=said.replica_id)
    replica = replicas.select_related("endpoint__project", "version").first()
    if replica is None or not replica.version.model:
        return None
    version = replica.version
    return replica.endpoint.project, Wish(version.source, version.model, version.revision)


def _keep(
    project: Project | None,
    wish: Wish,
    revision: str,
    config: str,
    tensors: Mapping[str, int],
    now: datetime,
) -> tuple[ModelFacts, bool]:
    """The row, and whether it is new. Raises Refusal for what no model's files say."""
    stated = plausible.parsed(config)
    return ModelFacts.objects.update_or_create(
        project=project,
        source=wish.source,
        model=wish.model,
        asked=wish.revision,
        revision=revision,
        defaults={"config": stated, "tensors": _plausible(tensors), "seen_at": now},
    )


def _plausible(tensors: Mapping[str, int]) -> dict[str, int]:
    """Empty, which is not known, where a name or a size cannot be."""
    fine = len(tensors) <= MOST_GROUPS and all(
        _GROUP.fullmatch(name) and 0 <= size < _MOST_BYTES for name, size in tensors.items()
    )
    return dict(tensors) if fine else {}
