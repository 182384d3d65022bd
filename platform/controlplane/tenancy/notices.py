"""What the operator has to say to a tenant: shown in the organization's console and API until one
of its people closes it.

`about` and `key` make telling idempotent: a sweep that runs again tells nobody twice.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from compliance import audit
from controlplane.tenancy.models import Notice, Organization

SUBJECT_MAX, TEXT_MAX = 120, 2000


def tell(
    organization: Organization,
    *,
    subject: str,
    text: str,
    about: audit.Target,
    key: str,
    now: datetime,
    actor: audit.Actor = audit.SYSTEM,
) -> Notice:
    """Tell an organization of `about`; the same again where `key` of it was told already."""
    with transaction.atomic():
        notice, told = Notice.objects.get_or_create(
            organization=organization,
            about_type=about.type,
            about_id=about.id,
            key=key,
            defaults={
                "subject": subject[:SUBJECT_MAX],
                "text": text[:TEXT_MAX],
                "created_at": now,
            },
        )
        if told:
            change = [audit.Change("about", None, about.id), audit.Change("key", None, key)]
            _record(notice, "notice.create", actor, now, change)
    return notice


def close(*, actor: audit.Actor, notice: Notice, now: datetime) -> Notice:
    """It was read and is shown no more. Closing it again changes nothing."""
    with transaction.atomic():
        notice = Notice.objects.select_related("organization").select_for_update().get(pk=notice.pk)
        if notice.closed_at is None:
            notice.closed_at, notice.closed_by = now, actor.id
            notice.save(update_fields=["closed_at", "closed_by"])
            _record(notice, "notice.close", actor, now)
    return notice


def withdraw(*, actor: audit.Actor, about: audit.Target, key: str, now: datetime) -> int:
    """What was told of `about` no longer holds: it is closed for everybody; for how many."""
    rows = Notice.objects.filter(
        about_type=about.type, about_id=about.id, key=key, closed_at=None
    ).order_by("id")
    return sum(close(actor=actor, notice=one, now=now).closed_at == now for one in rows)


def open_of(organization: Organization, limit: int = 5) -> list[Notice]:
    """The newest that nobody has closed."""
    return list(Notice.objects.filter(organization=organization, closed_at=None)[:limit])


def _record(
    notice: Notice,
    action: str,
    actor: audit.Actor,
    now: datetime,
    change: Iterable[audit.Change] = (),
) -> None:
    audit.record(
        actor=actor,
        action=action,
        target=audit.Target("notice", notice.id),
        log=notice.organization_id,
        region=notice.organization.region_code,
        now=now,
        change=change,
    )
