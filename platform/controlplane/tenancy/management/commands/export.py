"""`manage.py export`: an organization's records for a period, as a ZIP."""

import os
import shutil
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance import audit, exports
from controlplane.tenancy.models import Organization


class Command(BaseCommand):
    help = "Export the audit events and the usage of an organization as CSV and JSONL in a ZIP."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--organization", required=True, help="its id, org_…")
        parser.add_argument("--from", dest="start", required=True, help="2026-01-31 or with time")
        parser.add_argument("--to", dest="end", required=True, help="the end, not included")
        parser.add_argument("--out", required=True, type=Path, help="the file to write")
        parser.add_argument("--reason", default="asked for on the command line")

    def handle(self, *_: Any, **options: Any) -> None:
        organization = Organization.objects.filter(id=options["organization"]).first()
        if organization is None:
            raise CommandError(f"no such organization: {options['organization']}")
        out: Path = options["out"]
        if not out.parent.is_dir():
            raise CommandError(f"no such folder: {out.parent}")
        now = timezone.now()
        try:
            export = exports.request(
                actor=audit.SYSTEM,
                log=organization.id,
                reason=options["reason"],
                start=moment(options["start"]),
                end=moment(options["end"]),
                now=now,
                region=organization.region_code,
            )
            export = exports.build(export.id, now)
            source = exports.downloaded(actor=audit.SYSTEM, export=export, now=now)
        except exports.ExportError as error:
            raise CommandError(error.message) from error
        draft = out.with_name(f".{out.name}.part")
        shutil.copy(source, draft)
        os.replace(draft, out)
        self.stdout.write(f"{out}: {export.size_bytes} bytes, manifest {export.manifest_sha256}")


def moment(text: str) -> datetime:
    """A day or a time; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date: expected 2026-01-31 or a time") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
