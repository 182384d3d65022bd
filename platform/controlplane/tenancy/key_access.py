"""Who may look at data keys, and who may have them destroyed.

An organization's are its owners' and the operator's business; a person's the operator's alone. To
everybody else neither exists.
"""

from datetime import datetime

from django.db.models import Q, QuerySet

from compliance.keys import destroying
from compliance.models import DataKey, KeyDestruction
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Conflict, Invalid, NotFound
from controlplane.tenancy.models import Organization, User


def data_keys(principal: Principal) -> QuerySet[DataKey]:
    found = DataKey.objects.exclude(kek="")
    return found if principal.is_operator else found.filter(_mine(principal))


def destructions(principal: Principal) -> QuerySet[KeyDestruction]:
    found = KeyDestruction.objects.all()
    return found if principal.is_operator else found.filter(_mine(principal))


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
