"""`manage.py engines`: engine versions, who is on them, and what becomes of them."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from controlplane.endpoints import engine_blocking, engine_outlook, engine_versions
from controlplane.endpoints.models import EngineVersion
from controlplane.tenancy.errors import TenancyError

CLI = audit.Actor("system", "cli")


class Command(BaseCommand):
    help = "List engine versions; add, support, deprecate or block one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "verb", nargs="?", choices=("list", "add", "support", "deprecate", "block"),
            default="list",
        )  # fmt: skip
        parser.add_argument("engine", nargs="?", default="")
        parser.add_argument("version_name", metavar="version", nargs="?", default="")
        parser.add_argument("--image", default="", help="of a version that nodes do not bring")
        parser.add_argument("--note", default="", help="why; tenants read it")
        parser.add_argument("--days", type=float, default=14.0, help="until a block's deadline")
        parser.add_argument("--replacement", default="", help="what a blocked one becomes")
        parser.add_argument("--json", action="store_true", help="one JSON object a line")

    def handle(self, *_: Any, **options: Any) -> None:
        if options["verb"] != "list":
            try:
                self._do(options)
            except TenancyError as error:
                raise CommandError(error.message) from error
        for row in EngineVersion.objects.order_by("engine", "-id"):
            self._show(row, as_json=options["json"])

    def _do(self, options: dict[str, Any]) -> None:
        if not 0 <= options["days"] <= engine_blocking.MOST.days:
            raise CommandError(f"--days: from 0 to {engine_blocking.MOST.days}.")
        now, verb, note = timezone.now(), options["verb"], options["note"]
        engine, version = options["engine"], options["version_name"]
        if verb == "add":
            engine_versions.add(
                actor=CLI,
                engine=engine,
                version=version,
                image=options["image"],
                note=note,
                now=now,
            )
            return
        row = EngineVersion.objects.filter(engine=engine, version=version).first()
        if row is None:
            raise CommandError(f"there is no version {version!r} of {engine!r}")
        if verb == "support":
            engine_blocking.support(actor=CLI, version=row, now=now)
        elif verb == "deprecate":
            engine_versions.deprecate(actor=CLI, version=row, note=note, now=now)
        else:
            engine_blocking.block(
                actor=CLI,
                version=row,
                deadline=now + timedelta(days=options["days"]),
                replacement=options["replacement"],
                note=note,
                now=now,
            )

    def _show(self, row: EngineVersion, *, as_json: bool) -> None:
        on = engine_outlook.listed(row, timezone.now())
        if as_json:
            facts = {
                "engine": row.engine,
                "version": row.version,
                "status": row.status,
                "image": row.image,
                "note": row.note,
                "replacement": row.replacement,
                "deadline": row.deadline.isoformat() if row.deadline else None,
                "endpoints": [one.on.endpoint.id for one in on],
            }
            self.stdout.write(json.dumps(facts))
            return
        until = f"  to {row.replacement} by {row.deadline:%Y-%m-%d %H:%M}" if row.deadline else ""
        self.stdout.write(f"{row}  {row.status}  {len(on)} endpoints{until}")
        for one in on:
            if one.course:
                name = f"{one.on.endpoint.id} {one.on.endpoint.name}"
                self.stdout.write(f"  {name}  {one.course}  {one.text}")
