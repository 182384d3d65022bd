"""`manage.py nodes`: what the fleet consists of, and how it is."""

import json
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from controlplane.fleet.models import Node

_COLUMNS = ("name", "region", "pool", "state", "devices", "agent", "heartbeat", "id")


class Command(BaseCommand):
    help = "List the nodes of the fleet."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="removed nodes too")
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *_: Any, **options: Any) -> None:
        now = timezone.now()
        nodes = Node.objects.select_related("pool").prefetch_related("devices")
        if not options["all"]:
            nodes = nodes.filter(removed_at=None)
        rows = [facts(node, now) for node in nodes.order_by("pool__region_id", "name", "id")]
        if options["json"]:
            for row in rows:
                self.stdout.write(json.dumps(row))
            return
        table = [_COLUMNS, *(tuple(_cell(row[column]) for column in _COLUMNS) for row in rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
        for line in table:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def facts(node: Node, now: datetime) -> dict[str, Any]:
    """What a line says of it."""
    kinds: dict[str, int] = {}
    for device in node.devices.all():
        if device.healthy:
            kinds[device.kind] = kinds.get(device.kind, 0) + 1
    return {
        "id": node.id,
        "name": node.name,
        "region": node.pool.region_id,
        "pool": node.pool.name,
        "state": _state(node, now),
        "devices": kinds,
        "agent": node.agent_version,
        "heartbeat": node.heartbeat_at.isoformat(timespec="seconds") if node.heartbeat_at else "",
        "certificate_expires_at": node.certificate_expires_at.isoformat(timespec="seconds"),
    }


def _state(node: Node, now: datetime) -> str:
    """The one word that an operator acts on; what is worst comes first."""
    if node.removed_at is not None:
        return "removed"
    if node.heartbeat_at is None:
        return "new"
    if not node.reachable(now):
        return "unreachable"
    if node.drain_requested_at is not None:
        return "draining"
    return "cordoned" if node.cordoned_at is not None else "ready"


def _cell(value: str | dict[str, int]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {kind}" for kind, count in sorted(value.items())) or "none"
    return value
