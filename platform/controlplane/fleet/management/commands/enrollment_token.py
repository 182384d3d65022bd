"""`manage.py enrollment_token --pool NAME`: the one command that joins a machine."""

import json
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import errors, joining, services
from controlplane.fleet.management import finding


class Command(BaseCommand):
    help = "Issue a single-use enrolment token and print the command that joins a machine with it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--pool", required=True, help="name or id of the pool to join")
        parser.add_argument("--node", help="name or id of a known node that must join again")
        parser.add_argument("--minutes", type=float, default=60, help="how long it is good for")
        parser.add_argument("--url", default=settings.AGENTS_URL, help="the agents' door")
        parser.add_argument("--json", action="store_true")

    def handle(self, *_: Any, **options: Any) -> None:
        if not 0 < options["minutes"] <= 7 * 24 * 60:
            raise CommandError("--minutes: a token is good for a week at most.")
        pool = finding.pool(options["pool"])
        node = finding.node(options["node"], pool=pool) if options["node"] else None
        try:
            token, secret = services.issue_enrollment_token(
                pool=pool,
                node=node,
                actor=audit.SYSTEM,
                now=timezone.now(),
                ttl=timedelta(minutes=options["minutes"]),
            )
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        command = joining.command(pool.region, secret, url=options["url"], again=node is not None)
        if options["json"]:
            facts = {
                "id": token.id,
                "token": secret,
                "url": options["url"],
                "pin": joining.pin(pool.region),
                "pool": pool.id,
                "node": node.id if node else None,
                "expires_at": token.expires_at.isoformat(),
                "command": command,
            }
            self.stdout.write(json.dumps(facts))
            return
        self.stdout.write(command)
        self.stderr.write(
            f"Good for one machine, into pool {pool.name} of {pool.region_id},"
            f" until {token.expires_at:%Y-%m-%d %H:%M} UTC."
        )
