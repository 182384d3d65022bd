"""`manage.py create_pool REGION NAME`: nodes that serve alike."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import errors, services
from controlplane.fleet.management import finding
from controlplane.tenancy.models import Organization


class Command(BaseCommand):
    help = "Make a pool of nodes in a region and print its id."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("region", help="the region's code")
        parser.add_argument("name", help="for people, such as h200")
        parser.add_argument("--organization", help="the id of the one that it serves alone")
        parser.add_argument("--share-standby", action="store_true")
        parser.add_argument(
            "--keep-block",
            type=int,
            default=0,
            help="of its blocks of so many devices one stays free for who needs all of it",
        )

        parser.add_argument(
            "--share-devices",
            action="store_true",
            help="replicas of one organization may share a device",
        )

    def handle(self, *_: Any, **options: Any) -> None:
        organization = None
        if options["organization"]:
            organization = Organization.objects.filter(id=options["organization"]).first()
            if organization is None:
                raise CommandError(f"There is no organization {options['organization']!r}.")
        try:
            pool = services.create_pool(
                region=finding.region(options["region"]),
                name=options["name"],
                organization=organization,
                share_standby=options["share_standby"],
                keep_block=options["keep_block"],
                share_devices=options["share_devices"],
                actor=audit.SYSTEM,
                now=timezone.now(),
            )
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(pool.id)
