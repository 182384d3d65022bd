"""`stoa evidence vkey | rotate-key | status | succeed`: the key, the logs' state, succession."""

from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance import audit
from compliance.log import checkpoints, handover, signing, succession
from compliance.models import Log

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(verbs: "_SubParsersAction[ArgumentParser]") -> None:
    verbs.add_parser("vkey", help="the log's public key, which verifiers pin")
    verbs.add_parser("status", help="the logs, their sizes and heads")
    rotate = verbs.add_parser("rotate-key", help="announce the key that is to take over")
    rotate.add_argument("--retire", action="store_true", help="a day later: it alone signs")
    succeed = verbs.add_parser("succeed", help="go on in a new log after a restore")
    succeed.add_argument(
        "owner", nargs="?", help="an organization's id, platform or meta; else all refused ones"
    )


def run(command: BaseCommand, verb: str, options: dict[str, Any]) -> None:
    try:
        if verb == "vkey":
            command.stdout.write(signing.vkey())
        elif verb == "status":
            _status(command)
        elif verb == "rotate-key":
            _rotate(command, options["retire"])
        else:
            _succeed(command, options["owner"])
    except (
        signing.SignerAway,
        signing.Refused,
        succession.NothingToSucceed,
        handover.TooEarly,
    ) as error:
        raise CommandError(str(error)) from error


def _rotate(command: BaseCommand, retire: bool) -> None:
    who, now = audit.SYSTEM, timezone.now()
    for owner in handover.untold() if retire else handover.owners():
        command.stdout.write(handover.announce(actor=who, owner=owner, now=now) + f"  {owner}")
    if retire:
        command.stdout.write(handover.retire(actor=who, now=now))


def _status(command: BaseCommand) -> None:
    for log in Log.objects.order_by("owner", "number").iterator():
        head = checkpoints.newest(log.owner) if log.closed_at is None else None
        state = "closed" if log.closed_at else log.refused or "open"
        signed = f"signed {head.size} at {audit.stamp(head.signed_at)}" if head else "-"
        command.stdout.write(f"{log.origin}  {log.size}  {state}  {signed}")


def _succeed(command: BaseCommand, owner: str | None) -> None:
    owners = [owner] if owner else succession.waiting()
    for one in owners:
        made = succession.succeed(one, actor=audit.SYSTEM, now=timezone.now())
        command.stdout.write(f"{made.origin} goes on")
    if not owners:
        command.stdout.write("no head is refused")
