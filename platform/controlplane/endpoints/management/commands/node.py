"""`stoa node VERB NAME`: what an operator does with one node, for shells and scripts."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import decommission_record, decommissioning, maintenance
from controlplane.fleet import errors, replacing, services
from controlplane.fleet.keeping_models import DecommissionState
from controlplane.fleet.management import finding
from controlplane.fleet.management.commands import nodes
from controlplane.fleet.models import Decommission, Device, Maintenance, Node

CLI = audit.Actor("system", "cli")
_STATES = {"cordon": services.cordon, "uncordon": services.uncordon, "drain": services.drain}
_NEWEST = 5


class Command(BaseCommand):
    help = (
        "Show, cordon, uncordon, drain, service or decommission a node; exit status 1 on refusal."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = ("show", *_STATES, "maintenance", "decommission", "cancel", "record")
        parser.add_argument("verb", choices=verbs)
        parser.add_argument("name", help="of the node, or its id")
        parser.add_argument("id", nargs="?", default="", help="of what `cancel` calls off")
        parser.add_argument("--pool", default="", help="where several nodes have the name")
        parser.add_argument(
            "--from", dest="begins", default="now", help="maintenance: ISO 8601, UTC"
        )
        parser.add_argument("--hours", type=float, default=0.0, help="maintenance: how long")
        parser.add_argument("--message", default="", help="maintenance: a word to its tenants")
        parser.add_argument("--stay-out", action="store_true", help="maintenance: for good")
        parser.add_argument("--reason", default="", help="decommission: stands in the record")
        parser.add_argument("--device", type=int, help="decommission: replace that device alone")
        parser.add_argument("--unconfirmed", action="store_true", help="it never answers again")
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *_: Any, **options: Any) -> None:
        pool = finding.pool(options["pool"]) if options["pool"] else None
        node = finding.node(options["name"], pool=pool, removed=options["verb"] in _LOOKS)
        if options["verb"] == "record":
            self.stdout.write(json.dumps(_record(node), indent=2))
            return
        try:
            if options["verb"] != "show":
                _VERBS[options["verb"]](node, options, timezone.now())
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        self._show(Node.objects.select_related("pool").get(pk=node.pk), as_json=options["json"])

    def _show(self, node: Node, *, as_json: bool) -> None:
        found = _facts(node)
        if as_json:
            self.stdout.write(json.dumps(found))
            return
        self.stdout.write(f"{found['name']}  {found['state']}  {node.pool.name}  {node.id}")
        for one in (*found["maintenances"], *found["decommissions"]):
            said = (f"{name} {value}" for name, value in one.items() if value not in (None, ""))
            self.stdout.write("  " + "  ".join(said))


def _keep(node: Node, options: dict[str, Any], now: datetime) -> None:
    _STATES[options["verb"]](node=node, actor=CLI, now=now)


def _maintain(node: Node, options: dict[str, Any], now: datetime) -> None:
    try:
        begins = now if options["begins"] == "now" else _moment(options["begins"])
        ends = begins + timedelta(hours=options["hours"])
    except (ValueError, OverflowError):
        raise CommandError("--from is a time such as 2026-05-04T22:00, --hours a number.") from None
    maintenance.plan(
        node=node,
        starts_at=begins,
        ends_at=ends,
        message=options["message"],
        take_back=not options["stay_out"],
        actor=CLI,
        now=now,
    )


def _decommission(node: Node, options: dict[str, Any], now: datetime) -> None:
    reason = options["reason"].strip()
    if not reason:
        raise CommandError("--reason is missing: it stands in the signed record.")
    if options["device"] is None:
        decommissioning.begin(
            node=node, reason=reason, unconfirmed=options["unconfirmed"], actor=CLI, now=now
        )
        return
    device = Device.objects.filter(node=node, index=options["device"]).first()
    if device is None:
        raise CommandError(f"{node.name} has no device {options['device']}.")
    replacing.begin(device=device, reason=reason, actor=CLI, now=now)


def _cancel(node: Node, options: dict[str, Any], now: datetime) -> None:
    planned = Maintenance.objects.filter(node=node, pk=options["id"]).first()
    leaving = Decommission.objects.filter(node=node, pk=options["id"]).first()
    if planned is not None:
        maintenance.cancel(maintenance=planned, actor=CLI, now=now)
    elif leaving is not None:
        decommissioning.cancel(decommission=leaving, actor=CLI, now=now)
    else:
        raise CommandError(f"{node.name} has no maintenance or decommission {options['id']!r}.")


def _record(node: Node) -> dict[str, Any]:
    done = Decommission.objects.filter(node=node, device=None, state=DecommissionState.DONE)
    row = done.select_related("node__pool__region").first()
    if row is None:
        raise CommandError(f"{node.name} was not decommissioned: there is no record.")
    return decommission_record.document(row)


def _facts(node: Node) -> dict[str, Any]:
    planned = Maintenance.objects.filter(node=node)[:_NEWEST]
    leaving = Decommission.objects.filter(node=node).select_related("device")[:_NEWEST]
    return {
        **nodes.facts(node, timezone.now()),
        "maintenances": [
            {
                "id": one.id,
                "state": one.state,
                "from": one.starts_at.isoformat(timespec="minutes"),
                "to": one.ends_at.isoformat(timespec="minutes"),
                "result": one.result,
            }
            for one in planned
        ],
        "decommissions": [
            {
                "id": one.id,
                "state": one.state,
                "device": one.device.index if one.device else None,
                "unconfirmed": one.unconfirmed or None,
            }
            for one in leaving
        ],
    }


def _moment(text: str) -> datetime:
    """UTC unless it says otherwise. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


_LOOKS = ("show", "record")  # at nodes that have left, too
_VERBS: dict[str, Callable[[Node, dict[str, Any], datetime], None]] = {
    **dict.fromkeys(_STATES, _keep),
    "maintenance": _maintain,
    "decommission": _decommission,
    "cancel": _cancel,
}
