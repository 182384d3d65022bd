"""What an operator names on the command line: by id, or by a name that only one thing has."""

from typing import TypeVar

from django.core.management.base import CommandError
from django.db.models import Model, Q, QuerySet

from controlplane.fleet.models import Node, Pool, Region

T = TypeVar("T", bound=Model)


def region(code: str) -> Region:
    return _one(Region.objects.filter(code=code), "region", code)


def pool(named: str) -> Pool:
    found = Pool.objects.select_related("region").filter(Q(id=named) | Q(name=named))
    return _one(found, "pool", named)


def node(named: str, *, pool: Pool | None = None, removed: bool = False) -> Node:
    """`removed`: it may be one that has left, if none that is there has the name."""
    found = Node.objects.filter(Q(id=named) | Q(name=named)).select_related("pool")
    found = found if pool is None else found.filter(pool=pool)
    there = found.filter(removed_at=None)
    kind = "node" if pool is None else f"node of pool {pool.name}"
    return _one(found if removed and not there.exists() else there, kind, named)


def _one(found: QuerySet[T], kind: str, named: str) -> T:
    rows = list(found[:2])
    if not rows:
        raise CommandError(f"There is no {kind} {named!r}.")
    if len(rows) > 1:
        raise CommandError(f"Several have the name {named!r}: give the id.")
    return rows[0]
