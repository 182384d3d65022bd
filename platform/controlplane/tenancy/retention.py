"""What ends of the room's rows, and of billing's whose organization this room knows."""

from django.contrib.sessions.models import Session
from django.db.models import Q

from billing.models import RunStop, UsageInbox
from compliance.privacy import retention
from controlplane.tenancy.models import Notice, Project


def register() -> None:
    retention.rows("session", lambda before: Session.objects.filter(expire_date__lt=before))
    retention.rows(
        "notice",
        lambda before: Notice.objects.filter(closed_at__lt=before),
        organization="organization_id",
    )
    # What is set aside, because it could not be booked, stays until somebody has looked.
    retention.rows(
        "request_inbox",
        lambda before: UsageInbox.objects.filter(booked_at__lt=before),
        organization=_by_project,
    )
    # Gateways look back for a day.
    retention.rows(
        "run_stop",
        lambda before: RunStop.objects.filter(at__lt=before),
        organization=_by_project,
    )


def _by_project(organizations: list[str]) -> Q:
    """Rows that know their project alone."""
    projects = Project.objects.filter(organization_id__in=organizations).values_list("id")
    return Q(project_id__in=projects)
