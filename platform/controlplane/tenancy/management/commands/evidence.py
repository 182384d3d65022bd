"""`stoa evidence export KIND`: a signed bundle of an organization's records or of the operator's.

`vkey`, `status` and `succeed` are about the logs (compliance.management.logs), `controls` writes
docs/controls.md.
`stoa evidence verify FILE` needs no settings and is answered before this (controlplane.cli).
"""

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from compliance import audit, control_list, exports
from compliance.bundles.stored_log import NotReady
from compliance.log.signing import SignerAway
from compliance.management import logs
from compliance.management import verbs as more
from compliance.models import Export
from controlplane.tenancy.management import demo_pack
from controlplane.tenancy.models import Organization

WAIT_S = 90.0  # the log promises a signed head within a minute
PAUSE_S = 1.0
_ALL = "2020-01-01"  # before any installation
_FULL = {"profile": "full"}


class Command(BaseCommand):
    help = "Signed bundles and the logs behind them; `verify BUNDLE` needs no installation."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        logs.add(verbs)
        verbs.add_parser("controls", help="which control of Annex A has evidence, as Markdown")
        more.add(verbs)
        demo = verbs.add_parser("demo", help="a bundle of each kind, checked in an empty folder")
        demo.add_argument("--organization", default="", help="its id; else the oldest one")
        demo.add_argument("--out", required=True, type=Path, help="a folder that is not there")
        demo.add_argument("--python", default=sys.executable, help="another, with `cryptography`")
        export = verbs.add_parser("export", help="make a bundle")
        export.add_argument("kind", choices=sorted(exports.KINDS))
        whose = export.add_mutually_exclusive_group(required=True)
        whose.add_argument("--organization", help="its id, org_…")
        whose.add_argument("--platform", action="store_true", help="the operator's own log")
        export.add_argument("--from", dest="start", required=True, help="2026-01-31 or with time")
        export.add_argument("--to", dest="end", required=True, help="the end, not included")
        export.add_argument("--out", required=True, type=Path, help="the file to write")
        export.add_argument("--reason", required=True, help="stands in the audit log")
        export.add_argument("--profile", default=exports.PROFILE, choices=exports.PROFILES)
        export.add_argument("--about", default="", help="what it is about, for kinds that need it")

    def handle(self, *_: Any, verb: str, **options: Any) -> None:
        if verb == "export":
            self._export(options)
        elif verb == "controls":
            self.stdout.write(control_list.markdown(), ending="")
        elif verb == "demo":
            self._demo(options)
        elif verb in more.verbs:
            more.verbs[verb].run(self, options)
        else:
            logs.run(self, verb, options)

    def _demo(self, options: dict[str, Any]) -> None:
        """Everything into a folder, then the verifier alone; CommandError where it disagrees."""
        folder, organization = options["out"].absolute(), options["organization"]
        if not organization:
            oldest = Organization.objects.order_by("id").values_list("id", flat=True).first()
            if oldest is None:
                raise CommandError("no organization is there yet")
            organization = oldest
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise CommandError(f"{folder} is there already") from None

        def export(log: str, kind: str, about: str, out: Path) -> None:
            place = {"organization": log, "platform": log == audit.PLATFORM}
            period = {"start": _ALL, "end": timezone.now().isoformat(), "reason": "a demo pack"}
            self._export({**place, **period, "kind": kind, "about": about, "out": out, **_FULL})

        for line in demo_pack.fill(folder, [organization, audit.PLATFORM], export):
            self.stdout.write(line)
        demo_pack.alter(folder)
        wrong = 0
        for one in demo_pack.check(folder, options["python"]):
            wrong += one.code != one.expected
            self.stdout.write(f"{one.file}: exit {one.code}, expected {one.expected}: {one.words}")
        if wrong:
            raise CommandError(f"{wrong} bundles were not judged as they should be")

    def _export(self, options: dict[str, Any]) -> None:
        log, region = audit.PLATFORM, ""
        if not options["platform"]:
            organization = Organization.objects.filter(id=options["organization"]).first()
            if organization is None:
                raise CommandError(f"no such organization: {options['organization']}")
            log, region = organization.id, organization.region_code
        out: Path = options["out"]
        if not out.parent.is_dir():
            raise CommandError(f"no such folder: {out.parent}")
        now = timezone.now()
        try:
            export = exports.request(
                actor=audit.SYSTEM,
                log=log,
                reason=options["reason"],
                start=moment(options["start"]),
                end=moment(options["end"]),
                now=now,
                region=region,
                kind=options["kind"],
                profile=options["profile"],
                about=options["about"],
            )
            export = _built(export, now)
            source = exports.downloaded(actor=audit.SYSTEM, export=export, now=now)
        except exports.ExportError as error:
            raise CommandError(error.message) from error
        draft = out.with_name(f".{out.name}.part")
        shutil.copy(source, draft)
        os.replace(draft, out)
        self.stdout.write(f"{out}: {export.size_bytes} bytes, manifest {export.manifest_sha256}")


def _built(export: Export, now: datetime) -> Export:
    """Waits for a signed head of the log that covers the period; how far it is, on the terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("waiting for the log's signed head", total=None)

        def told(rows: int) -> None:
            bar.update(task, description=f"{rows:,} rows and files written")

        return _waited(export, now, told)


def _waited(export: Export, now: datetime, told: exports.Told) -> Export:
    ends = time.monotonic() + WAIT_S
    while True:
        try:
            return exports.build(export.id, now, told)
        except (NotReady, SignerAway) as error:
            if time.monotonic() > ends:
                words = f"{error}; a worker goes on with it: {export.id}"
                raise CommandError(words) from error
            time.sleep(PAUSE_S)


def moment(text: str) -> datetime:
    """A day or a time; without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no date: expected 2026-01-31 or a time") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
