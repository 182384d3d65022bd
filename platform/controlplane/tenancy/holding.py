"""Who may have something held: an owner for the organization and its people, operators for all."""

from datetime import datetime

from compliance import audit
from compliance.models import Hold
from compliance.privacy import holds, records, refusals
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject
from controlplane.tenancy import access
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Invalid, NotFound
from controlplane.tenancy.models import Membership, Organization, User


def place(*, principal: Principal, log: str, subject_id: str, reason: str, now: datetime) -> Hold:
    """A hold that `log` tells of: an organization's, on itself or a member, or the operator's."""
    region = _allowed(principal, log)
    subject = _subject(log, subject_id)
    try:
        return holds.place(
            actor=principal.actor, subject=subject, log=log, reason=reason, now=now, region=region
        )
    except refusals.Wrong as error:
        raise Invalid(error.message, code=error.code, field=error.field) from error


def lift(*, principal: Principal, hold: Hold, reason: str, now: datetime) -> Hold:
    """By those who may place one in the same log."""
    region = _allowed(principal, hold.log)
    try:
        return holds.lift(actor=principal.actor, hold=hold, reason=reason, now=now, region=region)
    except refusals.Wrong as error:
        raise Invalid(error.message, code=error.code, field=error.field) from error


def find(principal: Principal, id: str) -> Hold:
    """One that the principal may read of. Raises NotFound."""
    found = Hold.objects.filter(pk=id).first()
    if found is None:
        raise NotFound("hold")
    try:
        if found.log == audit.PLATFORM:
            access.operator(principal)
        else:
            access.organization(principal, found.log, Permission.EXPORT)
    except NotFound:
        raise NotFound("hold") from None
    return found


def configure(
    *,
    principal: Principal,
    scope: str,
    part: str,
    now: datetime,
    name: str = "",
    address: str = "",
    email: str = "",
    phone: str = "",
) -> None:
    """Who answers for processing, as `records.configure` keeps it."""
    region = _allowed(principal, scope)
    try:
        records.configure(
            actor=principal.actor,
            scope=scope,
            part=part,
            name=name,
            address=address,
            email=email,
            phone=phone,
            now=now,
            region=region,
        )
    except refusals.Wrong as error:
        raise Invalid(error.message, code=error.code, field=error.field) from error


def _allowed(principal: Principal, log: str) -> str:
    """The region that events of it name."""
    if log == audit.PLATFORM:
        access.operator(principal)
        return ""
    return access.organization(principal, log, Permission.MANAGE_OWNERS).region_code


def _subject(log: str, id: str) -> Subject:
    kind = next((kind for kind, prefix in PREFIXES.items() if id.startswith(prefix)), "")
    if log == audit.PLATFORM:
        rows = {ORGANIZATION: Organization.objects, PERSON: User.objects}.get(kind)
        known = rows is not None and rows.filter(pk=id).exists()
    elif kind == PERSON:
        known = Membership.objects.filter(organization_id=log, user_id=id).exists()
    else:
        known = id == log
    if not known:
        raise Invalid("no such person or organization here", field="subject")
    return Subject(kind, id)
