"""Who may look at data keys, and who may have them destroyed.

An organization's are its owners' and the operator's business; a person's the operator's alone. To
everybody else neither exists, but for a list of an organization's: that is evidence.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet

from compliance.keys import destroying, kms
from compliance.models import DataKey, KekVersion, KeyDestruction
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from controlplane.tenancy.models import Organization, User


@dataclass(frozen=True)
class Wrapping:
    """Versions of the key-encryption key, the newest first, each with how many data keys it wraps.

    `newest` wraps from now on, empty where the KMS does not answer; `waiting` data keys, null then,
    are wrapped by another.
    """

    versions: list[tuple[KekVersion, int]]
    newest: str
    waiting: int | None


def data_keys(principal: Principal) -> QuerySet[DataKey]:
    found = DataKey.objects.exclude(kek="")
    return found if principal.is_operator else found.filter(_mine(principal))


def destructions(principal: Principal) -> QuerySet[KeyDestruction]:
    found = KeyDestruction.objects.all()
    return found if principal.is_operator else found.filter(_mine(principal))


def listed(
    principal: Principal, organization_id: str
) -> tuple[QuerySet[DataKey], QuerySet[KeyDestruction]]:
    """An organization's, for whoever may export its evidence. Raises NotFound, Forbidden."""
    home = access.organization(principal, organization_id, Permission.EXPORT)
    of_it = Q(subject_kind=ORGANIZATION, subject_id=home.id)
    keys = DataKey.objects.exclude(kek="").filter(of_it)
    return keys, KeyDestruction.objects.filter(of_it)


def wrapping(principal: Principal) -> Wrapping:
    """For the operator alone. Raises NotFound."""
    access.operator(principal)
    living = DataKey.objects.filter(destroyed_at=None).values_list("kek")
    counts: dict[str, int] = dict(living.annotate(Count("id")).order_by())
    versions = KekVersion.objects.order_by("-created_at", "-kek")
    shown = [(one, counts.get(one.kek, 0)) for one in versions]
    try:
        newest = kms.current().versions()[-1].kek
    except kms.KmsAway:
        return Wrapping(shown, "", None)
    return Wrapping(shown, newest, sum(counts.values()) - counts.get(newest, 0))


def request(
    principal: Principal, *, subject_id: str, reason_code: str, now: datetime
) -> KeyDestruction:
    """Raises NotFound, Invalid, Conflict."""
    subject = _subject(principal, subject_id)
    try:
        return destroying.request(
            actor=principal.actor, subject=subject, reason_code=reason_code, now=now
        )
    except destroying.Refused as error:
        raise _refused(error) from error


def approve(principal: Principal, id: str, *, now: datetime) -> KeyDestruction:
    """Raises NotFound; Conflict for whoever asked, too."""
    found = _one(principal, id)
    try:
        return destroying.approve(actor=principal.actor, destruction=found, now=now)
    except destroying.Refused as error:
        raise _refused(error) from error


def refuse(principal: Principal, id: str, *, now: datetime) -> KeyDestruction:
    found = _one(principal, id)
    try:
        return destroying.refuse(actor=principal.actor, destruction=found, now=now)
    except destroying.Refused as error:
        raise _refused(error) from error


def _mine(principal: Principal) -> Q:
    owned = [
        one
        for one in principal.memberships
        if Permission.MANAGE_OWNERS in principal.permissions(one)
    ]
    return Q(subject_kind=ORGANIZATION, subject_id__in=owned)


def _one(principal: Principal, id: str) -> KeyDestruction:
    found = destructions(principal).filter(id=id).first()
    if found is None:
        raise NotFound("key destruction")
    return found


def _subject(principal: Principal, id: str) -> Subject:
    """One that exists, and is the principal's to decide of."""
    person = principal.is_operator and id.startswith(PREFIXES[PERSON])
    if person and User.objects.filter(id=id).exists():
        return Subject(PERSON, id)
    owner = Permission.MANAGE_OWNERS in principal.permissions(id)
    if (principal.is_operator or owner) and Organization.objects.filter(id=id).exists():
        return Subject(ORGANIZATION, id)
    raise NotFound("subject")


def _refused(error: destroying.Refused) -> Invalid | Conflict:
    if error.field:
        return Invalid(str(error), code=error.code, field=error.field)
    return Conflict(str(error), code=error.code)
