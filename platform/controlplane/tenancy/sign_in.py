"""Signing in and out leaves events: in the log of each of the person's organizations.

Connected to Django's own signals (apps.py), so that no view can forget it.
"""

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction
from django.utils import timezone

from compliance import audit
from controlplane.tenancy.models import Organization, User


def connect() -> None:
    user_logged_in.connect(signed_in, dispatch_uid="tenancy.signed_in")
    user_logged_out.connect(signed_out, dispatch_uid="tenancy.signed_out")
    user_login_failed.connect(refused, dispatch_uid="tenancy.refused")


def signed_in(*, user: User, **_: Any) -> None:
    _record("session.create", audit.Actor("user", user.id, "password"), user)


def signed_out(*, user: User | None, **_: Any) -> None:
    """Without a user there was no session to end."""
    if user is not None:
        _record("session.delete", audit.Actor("user", user.id, "session"), user)


def refused(*, credentials: dict[str, Any], **_: Any) -> None:
    """What was typed as the address is personal; who typed it is unknown."""
    email = str(credentials.get("username") or credentials.get("email") or "")[:254].lower()
    known = User.objects.filter(email=email.strip()).first() if "\0" not in email else None
    _record(
        "session.refuse",
        audit.SYSTEM,
        known,
        outcome="denied",
        reason="inactive" if known and not known.is_active else "bad_credentials",
        personal={"email": email},
    )


def _record(action: str, actor: audit.Actor, user: User | None, **more: Any) -> None:
    logs: list[tuple[str, str]] = []
    if user is not None:
        organizations = Organization.objects.filter(memberships__user=user).order_by("id")
        logs = list(organizations.values_list("id", "region_code"))
    now = timezone.now()
    with transaction.atomic():
        for log, region in logs or [(audit.PLATFORM, "")]:
            audit.record(
                actor=actor,
                action=action,
                target=audit.Target("user", user.id if user else "unknown"),
                log=log,
                region=region,
                now=now,
                **more,
            )
