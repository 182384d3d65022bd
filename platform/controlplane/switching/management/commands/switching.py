"""manage.py switching: an organization comes in from another installation.

    switching import BUNDLE --vkey KEY --region CODE [--name NAME] [--pool THEIRS=OURS …]
    switching register                     what can be taken along, as the public page has it

BUNDLE is what `stoa evidence export switching --profile full` made elsewhere, KEY that
installation's. Nothing is made unless all of the bundle holds; the same one again makes nothing.
"""

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance import audit
from controlplane.switching import register, taking
from controlplane.switching.models import SwitchingImport
from controlplane.tenancy.errors import TenancyError


class Command(BaseCommand):
    help = "An organization's bundle of another installation, taken over."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        take = verbs.add_parser("import", help="make what a bundle has, once")
        take.add_argument("bundle", type=Path)
        take.add_argument("--vkey", action="append", required=True, help="who signed it")
        take.add_argument("--region", required=True, help="where it is to live")
        take.add_argument("--name", default="", help="of the organization; as it was called")
        take.add_argument(
            "--pool",
            action="append",
            default=[],
            metavar="THEIRS=OURS",
            help="for their pool, ours",
        )
        take.add_argument("--json", action="store_true", help="for programs")
        verbs.add_parser("register", help="data structures and formats, as JSON")

    def handle(self, *_: Any, verb: str, **options: Any) -> None:
        if verb == "register":
            self.stdout.write(register.content().decode(), ending="")
            return
        pools = dict(one.partition("=")[::2] for one in options["pool"])
        choice = taking.Choice(options["region"], options["name"], pools)
        try:
            with options["bundle"].open("rb") as file:
                done = taking.come_in(
                    file,
                    options["vkey"],
                    actor=audit.SYSTEM,
                    choice=choice,
                    now=timezone.now(),
                )
        except TenancyError as error:
            raise CommandError(f"{error.message} ({error.code})") from error
        except OSError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps(_told(done), indent=1) if options["json"] else _text(done))
        sys.stdout.flush()


def _told(done: SwitchingImport) -> dict[str, Any]:
    return {
        "id": done.id,
        "organization": done.organization_id,
        "bundle": done.bundle_id,
        "bundle_sha256": done.bundle_sha256,
        "origin": done.origin,
        "counts": done.counts,
        "notes": done.notes,
        "ids": done.ids,
    }


def _text(done: SwitchingImport) -> str:
    said = [f"{done.organization_id} came in from {done.bundle_id} of {done.origin} ({done.id})"]
    said += [f"  {count:6} {name.replace('_', ' ')}" for name, count in done.counts.items()]
    if done.notes:
        said.append("What needs a hand, or stayed behind:")
    for note in done.notes:
        what = " ".join(filter(None, (note["resource"], note["name"] or note["id"])))
        said.append(f"  {what} [{note['code']}] {note['text']}")
    kinds = Counter(note["code"] for note in done.notes)
    said.append(", ".join(f"{count} {code}" for code, count in sorted(kinds.items())))
    return "\n".join(said)
