"""`stoa regions`: the places there are, and by what their authorities and records are known."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from controlplane.fleet import joining
from controlplane.fleet.models import Region


class Command(BaseCommand):
    help = "List the regions, their pools, and the public keys of their records."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *_: Any, **options: Any) -> None:
        for region in Region.objects.prefetch_related("pools").order_by("code"):
            facts = {
                "code": region.code,
                "country": region.country,
                "name": region.name,
                "pin": joining.pin(region),
                "pools": sorted(pool.name for pool in region.pools.all()),
                "record_public_key": region.record_public_key,
            }
            if options["json"]:
                self.stdout.write(json.dumps(facts))
                continue
            pools = ", ".join(facts["pools"]) or "no pool yet"
            self.stdout.write(f"{region.code}  {region.country}  {region.name}  {pools}")
