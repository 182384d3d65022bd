"""`manage.py pool_egress POOL [CIDR …]`: private networks that containers of a pool may reach."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import egress
from controlplane.endpoints.errors import Invalid
from controlplane.fleet.management import finding


class Command(BaseCommand):
    help = "Open these private networks (none: no network) to a pool's containers; print them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("pool", help="its name or id")
        parser.add_argument("networks", nargs="*", help="such as 10.20.0.0/16")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            pool = egress.open_networks(
                actor=audit.SYSTEM,
                pool=finding.pool(options["pool"]),
                networks=options["networks"],
                now=timezone.now(),
            )
        except Invalid as error:
            raise CommandError(str(error)) from error
        self.stdout.write("\n".join(pool.egress_networks))
