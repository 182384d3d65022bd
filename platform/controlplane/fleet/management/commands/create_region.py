"""`manage.py create_region CODE COUNTRY NAME`: a place for nodes, with an authority of its own."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.fleet import errors, regions, services


class Command(BaseCommand):
    help = "Open a region in an EU member state."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("code", help="such as eu-de-1; it never changes")
        parser.add_argument("country", help=f"one of {', '.join(regions.COUNTRIES)}")
        parser.add_argument("name", help="for people, such as Frankfurt")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            region = services.create_region(
                code=options["code"],
                country=options["country"],
                name=options["name"],
                actor=audit.SYSTEM,
                now=timezone.now(),
            )
        except errors.FleetError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(region.code)
