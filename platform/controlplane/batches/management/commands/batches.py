"""`batches`: those under way, and how far they are; `--all` for those that have ended, `--json`."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from controlplane.batches import forecasting, services
from controlplane.batches.models import ENDED, Batch


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="those that have ended, too")
        parser.add_argument("--json", action="store_true", help="a JSON object for each")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = Batch.objects.all() if options["all"] else Batch.objects.exclude(status__in=ENDED)
        found = list(rows.order_by("-id"))
        counted, forecasts = services.counts(found), forecasting.shown(found)
        for batch in found:
            counts = counted[batch.id]
            if options["json"]:
                facts = _facts(batch, counts) | {"forecast": forecasts[batch.id]}
                self.stdout.write(json.dumps(facts))
                continue
            over = f"{counts.completed}+{counts.failed}/{counts.total}"
            waits = f"  waits: {batch.waits_for}" if batch.waits_for else ""
            self.stdout.write(f"{batch.id}  {batch.project_id}  {batch.status}  {over}{waits}")


def _facts(batch: Batch, counts: services.Counts) -> dict[str, Any]:
    return {
        "id": batch.id,
        "project": batch.project_id,
        "status": batch.status,
        "request_counts": {
            "total": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
        },
        "waits_for": batch.waits_for,
        "created_at": batch.created_at.isoformat(),
        "expires_at": batch.expires_at.isoformat(),
    }
