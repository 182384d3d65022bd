"""`stoa revoke_gateway`: its certificates are worth nothing from now on."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from compliance.models import AuditEvent
from controlplane.fleet import errors, revoking
from controlplane.fleet.management import finding


class Command(BaseCommand):
    help = "Revoke a gateway's certificates: relays cut it off, and admit a new certificate alone."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--region", required=True)
        parser.add_argument("--id", required=True, help="the gateway's STOA_GATEWAY_ID")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            revoking.revoke_gateway(
                region=finding.region(options["region"]),
                gateway_id=options["id"],
                actor=audit.SYSTEM,
                now=timezone.now(),
            )
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        if not AuditEvent.objects.filter(
            action="gateway.enroll", target_id=options["id"], region=options["region"]
        ).exists():
            self.stderr.write(f"No certificate was issued to {options['id']}: is that its id?")
        self.stdout.write(f"{options['id']}: revoked. `stoa gateway_certificate` makes another.")
