"""`stoa evidence receipt REQUEST`: the receipt of a request, as the API answers it."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance import audit
from compliance.log import signing
from compliance.management import verbs
from controlplane.residency import receipts
from controlplane.tenancy.models import Project


def register() -> None:
    said = "sign where a request was processed; `verify FILE` checks it"
    verbs.verbs["receipt"] = verbs.Verb(said, arguments, run)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("request", help="its id: req_…, brq_…")
    parser.add_argument("--out", type=Path, help="the file to write; else standard output")


def run(command: BaseCommand, options: dict[str, Any]) -> None:
    asked = options["request"]
    rows = Project.objects.select_related("organization")
    project = rows.filter(id=receipts.project_of(asked)).first()
    if project is None:
        raise CommandError(f"no such request: {asked}")
    try:
        made = receipts.issue(
            actor=audit.SYSTEM, project=project, request_id=asked, now=timezone.now()
        )
        text = json.dumps(receipts.answer(asked, made), indent=1)
    except (receipts.NotYet, signing.SignerAway, signing.Refused) as error:
        raise CommandError(str(error)) from error
    if options["out"]:
        options["out"].write_text(f"{text}\n")
    else:
        command.stdout.write(text)
