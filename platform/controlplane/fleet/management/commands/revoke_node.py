"""`stoa revoke_node`: its certificates are worth nothing from now on."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import revoking
from controlplane.fleet.management import finding


class Command(BaseCommand):
    help = "Revoke a node's certificates: it is cut off until a token for it gives it another."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--pool", required=True)
        parser.add_argument("--node", required=True)

    def handle(self, *_: Any, **options: Any) -> None:
        pool = finding.pool(options["pool"])
        node = finding.node(options["node"], pool=pool)
        revoking.revoke_node(node=node, actor=audit.SYSTEM, now=timezone.now())
        again = f"stoa enrollment_token --pool {pool.name} --node {node.name}"
        self.stdout.write(f"{node.name}: revoked. `{again}` lets it in again.")
