"""`stoa evidence …`: the public key, the state of the logs, and succession after a restore."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from compliance import audit
from compliance.log import checkpoints, signing, succession
from compliance.models import Log


class Command(BaseCommand):
    help = "The logs: `vkey`, `status`, `succeed [OWNER]`; `verify BUNDLE` needs no installation."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=("vkey", "status", "succeed"))
        parser.add_argument(
            "owner", nargs="?", help="an organization's id, platform or meta; else all refused ones"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["what"] == "vkey":
                self.stdout.write(signing.vkey())
            elif options["what"] == "status":
                self._status()
            else:
                self._succeed(options["owner"])
        except (signing.SignerAway, signing.Refused, succession.NothingToSucceed) as error:
            raise CommandError(str(error)) from error

    def _status(self) -> None:
        for log in Log.objects.order_by("owner", "number").iterator():
            head = checkpoints.newest(log.owner) if log.closed_at is None else None
            state = "closed" if log.closed_at else log.refused or "open"
            signed = f"signed {head.size} at {audit.stamp(head.signed_at)}" if head else "-"
            self.stdout.write(f"{log.origin}  {log.size}  {state}  {signed}")

    def _succeed(self, owner: str | None) -> None:
        owners = [owner] if owner else succession.waiting()
        for one in owners:
            made = succession.succeed(one, actor=audit.SYSTEM, now=timezone.now())
            self.stdout.write(f"{made.origin} goes on")
        if not owners:
            self.stdout.write("no head is refused")
