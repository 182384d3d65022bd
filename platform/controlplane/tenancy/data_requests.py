"""Who may ask about whose data, who answers, and which requests and erasures one sees.

A person asks for themselves; who manages an organization's members asks for one of them, and it is
the organization's to answer; the operator asks for anybody, as a letter or a call came in.
"""

from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from compliance import audit, exports, ids
from compliance.erasure import planning
from compliance.models import Erasure, Export, SubjectRequest
from compliance.privacy.refusals import Refusal
from compliance.privacy.registry import CONTROLLER, PROCESSOR
from compliance.subject_requests import bundle, services
from compliance.subjects import ORGANIZATION, PERSON, PREFIXES, Subject
from controlplane.tenancy import access, notices
from controlplane.tenancy.access import Permission, Principal
from controlplane.tenancy.errors import Forbidden, Invalid, NotFound
from controlplane.tenancy.models import Membership, Organization, User

# A bundle of what is held of a person is of all times: the period says so.
_ALWAYS = timedelta(days=36_500)


def register() -> None:
    services.on_forwarded(_forward)


def ask(
    principal: Principal,
    *,
    type: str,
    now: datetime,
    subject: str = "",
    organization: str = "",
    channel: str = "console",
    received_at: datetime | None = None,
    words: str = "",
) -> SubjectRequest:
    """Raises NotFound, Forbidden, and what `open_request` does."""
    if principal.user_id is None:
        raise NotFound("page")
    subject = subject or ("" if organization else principal.user_id)
    home = None
    if organization:
        home = _home(principal, organization)
        if subject and not Membership.objects.filter(organization=home, user_id=subject).exists():
            raise Invalid("this is no member of the organization", field="subject")
    elif subject != principal.user_id:
        access.operator(principal)
        if not User.objects.filter(id=subject).exists():
            raise Invalid("there is no such person", field="subject")
    else:
        channel, received_at = "console", None
    return services.open_request(
        actor=principal.actor,
        type=type,
        log=home.id if home else audit.PLATFORM,
        region=home.region_code if home else "",
        now=now,
        subject_id=subject,
        role=PROCESSOR if home else CONTROLLER,
        channel=channel,
        received_at=received_at,
        words=words,
    )


def visible(principal: Principal) -> QuerySet[SubjectRequest]:
    """One's own, those of organizations whose members one manages or exports of; the operator's."""
    if principal.user_id is None:
        return SubjectRequest.objects.none()
    if principal.is_operator:
        return SubjectRequest.objects.all()
    needs = {Permission.MANAGE_MEMBERS, Permission.EXPORT}
    seen = [one for one in principal.memberships if needs & principal.permissions(one)]
    return SubjectRequest.objects.filter(Q(subject_id=principal.user_id) | Q(log_id__in=seen))


def find(principal: Principal, id: str) -> SubjectRequest:
    found = visible(principal).filter(id=id).first() if ids.valid(id, "dsr") else None
    if found is None:
        raise NotFound("request")
    return found


def to_answer(principal: Principal, id: str) -> SubjectRequest:
    """A request that it is theirs to answer; whoever asked for themselves only sees it."""
    found = find(principal, id)
    if may_answer(principal, found):
        return found
    raise Forbidden(
        "somebody else answers this request",
        code="needs_manage_members",
        actor=principal.actor,
        organization_id="" if found.log_id == audit.PLATFORM else found.log_id,
    )


def may_answer(principal: Principal, request: SubjectRequest) -> bool:
    if request.role == CONTROLLER:
        return principal.is_operator
    return Permission.MANAGE_MEMBERS in principal.permissions(request.log_id)


def export(principal: Principal, id: str, now: datetime) -> Export:
    """A bundle of what is held of whoever asked: for the person, or the operator once it is known
    who asks. Raises Refusal."""
    request = find(principal, id)
    if principal.user_id != request.subject_id:
        access.operator(principal)
    if request.type not in ("access", "portability") or not request.subject_id:
        raise Refusal("other_type", "a bundle answers access and portability")
    if request.identity not in ("session", "confirmed"):
        raise Refusal("not_identified", "first it has to be known who asks")
    if request.closed_at is not None:
        raise Refusal("closed", "this request is closed")
    return exports.request(
        actor=principal.actor,
        log=audit.PLATFORM,
        kind=bundle.KIND,
        about=request.subject_id,
        profile="full",
        reason=f"request {request.id}",
        start=now - _ALWAYS,
        end=now + timedelta(seconds=1),
        now=now,
    )


def exported(principal: Principal, id: str) -> Export:
    """The newest such bundle. Raises NotFound."""
    request = find(principal, id)
    if principal.user_id != request.subject_id:
        access.operator(principal)
    made = Export.objects.filter(kind=bundle.KIND, about=request.subject_id)
    found = made.filter(created_at__gte=request.received_at).exclude(about="").first()
    if found is None:
        raise NotFound("export")
    return found


def plan_erasure(
    principal: Principal, *, subject: str, now: datetime, request: str = ""
) -> Erasure:
    """Of a person or an organization, by id; the operator's to plan. Raises Refusal."""
    access.operator(principal)
    kinds = {prefix: kind for kind, prefix in PREFIXES.items()}
    kind = kinds.get(subject.partition("_")[0] + "_")
    home = Organization.objects.filter(id=subject).first() if kind == ORGANIZATION else None
    person = kind == PERSON and User.objects.filter(id=subject).exists()
    if not (home or person):
        raise Invalid("there is no such person or organization", field="subject")
    asked = find(principal, request) if request else None
    if asked is not None and (asked.type != "erasure" or asked.subject_id not in ("", subject)):
        raise Invalid("this request is not for that erasure", field="request")
    return planning.plan(
        actor=principal.actor,
        subject=Subject(str(kind), subject),
        log=home.id if home else audit.PLATFORM,
        region=home.region_code if home else "",
        now=now,
        request_id=request,
    )


def erasures(principal: Principal) -> QuerySet[Erasure]:
    """The operator's all, an owner's own organization's."""
    if principal.is_operator:
        return Erasure.objects.all()
    owned = [
        one
        for one in principal.memberships
        if Permission.MANAGE_OWNERS in principal.permissions(one)
    ]
    return Erasure.objects.filter(subject_kind=ORGANIZATION, subject_id__in=owned)


def erasure(principal: Principal, id: str) -> Erasure:
    found = erasures(principal).filter(id=id).first() if ids.valid(id, "ers") else None
    if found is None:
        raise NotFound("erasure")
    return found


def _home(principal: Principal, id: str) -> Organization:
    if principal.is_operator:
        found = Organization.objects.filter(id=id).first()
        if found is None:
            raise Invalid("there is no such organization", field="organization")
        return found
    return access.organization(principal, id, Permission.MANAGE_MEMBERS)


def _forward(request: SubjectRequest, now: datetime) -> None:
    """The tenant answers it: its people are told at once, and see the clock."""
    notices.tell(
        Organization.objects.get(id=request.log_id),
        subject=f"A request of a data subject is yours to answer by {request.due_on}",
        text=(
            f"Request {request.id} ({request.type}) was received on {request.received_at:%Y-%m-%d}."
            " See Requests in the console."
        ),
        about=audit.Target("subject_request", request.id),
        key="forwarded",
        now=now,
    )
