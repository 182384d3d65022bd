"""Models that nodes bring into their caches before anybody needs them.

A wish stands in a node's list until the node has said that it is done with it; the cache then
keeps the model like any other, until its room is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from compliance import audit
from controlplane.endpoints import logs, sources
from controlplane.endpoints.errors import Invalid
from controlplane.endpoints.models import Pull, PullNode
from controlplane.fleet import services as fleet
from controlplane.fleet import wire
from controlplane.fleet.models import Node, Pool
from controlplane.fleet.wire import PullState
from controlplane.tenancy import events
from controlplane.tenancy.models import Project

OVER = (PullState.READY, PullState.FAILED)
_MOST = 2**62


@dataclass(frozen=True)
class PullSpec:
    """What to bring; as of an endpoint."""

    model: str
    source: str = ""
    revision: str = ""
    secret: str = ""


def pull_model(
    *, actor: audit.Actor, project: Project, pool: Pool, spec: PullSpec, now: datetime
) -> Pull:
    """Wish a model onto all nodes of a pool. Raises Invalid. Whether the pool is one that the
    caller may fill is the caller's to ask."""
    kind = sources.check(spec)
    if kind == wire.SourceKind.PATH:
        raise Invalid("a path is on its node already", code="invalid_source", field="source")
    sources.check_access(project, kind, spec.model, spec.secret)
    nodes = list(Node.objects.filter(pool=pool, removed_at=None).order_by("id"))
    if not nodes:
        raise Invalid("the pool has no nodes", code="invalid_pool", field="pool")
    with transaction.atomic():
        pull = Pull.objects.create(
            project=project,
            pool=pool,
            source=kind,
            secret=spec.secret,
            model=spec.model,
            revision=spec.revision,
            created_at=now,
        )
        PullNode.objects.bulk_create(PullNode(pull=pull, node=node) for node in nodes)
        for node in nodes:
            fleet.touch(node)
        public = sources.is_public_name(kind)
        change = [audit.Change("pool_id", None, pool.id), audit.Change("source", None, kind)]
        change += [audit.Change("model", None, spec.model)] if public else []
        personal = {} if public else {"model": spec.model}
        _tell(pull, "model.pull", actor, now, change=change, personal=personal)
    return pull


def cancel_pull(*, actor: audit.Actor, pull: Pull, now: datetime) -> Pull:
    """Bring no more of it; what is here stays in the caches."""
    with transaction.atomic():
        pull = Pull.objects.select_for_update(of=("self",)).get(pk=pull.pk)
        if pull.cancelled_at is None:
            pull.cancelled_at = now
            pull.save(update_fields=["cancelled_at"])
            for row in pull.nodes.select_related("node").order_by("node_id"):
                fleet.touch(row.node)
            _tell(pull, "model.cancel_pull", actor, now)
    return pull


def wished(node: Node) -> list[wire.Pull]:
    """What the node should bring now."""
    rows = PullNode.objects.filter(node_id=node.id, pull__cancelled_at=None)
    return [
        wire.Pull(
            pull_id=row.pull.id,
            source=wire.SourceKind(row.pull.source),
            model=row.pull.model,
            revision=row.pull.revision,
        )
        for row in rows.exclude(state__in=OVER).select_related("pull").order_by("id")
    ]


def note(node: Node, said: Sequence[wire.PullReport], now: datetime) -> None:
    """Keep what the node says of its pulls; one that is over leaves its list."""
    told = {one.pull_id: one for one in said}
    rows = PullNode.objects.filter(node_id=node.id, pull_id__in=list(told)).exclude(state__in=OVER)
    over = False
    for row in rows if told else ():
        one = told[row.pull_id]
        row.state = one.state
        row.bytes_done = min(max(one.bytes_done, 0), _MOST)
        row.bytes_total = min(max(one.bytes_total, 0), _MOST)
        row.revision = logs.clean(one.revision)[:64]
        row.reason, row.detail = logs.clean(one.reason)[:32], logs.clean(one.detail)[:500]
        row.save()
        over = over or one.state in OVER
    if over:
        fleet.touch(node)


def _tell(pull: Pull, action: str, actor: audit.Actor, now: datetime, **facts: Any) -> None:
    target = audit.Target("pull", pull.id)
    events.record(pull.project, target, action, actor=actor, now=now, **facts)
