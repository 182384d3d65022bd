"""`stoa billing sums 2026-10`: the sums of a month's usage, compared with its events."""

from datetime import UTC, datetime

from django.core.management.base import BaseCommand, CommandError

from billing import months
from billing.meters import rollup

_SHOWN = 20


def compare(command: BaseCommand, month: datetime, *, rebuild: bool) -> None:
    """Exit code 1 where they differ; with `rebuild` they are made anew from the events first."""
    start, end = month.astimezone(UTC), months.after(month)
    if rebuild:
        rollup.rebuild(start, end)
    found = rollup.verify(start, end, limit=_SHOWN)
    for one in found:
        (kept, rows), (counted, events) = one.kept, one.counted
        command.stdout.write(
            f"{one.account_id} {one.bucket.isoformat()} {' '.join(map(str, one.key))}:"
            f" {kept} of {rows} events kept, {counted} of {events} counted"
        )
    if found:
        raise CommandError("sums are not those of their events: `--rebuild` makes them anew")
    command.stdout.write(f"{start:%Y-%m}: every sum is that of its events")
