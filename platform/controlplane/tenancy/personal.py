"""Where this room holds data of people and of organizations, and what an erasure does there."""

from collections.abc import Iterable
from datetime import datetime
from functools import reduce
from operator import or_

from django.contrib.sessions.models import Session
from django.db.models import F, Q, Value
from django.db.models.functions import Concat

from billing.models import Customer
from compliance.privacy import stores
from compliance.privacy.stores import ERASED, Found, Outcome, Rows
from compliance.subjects import ORGANIZATION, PERSON, Subject
from controlplane.tenancy import account_stores, data_requests
from controlplane.tenancy.models import (
    ApiKey,
    Membership,
    Notice,
    Organization,
    Project,
    ProjectSecret,
    Role,
    User,
)

USER = "_auth_user_id"


def register() -> None:
    stores.register_known(known)
    stores.register_obstacle(last_owner)
    stores.register(Sessions())
    for store in (*_of_people(), *_of_organizations()):
        stores.register(store)
    account_stores.register()
    data_requests.register()


def known(subject: Subject) -> Iterable[str]:
    """An address; of an organization its name, and who gets its invoices."""
    if subject.kind == PERSON:
        return User.objects.filter(id=subject.id).values_list("email", flat=True)
    found = Organization.objects.filter(id=subject.id).exclude(name__startswith=ERASED)
    names = set(found.values_list("name", flat=True))
    customers = Customer.objects.filter(account__organization=subject.id)
    for row in customers.values_list("legal_name", "contact", "email"):
        names |= {one for one in row if one != ERASED}
    return names


def last_owner(subject: Subject) -> tuple[str, str] | None:
    """An organization has an owner at all times: another one comes first, or it goes as well."""
    if subject.kind != PERSON:
        return None
    owned = Membership.objects.filter(user_id=subject.id, role=Role.OWNER)
    others = Membership.objects.filter(role=Role.OWNER).exclude(user_id=subject.id)
    alone = owned.exclude(organization__in=others.values("organization")).first()
    if alone is None:
        return None
    return (
        "last_owner",
        f"this person is the only owner of {alone.organization_id}: make another one first, or"
        " erase the organization",
    )


class Sessions(stores.Base):
    """Signed-in browsers. What a session holds is encoded, so each is looked into."""

    name, place, order, moves = "tenancy.sessions", "database", 10, True
    tables: tuple[str, ...] = ("django_session",)

    def _keys(self, subject: Subject) -> list[str]:
        sessions = Session.objects.iterator(chunk_size=500)
        return [one.session_key for one in sessions if one.get_decoded().get(USER) == subject.id]

    def find(self, subject: Subject) -> Found:
        count = len(self._keys(subject))
        return Found(count, ("django_session.session_data",) if count else ())

    def erase(self, subject: Subject, now: datetime) -> Outcome:
        found = Session.objects.filter(session_key__in=self._keys(subject))
        return Outcome(stores.DELETE, found.delete()[0])


def _of_people() -> Iterable[Rows]:
    """Keys go on working for whoever holds them: they belong to the organization."""
    yield Rows(
        name="tenancy.api_keys/person",
        model=ApiKey,
        of="created_by",
        action=stores.PSEUDONYMISE,
        put={"name": Concat(Value("key "), F("prefix")), "created_by": ERASED},
    )
    yield Rows(
        name="tenancy.project_secrets/person",
        model=ProjectSecret,
        of="created_by",
        action=stores.PSEUDONYMISE,
        put={"created_by": ERASED},
    )
    yield Rows(name="tenancy.notices/person", model=Notice, of=_told_of)
    yield Rows(
        name="tenancy.notices_closed",
        model=Notice,
        of="closed_by",
        action=stores.PSEUDONYMISE,
        put={"closed_by": ERASED},
    )
    yield Rows(name="tenancy.memberships/person", model=Membership, of="user_id", order=55)
    # Last: by this row the others know whom they are about.
    yield Rows(name="tenancy.users", model=User, of="id", order=60)


def _told_of(id: str) -> Q:
    """Notices about a person, or that name them by their address."""
    about = Q(about_id=id)
    named = [
        Q(**{f"{column}__icontains": value})
        for value in known(Subject(PERSON, id))
        for column in ("subject", "text")
    ]
    return reduce(or_, named, about)


def _of_organizations() -> Iterable[Rows]:
    """Accounts and ids stay: the books name them (`account_stores`)."""
    project = "project__organization_id"
    own: tuple[tuple[str, type[ApiKey | ProjectSecret | Notice | Membership], str, int], ...] = (
        ("api_keys", ApiKey, project, 40),
        ("project_secrets", ProjectSecret, project, 40),
        ("notices", Notice, "organization_id", 40),
        ("memberships", Membership, "organization_id", 55),
    )
    for name, model, of, order in own:
        yield Rows(
            name=f"tenancy.{name}/organization",
            model=model,
            of=of,
            kind=ORGANIZATION,
            order=order,
        )
    nameless = {"name": Concat(Value(f"{ERASED} "), F("id"))}
    yield Rows(
        name="tenancy.projects",
        model=Project,
        of="organization_id",
        kind=ORGANIZATION,
        action=stores.PSEUDONYMISE,
        put=nameless | {"run_policy": None},
        order=56,
    )
    yield Rows(
        name="tenancy.organizations",
        model=Organization,
        of="id",
        kind=ORGANIZATION,
        action=stores.PSEUDONYMISE,
        put=nameless | {"egress": []},
        order=60,
    )
