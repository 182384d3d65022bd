"""Which nodes went quiet and which came back, told once each in the audit log.

The sweep looks; nothing is decided here. What a node's silence means for its replicas is
`endpoints.reconcile`'s question.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from compliance import audit
from controlplane.fleet.models import Node


def unreachable(now: datetime) -> QuerySet[Node]:
    """Nodes of the fleet that have reported once, and whose lease has lapsed."""
    return Node.objects.filter(removed_at=None, lease_until__lte=now)


def note(*, now: datetime, listening_since: datetime | None) -> int:
    """Record who went quiet beyond its lease and who returned; the number of news.

    `listening_since`: since when nodes could be heard. Whoever could not be heard before has a
    whole lease from then; None: nobody can be heard, so nobody is called quiet.
    """
    lease = timedelta(seconds=settings.NODE_LEASE_S)
    fair = listening_since is not None and listening_since + lease <= now
    gone = Q(unreachable_at=None, lease_until__lte=now) if fair else Q(pk__in=())
    back = Q(unreachable_at__isnull=False, lease_until__gt=now)
    nodes = Node.objects.filter(gone | back, removed_at=None).select_related("pool").order_by("id")
    return sum(_note(node, now) for node in nodes.defer("inventory"))


def _note(node: Node, now: datetime) -> bool:
    """By compare-and-set: what another sweep noted, or what has changed since, is left alone."""
    if node.unreachable_at is None:
        still = Node.objects.filter(pk=node.pk, unreachable_at=None, lease_until__lte=now)
        action, since = "node.unreachable", now
        change = [audit.Change("lease_until", None, _stamp(node.lease_until))]
    else:
        still = Node.objects.filter(pk=node.pk, unreachable_at=node.unreachable_at)
        action, since = "node.return", None
        change = [audit.Change("unreachable_at", _stamp(node.unreachable_at), None)]
    with transaction.atomic():
        if not still.update(unreachable_at=since):
            return False
        audit.record(
            actor=audit.SYSTEM,
            action=action,
            target=audit.Target("node", node.id),
            log=audit.PLATFORM,
            region=node.pool.region_id,
            now=now,
            change=change,
        )
    return True


def _stamp(at: datetime | None) -> str | None:
    return audit.stamp(at) if at else None
