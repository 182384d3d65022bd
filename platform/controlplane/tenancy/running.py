"""Stopping a project's runs from the house; a key of the project does the same at the gateway."""

from datetime import datetime

from django.conf import settings
from django.db import transaction

from billing import pseudonyms
from billing.models import RunStop
from compliance import audit
from controlplane.tenancy.errors import Invalid
from controlplane.tenancy.models import Project


def stop_run(*, actor: audit.Actor, project: Project, run: str, now: datetime) -> RunStop:
    """`run`: its name, or its reference. Raises Invalid."""
    return _say(actor, project, run, now, stopped=True)


def resume_run(*, actor: audit.Actor, project: Project, run: str, now: datetime) -> RunStop:
    """Raises Invalid."""
    return _say(actor, project, run, now, stopped=False)


def _say(
    actor: audit.Actor, project: Project, run: str, now: datetime, *, stopped: bool
) -> RunStop:
    ref = run
    if not pseudonyms.RUN_REF.fullmatch(run):
        if not all(pseudonyms.NAME.fullmatch(name) for name in run.split("/")):
            raise Invalid("this is no name of a run", code="invalid_run", field="run")
        ref = pseudonyms.run(pseudonyms.key(settings.KEY_PEPPER), project.id, run)
    organization = project.organization
    with transaction.atomic():
        row = RunStop.objects.create(project_id=project.id, run=ref, stopped=stopped)
        audit.record(
            actor=actor,
            action="run.stop" if stopped else "run.resume",
            target=audit.Target("run", ref),
            log=organization.id,
            now=now,
            region=organization.region_code,
        )
    return row
