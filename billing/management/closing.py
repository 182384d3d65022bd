"""`stoa billing close 2026-10`: a month's invoices, with its progress."""

import json
import time
from datetime import UTC, datetime

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing.invoices import month_end
from billing.invoices.month_end import Closing

_SAY_EVERY_S = 1.0


def close(command: BaseCommand, month: str, *, show: bool, as_json: bool) -> None:
    """Exit code 1 when an account failed; what is held is said and is no failure."""
    now, start = timezone.now(), month_of(month)
    said = [time.monotonic()]

    def progress(closing: Closing) -> None:
        if time.monotonic() - said[0] >= _SAY_EVERY_S:
            said[0] = time.monotonic()
            command.stderr.write(f"{closing.seen} of {closing.accounts} accounts")

    try:
        found = (
            month_end.state(start, now)
            if show
            else month_end.close_month(start, now, progress=progress)
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    command.stdout.write(json.dumps(found.as_json()) if as_json else _table(found))
    if found.outcomes["failed"]:
        raise CommandError(f"{found.outcomes['failed']} accounts failed: the log says why")


def month_of(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise CommandError(f"{text!r} is no month: 2026-10") from error


def _table(found: Closing) -> str:
    phase = "invoices" if found.final else "drafts: the grace time is not over"
    rows = [f"{found.month}: {phase}; {found.seen} of {found.accounts} accounts"]
    rows += [f"  {count:>7}  {outcome}" for outcome, count in sorted(found.outcomes.items())]
    rows += [f"  {count:>7}    held: {reason}" for reason, count in sorted(found.held.items())]
    return "\n".join(rows)
