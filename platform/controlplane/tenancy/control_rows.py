"""Who had access to what, for the Annex A pack: of an organization its own, else of all.

Memberships are read from the audit log, which keeps those that ended; a right that was taken away
in March is in the first quarter's list and not in the second's.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Max, Q

from compliance import audit, controls
from compliance.control_tables import held
from compliance.exports import Value
from compliance.models import AuditEvent
from controlplane.tenancy.models import ApiKey, ApiKeySecret, Organization, User

Row = tuple[Value, ...]
RIGHTS = (
    *("membership", "organization", "user", "role", "granted_at", "granted_by", "granted_event"),
    *("ended_at", "ended_by", "ended_event"),
)
IDENTITIES = (
    *("user", "created_at", "active", "operator", "password_set_at", "password_age_days"),
    "second_factor",
)
KEYS = (
    *("key", "organization", "project", "scopes", "created_at", "created_by", "expires_at"),
    *("revoked_at", "secret_set_at", "secret_age_days"),
)
OUTBOUND = ("organization", "region", "destination")
_MEMBERS = ("membership.create", "membership.change_role", "membership.delete")


def register() -> None:
    controls.register(
        *("A.5.15", "A.5.18", "A.8.2"),
        producer="access_rights",
        population="every role that somebody had in an organization at any moment of the period:"
        " one for each membership.create and membership.change_role that no later event of the"
        " same membership had ended before the period began",
        columns=RIGHTS,
        rows=rights,
    )
    controls.register(
        *("A.5.16", "A.5.17", "A.8.2", "A.8.5"),
        producer="identities",
        population="every login made before the end of the period; in an organization's pack of"
        " those who are its members. No second factor exists yet",
        columns=IDENTITIES,
        rows=identities,
    )
    controls.register(
        *("A.5.17", "A.5.18", "A.8.5"),
        producer="api_keys",
        population="every API key that could be used at any moment of the period",
        columns=KEYS,
        rows=keys,
    )
    controls.register(
        *("A.5.14", "A.8.20", "A.8.22", "A.8.23"),
        producer="outbound_destinations",
        population="every destination that an organization's containers may reach, as the lists"
        " stood when this was collected; network_changes has how they came about",
        columns=OUTBOUND,
        rows=outbound,
    )


@dataclass
class _Right:
    membership: str
    organization: str
    user: str
    role: str
    begun: AuditEvent
    ended: AuditEvent | None = None

    def row(self) -> Row:
        begun, ended = self.begun, self.ended
        return (
            *(self.membership, self.organization, self.user, self.role),
            *(begun.recorded_at, begun.actor_id, begun.id),
            *((ended.recorded_at, ended.actor_id, ended.id) if ended else (None, "", "")),
        )


def rights(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    events = AuditEvent.objects.filter(action__in=_MEMBERS, recorded_at__lt=end)
    if log != audit.PLATFORM:
        events = events.filter(log_id=log)
    held_now: dict[str, _Right] = {}
    for event in events.order_by("id").iterator(chunk_size=1_000):
        before = held_now.pop(event.target_id, None)
        if before is not None:
            before.ended = event
            if event.recorded_at > start:
                yield before.row()
        change = _change(event)
        if role := change.get("role"):
            user = change.get("user_id") or (before.user if before else "")
            held_now[event.target_id] = _Right(
                event.target_id, event.log_id, str(user), str(role), event
            )
    for _, right in sorted(held_now.items()):
        yield right.row()


def identities(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    people = User.objects.filter(created_at__lt=end)
    if log != audit.PLATFORM:
        people = people.filter(id__in={row[2] for row in rights(log, start, end)})
    told = AuditEvent.objects.filter(
        log_id=audit.PLATFORM, action="user.set_password", recorded_at__lt=end
    )
    newest = told.order_by().values("target_id").annotate(at=Max("recorded_at"))
    replaced = dict(newest.values_list("target_id", "at"))
    for one in people.order_by("id").iterator():
        at = replaced.get(one.id, one.created_at)
        yield (
            *(one.id, one.created_at, one.is_active, one.is_operator, at, (end - at).days),
            "none",
        )


def keys(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = ApiKey.objects.filter(created_at__lt=end).select_related("project")
    rows = rows.filter(Q(revoked_at=None) | Q(revoked_at__gt=start))
    rows = rows.filter(Q(expires_at=None) | Q(expires_at__gt=start))
    if log != audit.PLATFORM:
        rows = rows.filter(project__organization_id=log)
    secrets = ApiKeySecret.objects.filter(created_at__lt=end).order_by()
    set_at = dict(
        secrets.values("key_id").annotate(at=Max("created_at")).values_list("key_id", "at")
    )
    for one in rows.order_by("id").iterator(chunk_size=1_000):
        at = set_at.get(one.id, one.created_at)
        yield (
            *(one.id, one.project.organization_id, one.project_id, " ".join(one.scopes)),
            *(one.created_at, one.created_by, one.expires_at, held(one.revoked_at, end)),
            *(at, (end - at).days),
        )


def outbound(log: str, start: datetime, end: datetime) -> Iterator[Row]:
    rows = Organization.objects.filter(created_at__lt=end)
    if log != audit.PLATFORM:
        rows = rows.filter(id=log)
    for one in rows.order_by("id").iterator():
        for destination in one.egress:
            yield one.id, one.region_code, destination


def _change(event: AuditEvent) -> dict[str, Any]:
    """Path to the value after it."""
    return {one["path"]: one["to"] for one in json.loads(bytes(event.body)).get("change", ())}
