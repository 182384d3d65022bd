"""`stoa doctor`: what the control plane lacks, each lack with its cure."""

import logging
import sys
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from workers import control_doctor
from workers.agent.doctor import line


class Command(BaseCommand):
    help = "What the control plane has and lacks; exit status 1 when something lacks."
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each try; a finding says it
        found = control_doctor.findings(timezone.now())
        ok = all(one.ok for one in found)
        if options["json"]:
            document = {"ok": ok, "findings": found}
            self.stdout.write(msgspec.json.encode(document).decode())
        else:
            for one in found:
                self.stdout.write(line(one))
        if not ok:
            sys.exit(1)
