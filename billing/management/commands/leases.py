"""`stoa leases`: who holds what of budgets, and what to do with a gateway that is lost."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import errors
from billing.spending import leases
from compliance import audit

_COLUMNS = ("holder", "epoch", "leases", "outstanding")


class Command(BaseCommand):
    help = (
        "List what gateways and replicas hold of budgets. A gateway gives it back by itself,"
        " unless its disk was lost: then write it off."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--write-off",
            nargs=2,
            metavar=("HOLDER", "EPOCH"),
            help="free what this holder held; what it spent and never told is charged to nobody",
        )
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *_: Any, **options: Any) -> None:
        if options["write_off"]:
            holder, epoch = options["write_off"]
            try:
                freed = leases.write_off(
                    actor=audit.SYSTEM, holder=holder, epoch=epoch, now=timezone.now()
                )
            except errors.BudgetConflict as error:
                raise CommandError(str(error)) from error
            self._show([freed], as_json=options["json"])
            return
        self._show(leases.holdings(), as_json=options["json"])

    def _show(self, found: list[leases.Holding], *, as_json: bool) -> None:
        if as_json:
            for each in found:
                self.stdout.write(json.dumps(asdict(each)))
            return
        rows = [
            (each.holder, each.epoch, str(each.leases), _sums(each.outstanding)) for each in found
        ]
        table = [_COLUMNS, *rows]
        widths = [max(len(line[column]) for line in table) for column in range(len(_COLUMNS))]
        for line in table:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def _sums(outstanding: dict[str, int]) -> str:
    return ", ".join(f"{held} {unit}" for unit, held in sorted(outstanding.items()))
