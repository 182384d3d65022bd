"""Keeps what nodes find wrong with themselves: as a report says it, and what there was before."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from controlplane.fleet import conditions, wire
from controlplane.fleet.models import Node, NodeFinding

MOST = 200  # of one node at once
_SEEN_EVERY = timedelta(seconds=30)  # how exactly `seen_at` and the words are kept
_DEVICES = 32_767

Key = tuple[str, int | None, str]


def note(node: Node, found: Iterable[wire.Finding], now: datetime) -> bool:
    """Bring the node's rows up to what its newest report says; whether anything is news.

    A node without any, before and after, costs nothing.
    """
    said = _said(found)
    if not said and not node.has_findings:
        return False
    with transaction.atomic():
        locked = Node.objects.select_for_update(no_key=True).filter(pk=node.pk)
        if not locked.exists():
            return False
        open_now = {_key(row): row for row in NodeFinding.objects.filter(node=node, ended_at=None)}
        over = [row.pk for key, row in open_now.items() if key not in said]
        NodeFinding.objects.filter(pk__in=over).update(ended_at=now)
        fresh = [_row(node, one, now) for key, one in said.items() if key not in open_now]
        for row in fresh:
            row.save(force_insert=True)
        for key, row in open_now.items():
            if key in said and now - row.seen_at >= _SEEN_EVERY:
                row.text, row.seen_at = _clean(said[key].text), now
                row.save(update_fields=("text", "seen_at"))
        if node.has_findings is not bool(said):
            node.has_findings = bool(said)
            locked.update(has_findings=node.has_findings)
    return bool(over or fresh)


def open_of(nodes: Iterable[Node]) -> dict[str, list[NodeFinding]]:
    """Those that hold now, by node; critical ones first."""
    found: dict[str, list[NodeFinding]] = {node.id: [] for node in nodes}
    rows = NodeFinding.objects.filter(node__in=list(found), ended_at=None).order_by("since", "id")
    order = list(reversed(wire.Severity))
    for row in sorted(rows, key=lambda one: order.index(wire.Severity(one.severity))):
        found[row.node_id].append(row)
    return found


def history(node: Node) -> QuerySet[NodeFinding]:
    """Newest first."""
    return NodeFinding.objects.filter(node=node).order_by("-since", "-id")


def conditions_of(
    node: Node, found: Iterable[NodeFinding], now: datetime
) -> list[conditions.Condition]:
    heard = node.reachable(now)
    facts = conditions.Facts(
        heard=heard,
        unheard_since=None if heard else node.unreachable_at or node.lease_until,
        gpus=any(one["kind"] != "cpu" for one in node.inventory.get("devices", ())),
        cordoned_at=node.cordoned_at,
        draining_since=node.drain_requested_at,
        why=node.health_reason,
    )
    wrong = [
        conditions.Wrong(
            check=one.check_name,
            severity=wire.Severity(one.severity),
            text=one.text,
            since=one.since,
            device=one.device,
        )
        for one in found
    ]
    return conditions.conditions(facts, wrong)


def unwell(node: Node, found: Iterable[NodeFinding], now: datetime) -> list[str]:
    """The conditions of its machine that are not as they should be, of a node that is heard:
    "GPUHealthy False"."""
    said = ("Ready", "Schedulable")  # by the node's state
    unknown = conditions.Status.UNKNOWN
    return [
        f"{one.type} {one.status}"
        for one in conditions_of(node, found, now)
        if not one.well and one.type not in said and one.status is not unknown
    ]


def _said(found: Iterable[wire.Finding]) -> dict[Key, wire.Finding]:
    """A node's word is a stranger's: what the columns cannot hold is left out or cut."""
    said: dict[Key, wire.Finding] = {}
    for one in found:
        name = _clean(one.check)[:64]
        fits = one.device is None or 0 <= one.device <= _DEVICES
        if name and fits and len(said) < MOST:
            said.setdefault((name, one.device, one.severity.value), one)
    return said


def _row(node: Node, one: wire.Finding, now: datetime) -> NodeFinding:
    return NodeFinding(
        node=node,
        check_name=_clean(one.check)[:64],
        device=one.device,
        severity=one.severity.value,
        text=_clean(one.text),
        cure=_clean(one.cure),
        since=now,
        seen_at=now,
    )


def _key(row: NodeFinding) -> Key:
    return row.check_name, row.device, row.severity


def _clean(text: str) -> str:
    return text.replace("\0", "")[:500]
