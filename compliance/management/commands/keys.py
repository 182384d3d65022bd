"""`stoa keys …`: the key-encryption key that wraps all data keys (docs/keys.md)."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance import audit
from compliance.keys import kms, rotation
from compliance.models import DataKey, KekVersion


class Command(BaseCommand):
    help = "Make, rotate and retire the key-encryption key, and say how it stands."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("init", help="make its first version, where there is none")
        verbs.add_parser("status", help="versions, and data keys by state, as JSON")
        verbs.add_parser("rotate", help="make a version that wraps from now on")
        verbs.add_parser("rewrap", help="move data keys to the newest version now")
        retire = verbs.add_parser("retire", help="destroy a version that wraps nothing any more")
        retire.add_argument("kek", help="as `stoa keys status` names it")

    def handle(self, *_: Any, verb: str, **given: Any) -> None:
        try:
            self.stdout.write(str(getattr(self, f"_{verb}")(**given)))
        except (kms.KmsAway, rotation.Refused) as error:
            raise CommandError(str(error)) from error

    def _init(self, **_: Any) -> str:
        made = rotation.init(now=timezone.now())
        return "made" if made else "there is one already"

    def _status(self, **_: Any) -> str:
        said: dict[str, Any] = {"kms": kms.current().name, "versions": []}
        for version in KekVersion.objects.order_by("created_at"):
            alive = DataKey.objects.filter(kek=version.kek, destroyed_at=None).count()
            times = {
                name: at and audit.stamp(at)
                for name, at in (
                    ("created_at", version.created_at),
                    ("rewrapped_at", version.rewrapped_at),
                    ("retired_at", version.retired_at),
                )
            }
            said["versions"].append({"kek": version.kek, "data_keys": alive, **times})
        said["destroyed"] = DataKey.objects.exclude(destroyed_at=None).count()
        return json.dumps(said, indent=2)

    def _rotate(self, **_: Any) -> str:
        return rotation.rotate(actor=audit.SYSTEM, now=timezone.now())

    def _rewrap(self, **_: Any) -> str:
        done = rotation.rewrap(now=timezone.now())
        return f"{done.done} rewrapped under {done.kek}, {done.left} left"

    def _retire(self, kek: str, **_: Any) -> str:
        rotation.retire(kek=kek, actor=audit.SYSTEM, now=timezone.now())
        return "retired"
