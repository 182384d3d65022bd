"""`stoa billing archive` and `stoa billing advances`: what is due or waits, and doing it."""

import json
from dataclasses import asdict

from django.core.management.base import BaseCommand
from django.utils import timezone

from billing.credit import advances
from billing.invoices import archive
from billing.models import TopUpDecision
from compliance import audit


def archived(command: BaseCommand, *, destroy: bool, as_json: bool) -> None:
    """List what may be destroyed; with `destroy`, invoice by invoice, delete it."""
    now = timezone.now()
    found = archive.due(now)
    if as_json:
        command.stdout.write(json.dumps([asdict(one) for one in found], default=str))
    for one in found:
        if not as_json:
            forms = ", ".join(one.forms)
            command.stdout.write(f"{one.kept_until}  {one.label}  {forms}  {one.size} bytes")
        if destroy:
            archive.destroy(one.invoice_id, actor=audit.SYSTEM, now=now)
    if not as_json:
        done = "destroyed" if destroy else "may be destroyed"
        command.stdout.write(f"files of {len(found)} invoices {done}")


def advanced(command: BaseCommand, *, show: bool) -> None:
    """Decide the top-ups that wait, and say which of them still do."""
    now = timezone.now()
    if not show:
        for name, count in sorted(advances.tend(now).items()):
            command.stdout.write(f"{count:>7}  {name}")
    for row in TopUpDecision.objects.filter(decided_at=None).order_by("due_on", "id"):
        command.stdout.write(f"{row.due_on}  {row.grant_id}  {row.held_reason}: {row.because}")
