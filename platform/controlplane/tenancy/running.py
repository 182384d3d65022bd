"""A project's runs: what they are called, and stopping them from the house, as a key of the
project does at the gateway."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from billing import pseudonyms
from billing.models import RunStop
from compliance import audit
from controlplane.tenancy import events
from controlplane.tenancy.errors import Invalid
from controlplane.tenancy.models import Project

STOPPED_FOR = timedelta(days=1)  # gateways refuse a stopped run for so long


def reference(project: Project, run: str) -> str:
    """What a run is called in usage; `run` is its name, or that. Raises Invalid."""
    if pseudonyms.RUN_REF.fullmatch(run):
        return run
    if not all(pseudonyms.NAME.fullmatch(name) for name in run.split("/")):
        raise Invalid("this is no name of a run", code="invalid_run", field="run")
    return pseudonyms.run(pseudonyms.key(settings.KEY_PEPPER), project.id, run)


def agent(project: Project, name: str) -> str:
    """What an agent is called in usage. Raises Invalid."""
    if not pseudonyms.NAME.fullmatch(name):
        raise Invalid("this is no name of an agent", code="invalid_agent", field="agents")
    return pseudonyms.agent(pseudonyms.key(settings.KEY_PEPPER), project.id, name)


def stop_run(*, actor: audit.Actor, project: Project, run: str, now: datetime) -> RunStop:
    """`run`: its name, or its reference. Raises Invalid."""
    return _say(actor, project, run, now, stopped=True)


def resume_run(*, actor: audit.Actor, project: Project, run: str, now: datetime) -> RunStop:
    """Raises Invalid."""
    return _say(actor, project, run, now, stopped=False)


def stopped_at(project: Project, runs: Sequence[str], now: datetime) -> datetime | None:
    """Since when gateways refuse any of `runs`, references; None where they do not."""
    rows = RunStop.objects.filter(project_id=project.id, run__in=runs, at__gte=now - STOPPED_FOR)
    last = {row.run: row for row in rows.order_by("id")}
    return min((row.at for row in last.values() if row.stopped), default=None)


def _say(
    actor: audit.Actor, project: Project, run: str, now: datetime, *, stopped: bool
) -> RunStop:
    ref = reference(project, run)
    with transaction.atomic():
        row = RunStop.objects.create(project_id=project.id, run=ref, stopped=stopped)
        action = "run.stop" if stopped else "run.resume"
        events.record(project, audit.Target("run", ref), action, actor=actor, now=now)
    return row
