"""What nodes tell that they did, each recorded exactly once by its number.

An agent repeats an event until a report that carried it was answered; so whatever can be kept of
one is kept, and what cannot is dropped with a line in the log, for asking again would not help.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import Q

from compliance import audit, exports, ids
from controlplane.fleet import wire
from controlplane.fleet.models import Node, NodeEvent

log = logging.getLogger(__name__)

MOST = 100  # of one report; an agent sends fewer
# So that an event of the log, which has a bound, can hold all of it.
_MOST_DETAILS = 24
_MOST_NAME = 40
_MOST_TEXT = 200
_ACTIONS = {
    wire.NodeEventKind.ORPHAN_ENDED: "node.end_orphan",
    wire.NodeEventKind.STRANGER_FOUND: "node.find_stranger",
    wire.NodeEventKind.DEVICE_CLEAN: "device.prove_clean",
    wire.NodeEventKind.DEVICE_DIRTY: "device.find_dirty",
}
COLUMNS = (
    *("id", "node_id", "number", "kind", "at", "recorded_at", "device_index"),
    *("from_organization", "to_organization", "detail"),
)


def note(*, node: Node, events: Sequence[wire.NodeEvent], now: datetime) -> int:
    """Record those that are new, each with its audit event; how many were."""
    rows = [row for row in (_row(node, event, now) for event in events[:MOST]) if row is not None]
    if not rows:
        return 0
    with transaction.atomic():
        # Two reports of one node at once: the second waits here, and then finds what is known.
        Node.objects.select_for_update(of=("self",)).get(pk=node.pk)
        numbers = [row.number for row in rows]
        known = set(
            NodeEvent.objects.filter(node=node, number__in=numbers).values_list("number", flat=True)
        )
        new = {row.number: row for row in rows if row.number not in known}
        NodeEvent.objects.bulk_create(new.values())
        for row in new.values():
            _tell(node, row, now)
    return len(new)


def rows(log_id: str, start: datetime, end: datetime) -> Iterator[tuple[exports.Value, ...]]:
    """For an export: all for the platform's log, for an organization's what speaks of it.

    Who came before or after it on a device is not for it to know.
    """
    found = NodeEvent.objects.filter(recorded_at__gte=start, recorded_at__lt=end)
    if log_id != audit.PLATFORM:
        found = found.filter(Q(from_organization=log_id) | Q(to_organization=log_id))
    for row in found.order_by("id").iterator():
        whose = [row.from_organization, row.to_organization]
        detail = row.detail
        if log_id != audit.PLATFORM:
            whose = [one if one == log_id else "" for one in whose]
            hidden = _theirs(row, log_id)
            detail = {name: value for name, value in detail.items() if name not in hidden}
        yield (
            *(row.id, row.node_id, row.number, row.kind, row.at, row.recorded_at),
            *(row.device_index, *whose, words(detail)),
        )


def register() -> None:
    exports.register("node_events", COLUMNS, rows)


def words(detail: Mapping[str, str | int]) -> str:
    """`name=value`, in the order of the names."""
    return " ".join(f"{name}={detail[name]}" for name in sorted(detail))


def _theirs(row: NodeEvent, log_id: str) -> set[str]:
    """The details that speak of the other organization."""
    return {
        f"{side}_replica"
        for side, whose in (("from", row.from_organization), ("to", row.to_organization))
        if whose != log_id
    }


def _row(node: Node, event: wire.NodeEvent, now: datetime) -> NodeEvent | None:
    """None for what cannot be kept."""
    number, kind = event.id, event.kind
    if not (0 < len(number) <= 64 and number.isascii() and number.isprintable()):
        log.warning("node %s: an event without a usable id", node.id)
        return None
    if kind not in _ACTIONS:
        log.warning("node %s: an event of unknown kind %r", node.id, kind[:40])
        return None
    detail = {_text(name)[:_MOST_NAME]: _value(value) for name, value in event.detail.items()}
    device = detail.pop("device", None)
    return NodeEvent(
        id=ids.new("nev"),
        node=node,
        number=number,
        kind=kind,
        at=_moment(event.at) or now,
        recorded_at=now,
        device_index=device if isinstance(device, int) and 0 <= device < 256 else None,
        from_organization=str(detail.pop("from_organization", ""))[:64],
        to_organization=str(detail.pop("to_organization", ""))[:64],
        detail=dict(list(detail.items())[:_MOST_DETAILS]),
    )


def _tell(node: Node, row: NodeEvent, now: datetime) -> None:
    said: dict[str, str | int | None] = {
        "event": row.id,
        "device": row.device_index,
        "from_organization": row.from_organization,
        "to_organization": row.to_organization,
        **row.detail,
    }
    audit.record(
        actor=audit.Actor("node", node.id, auth="certificate"),
        action=_ACTIONS[wire.NodeEventKind(row.kind)],
        target=audit.Target("node", node.id),
        log=audit.PLATFORM,
        region=node.pool.region_id,
        now=now,
        change=[audit.Change(name, None, value) for name, value in said.items() if value != ""],
    )


def _value(value: str | int) -> str | int:
    """What PostgreSQL's JSON and the canonical one of the log can hold."""
    if isinstance(value, int):
        return max(-(1 << 53) + 1, min((1 << 53) - 1, value))
    return _text(value)[:_MOST_TEXT]


def _text(text: str) -> str:
    return "".join(one if " " <= one <= "~" else "?" for one in text)


def _moment(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
