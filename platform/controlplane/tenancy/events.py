"""What a verb on something of a project leaves in its organization's log."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from compliance import audit
from controlplane.tenancy.models import Project


def record(
    project: Project,
    target: audit.Target,
    action: str,
    *,
    actor: audit.Actor,
    now: datetime,
    change: Iterable[audit.Change] = (),
    personal: Mapping[str, str] | None = None,
) -> None:
    """In the verb's own transaction, as `audit.record` has it."""
    organization = project.organization
    audit.record(
        actor=actor,
        action=action,
        target=target,
        log=organization.id,
        region=organization.region_code,
        now=now,
        change=change,
        personal=personal,
    )
